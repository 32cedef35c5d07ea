"""Images from a WebDataset tar through DALI, on the host or on the GPU; what is random comes from choices.py.

DALI's random generators are never asked, so there is no state of DALI's to save: a batch follows from its keys.

Its decoder gives the pixels of Pillow to the bit (2.4, on the host), crops included, as long as `use_fast_idct` is off,
as it is by default; on, they differ by 1.2 levels on average. On the GPU chroma is alike with `jpeg_fancy_upsampling`.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import islice

import numpy as np
import torch
from nvidia.dali import Pipeline, fn, pipeline_def
from nvidia.dali.data_node import DataNode
from nvidia.dali.types import DALIDataType, DALIImageType
from nvidia.nvimgcodec import CodeStream
from torch import Tensor

from fastlt.dataset.encoded import EncodedDataset
from fastlt.dataset.images import BrokenImageError, read_image
from fastlt.loaders.choices import Choices
from fastlt.loaders.dali.operations import augment, layer_inputs
from fastlt.loaders.dali.resize import resize
from fastlt.loaders.sample_keys import split_keys
from fastlt.loaders.transform import Transform

_QUEUE = 3  # runs that DALI works on; one of them is the one that is waited for
_PIXELS = 2**22  # of a run, at least: starting its operators takes as long as they take for 90 images of 64 px


class DALIImages:
    """Reads the images of a split that was encoded with `--format webdataset`."""

    def __init__(
        self,
        data: EncodedDataset,
        split: str,
        transform: Transform,
        batch_size: int,
        workers: int,
        device: torch.device | None = None,
    ) -> None:
        """Decodes on `device` where it is a GPU, else on `workers` threads.

        Raises:
            ValueError: the index does not match the manifest, or the transform is not to be had here.
        """
        self._names, self._transform, self._max_pixels = data.image_names(split), transform, data.max_pixels
        self._choices = Choices.of(transform)
        self._tar = np.memmap(data.file(split), np.uint8, mode="c")  # DALI takes no read-only memory
        self._places = np.array([name.rpartition("#")[2].split("+") for name in self._names], dtype=np.int64)
        self._batches_a_run = math.ceil(_PIXELS / transform.size**2 / batch_size)
        self._settings = {
            "batch_size": batch_size * self._batches_a_run,
            "num_threads": max(workers, 1),
            "device_id": _gpu(device),
            "prefetch_queue_depth": _QUEUE,
        }
        self._pipeline: Pipeline | None = None
        self._ended = True  # whether DALI has nothing to do
        self._keys: Iterator[list[np.ndarray]] = iter(())  # of the batches of a run
        self._at_work: deque[tuple[np.ndarray, list[int], tuple]] = deque()  # inputs last, which DALI does not copy

    def batches(self, keys: Iterable[np.ndarray]) -> Iterator[Tensor]:
        """See `ImageReader`; channels last in memory."""
        self._keys = iter(())
        while not self._ended:  # what nobody waits for any more
            with suppress(ValueError):
                self._next()
        self._keys, self._ended = _runs(keys, self._batches_a_run), False
        still_valid: deque[Tensor] = deque(maxlen=2)
        while (run := self._next()) is not None:
            images, sizes = run
            still_valid.append(images)
            yield from images.split(sizes)

    def _next(self) -> tuple[Tensor, list[int]] | None:
        """The images of the next run and the sizes of its batches, with others begun behind it; None after the last."""
        if self._pipeline is None:
            size, fill, layers = self._transform.size, self._transform.fill, self._choices.num_layers
            self._pipeline = _pipeline(
                self._inputs, size, fill, layers if self._transform.train else 0, **self._settings
            )
        try:
            (images,) = self._pipeline.run()
        except StopIteration:
            self._pipeline.reset()
            self._ended = True
            return None
        except Exception as error:
            suspects = [index for indices, _, _ in self._at_work for index in indices]
            self._pipeline, self._ended = None, True  # DALI does not go on after an error
            self._at_work.clear()
            raise ValueError(self._diagnosis(suspects, error)) from error
        _, sizes, _ = self._at_work.popleft()
        return torch.from_dlpack(images.as_tensor()).permute(0, 3, 1, 2), sizes

    def _inputs(self) -> tuple:
        """What DALI asks for at the start of each run, in the order of `_pipeline`."""
        batches = next(self._keys)
        keys = np.concatenate(batches)
        indices = split_keys(keys)[1]
        files = [self._tar[start : start + size] for start, size in self._places[indices]]
        sizes = np.array([self._image_size(index, file) for index, file in zip(indices, files, strict=True)])
        inputs = (files, *(self._train(keys, sizes) if self._transform.train else self._evaluate(sizes)))
        self._at_work.append((indices, [len(batch) for batch in batches], inputs))
        return inputs

    def _image_size(self, index: int, file: np.ndarray) -> tuple[int, int]:
        try:
            header = CodeStream(file)
            if header.codec_name != "jpeg":  # as encode writes; DALI would also read what no other reader opens
                raise ValueError("it is not a JPEG")
            if header.height * header.width > self._max_pixels:
                raise ValueError(f"it has {header.width:,} x {header.height:,} pixels")
            return header.height, header.width
        except Exception as error:
            raise BrokenImageError(f"sample {index} is a broken image {self._names[index]}: {error}.") from None

    def _train(self, keys: np.ndarray, sizes: np.ndarray) -> Iterator[np.ndarray]:
        size = self._transform.size
        crops, flips, operations, arguments = self._choices.of_batch(keys, sizes)
        placed = np.zeros((len(keys), 6))
        placed[:, :2], placed[:, 5] = size, flips
        yield from (_int32(crops[:, :2]), _int32(crops[:, 2:]), _int32(placed))
        for layer in range(self._choices.num_layers):
            yield from layer_inputs(operations[:, layer], arguments[:, layer], size)

    def _evaluate(self, sizes: np.ndarray) -> Iterator[np.ndarray]:
        # As torchvision's Resize and CenterCrop round.
        size = self._transform.size
        resized = math.floor(size / self._transform.crop_pct) * sizes // sizes.min(axis=1, keepdims=True)
        placed = np.concatenate([resized, np.round((resized - size) / 2), np.zeros_like(sizes)], axis=1)
        yield from (_int32(np.zeros_like(sizes)), _int32(sizes), _int32(placed))

    def _diagnosis(self, suspects: list[int], error: Exception) -> str:
        if isinstance(error, BrokenImageError):
            return str(error)
        for index in suspects:
            try:
                read_image(self._names[index], self._max_pixels)
            except BrokenImageError as broken:
                return f"sample {index} is a {broken}"
        return f"DALI cannot read one of {', '.join(self._names[index] for index in suspects)}: {error}"


def _runs(keys: Iterable[np.ndarray], batches: int) -> Iterator[list[np.ndarray]]:
    """So many batches at a time, and what is left at the end."""
    left = iter(keys)
    while run := list(islice(left, batches)):
        yield run


def _gpu(device: torch.device | None) -> int | None:
    """The number that DALI knows the device by; None for the host."""
    if device is None or device.type != "cuda":
        return None
    return torch.cuda.current_device() if device.index is None else device.index


def _int32(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array, np.int32)


@pipeline_def(enable_conditionals=True)
def _pipeline(inputs: Callable[[], tuple], size: int, fill: tuple[int, int, int], layers: int) -> DataNode:
    """Decodes a window of each file, resizes it and applies the layers: uint8 HWC."""
    files, start, shape, placed, *rest = fn.external_source(
        inputs,
        num_outputs=4 + 4 * layers,
        dtype=[DALIDataType.UINT8, DALIDataType.INT32, DALIDataType.INT32, DALIDataType.INT32]
        + layers * [DALIDataType.INT32, DALIDataType.UINT8, DALIDataType.FLOAT, DALIDataType.FLOAT],
        ndim=[1, 1, 1, 1] + layers * [0, 0, 0, 2],
        no_copy=True,
    )
    images = fn.decoders.image_slice(
        files,
        device="cpu" if Pipeline.current().device_id is None else "mixed",
        start=start,
        shape=shape,
        axis_names="HW",
        output_type=DALIImageType.RGB,
        jpeg_fancy_upsampling=True,
    )
    images = resize(images, shape, placed, size)
    for layer in range(layers):
        images = augment(images, rest[4 * layer : 4 * layer + 4], fill)
    return fn.copy(images) if layers else images  # in one piece again
