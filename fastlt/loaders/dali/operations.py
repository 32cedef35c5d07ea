"""RandAugment and color jitter in DALI: timm's operations, on either device.

Written anew where `nvidia.dali.auto_aug` means something else (its equalize leaves out the darkest level where Pillow
leaves out the brightest, and so darkens what has a white background; its sharpness has another border; its posterize
keeps a bit where timm keeps none) or is slow on the CPU (color, contrast, solarize, warps: 2 to 10 times as long).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from nvidia.dali import fn, math
from nvidia.dali.auto_aug.core import select
from nvidia.dali.data_node import DataNode
from nvidia.dali.types import Constant, DALIDataType, DALIImageType, DALIInterpType

from fastlt.loaders.choices import (
    AUTO_CONTRAST,
    BRIGHTNESS,
    COLOR,
    CONTRAST,
    EQUALIZE,
    INVERT,
    OPERATIONS,
    POSTERIZE,
    ROTATE,
    SHARPNESS,
    SHEAR_X,
    SHEAR_Y,
    SOLARIZE,
    SOLARIZE_ADD,
    TRANSLATE_X,
    TRANSLATE_Y,
)

_SMOOTH = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], dtype=np.float32) / 13  # PIL.ImageFilter.SMOOTH
_IDENTITY = np.array([[0, 0, 0], [0, 1, 0], [0, 0, 0]], dtype=np.float32)
_CUT = -0.499 / 255  # Pillow cuts where DALI rounds


def layer_inputs(operations: np.ndarray, arguments: np.ndarray, size: int) -> tuple[np.ndarray, ...]:
    """What `augment` takes for one layer of a batch, given what choices.py says of it.

    Args:
        operations: int64 [B], places in `OPERATIONS`, or `NOTHING`.
        arguments: float64 [B], what timm's functions take.
        size: H = W of the images.

    Returns:
        (branch int32 [B], level uint8 [B], factor float32 [B], matrix float32 [B, 3, 3] from output to input pixels).
    """
    branch = _BRANCH_OF[operations]
    branch[(operations == SOLARIZE) & (arguments > 255)] = _BRANCHES.index(_nothing)
    level = arguments.copy()
    keeping = operations == POSTERIZE
    level[keeping] = 256 - 2 ** (8 - arguments[keeping])  # the bits that are kept
    level = np.where((operations >= POSTERIZE) & (operations <= SOLARIZE_ADD), level, 0).clip(0, 255)
    return branch, level.astype(np.uint8), arguments.astype(np.float32), _matrices(operations, arguments, size)


def _matrices(operations: np.ndarray, arguments: np.ndarray, size: int) -> np.ndarray:
    matrix = np.tile(np.eye(3), (len(operations), 1, 1))
    radians = np.deg2rad(np.where(operations == ROTATE, arguments, 0))
    cos, sin, center = np.cos(radians), np.sin(radians), size / 2
    matrix[:, 0, 0] = matrix[:, 1, 1] = cos
    matrix[:, 0, 1], matrix[:, 1, 0] = -sin, sin
    matrix[:, 0, 2], matrix[:, 1, 2] = center * (1 - cos + sin), center * (1 - cos - sin)
    for operation, row, column, scale in (
        (SHEAR_X, 0, 1, 1), (SHEAR_Y, 1, 0, 1), (TRANSLATE_X, 0, 2, size), (TRANSLATE_Y, 1, 2, size)
    ):  # fmt: skip
        chosen = operations == operation
        matrix[chosen, row, column] = scale * arguments[chosen]
    return matrix.astype(np.float32)


def augment(images: DataNode, inputs: Sequence[DataNode], fill: tuple[int, int, int]) -> DataNode:
    """One layer over uint8 HWC images, inside a pipeline with conditionals.

    Args:
        images: on either device.
        inputs: what `layer_inputs` returns, on the host.
        fill: of what is empty where an image is turned or moved.
    """
    branch, level, factor, matrix = inputs
    return select(_BRANCHES, branch, images, level=level, factor=factor, matrix=matrix, fill=fill)


def _nothing(images, **_):
    return images


def _warp(images, matrix, fill, **_):
    # Not fn.warp_affine, which is bilinear only, and slow on the CPU.
    return fn.experimental.warp_perspective(
        images, matrix=matrix, fill_value=list(map(float, fill)), interp_type=DALIInterpType.INTERP_CUBIC
    )


def _auto_contrast(images, **_):
    darkest = _extreme(fn.reductions.min, images)
    range = _extreme(fn.reductions.max, images) - darkest
    flat = fn.cast(range == 0, dtype=DALIDataType.FLOAT)  # stays as it is
    return fn.crop_mirror_normalize(
        images,
        mean=darkest * (1 - flat),
        std=(range + 255 * flat) / 255,
        shift=255 * _CUT,
        dtype=DALIDataType.UINT8,
        output_layout="HWC",
    )


def _extreme(reduction, images):
    return fn.cast(reduction(images, axis_names="HW"), dtype=DALIDataType.FLOAT).cpu()


def _equalize(images, **_):
    # DALI's leaves out the first level that there is, Pillow's the last: the same, turned around.
    return _invert(fn.equalize(_invert(images)))


def _invert(images, **_):
    return images ^ Constant(255, dtype=DALIDataType.UINT8)


def _posterize(images, level, **_):
    return images & _beside(images, level)


def _solarize(images, level, **_):
    return images ^ ((images >= _beside(images, level)) * Constant(255, dtype=DALIDataType.UINT8))


def _solarize_add(images, level, **_):
    return images + (images < Constant(128, dtype=DALIDataType.UINT8)) * _beside(images, level)


def _color(images, factor, **_):
    gray = fn.color_space_conversion(_gray(images), image_type=DALIImageType.GRAY, output_type=DALIImageType.RGB)
    real = DALIDataType.FLOAT
    colored = fn.brightness_contrast(images, brightness=factor, brightness_shift=_CUT, dtype=real)
    colored += fn.brightness_contrast(gray, brightness=1 - factor, dtype=real)
    return fn.cast(colored, dtype=DALIDataType.UINT8)


def _contrast(images, factor, **_):
    mean = math.floor(fn.reductions.mean(_gray(images)) + 0.5).cpu()
    return fn.brightness_contrast(images, contrast=factor, contrast_center=mean, brightness_shift=_CUT)


def _brightness(images, factor, **_):
    return fn.brightness_contrast(images, brightness=factor, brightness_shift=_CUT)


def _sharpness(images, factor, **_):
    kernel = factor * _IDENTITY + (1 - factor) * _SMOOTH
    inner = fn.filter(images, _beside(images, kernel), mode="valid")
    rows = fn.cat(images[1:-1, :1], inner, images[1:-1, -1:], axis_name="W")
    return fn.cat(images[:1], rows, images[-1:], axis_name="H")  # Pillow's border stays as it is


def _gray(images):
    return fn.color_space_conversion(images, image_type=DALIImageType.RGB, output_type=DALIImageType.GRAY)


def _beside(images: DataNode, argument: DataNode) -> DataNode:
    """The argument on the device where the images are."""
    return argument.gpu() if images.device == "gpu" else argument


_OPERATION = {
    AUTO_CONTRAST: _auto_contrast,
    EQUALIZE: _equalize,
    INVERT: _invert,
    POSTERIZE: _posterize,
    SOLARIZE: _solarize,
    SOLARIZE_ADD: _solarize_add,
    COLOR: _color,
    CONTRAST: _contrast,
    BRIGHTNESS: _brightness,
    SHARPNESS: _sharpness,
}
_BRANCHES: list[Any] = [_warp, _nothing, *_OPERATION.values()]
# The place in _BRANCHES of each operation, and at the end that of NOTHING, which is -1.
_BRANCH_OF = np.array(
    [_BRANCHES.index(_OPERATION.get(operation, _warp)) for operation in range(len(OPERATIONS))]
    + [_BRANCHES.index(_nothing)],
    dtype=np.int32,
)
