"""RandAugment's operations on the pixels of one image, compiled: what timm has Pillow do, to the level or nearly.

Images are uint8 [H, W, 3]. Sources are named by Pillow's function; timm's `auto_augment.py` says what calls it.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from fastlt.loaders.choices import (
    AUTO_CONTRAST,
    BRIGHTNESS,
    COLOR,
    CONTRAST,
    EQUALIZE,
    INVERT,
    NOTHING,
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

_LUMA = (19595, 38470, 7471)  # of 65536: what Pillow's convert("L") takes of red, green and blue


@njit(nogil=True, cache=True)
def apply_operations(image, operations, arguments, fill, scratch):
    """Does the operations of `choices.augmentations` in place.

    Args:
        image: uint8 [H, W, 3].
        operations, arguments: int64 [N] and float64 [N].
        fill: uint8 [3], of what a moved image leaves empty.
        scratch: uint8 [H, W, 3], overwritten.
    """
    for operation, argument in zip(operations, arguments):  # noqa: B905, numba has no strict
        if operation == NOTHING:
            continue
        if operation in (COLOR, SHARPNESS):
            if operation == COLOR:
                _gray(image, scratch)
            else:
                _smooth(image, scratch)
            _blend(scratch, image, argument)
        elif operation == ROTATE or operation >= SHEAR_X:
            _move(image, operation, argument, fill, scratch)
            image[:] = scratch
        else:
            _look_up(image, _tables(image, operation, argument))


@njit(nogil=True, cache=True)
def _look_up(image, tables):
    """Replaces each level by that of its channel's table; tables uint8 [3, 256]."""
    red, green, blue = tables[0], tables[1], tables[2]
    for y in range(image.shape[0]):
        for x in range(image.shape[1]):
            image[y, x, 0] = red[image[y, x, 0]]
            image[y, x, 1] = green[image[y, x, 1]]
            image[y, x, 2] = blue[image[y, x, 2]]


@njit(nogil=True, cache=True)
def _tables(image, operation, argument):
    """The operations that are a table of levels for each channel: uint8 [3, 256]."""
    tables = np.empty((3, 256), np.uint8)
    if operation in (AUTO_CONTRAST, EQUALIZE):
        histograms = np.zeros((3, 256), np.int64)
        for y in range(image.shape[0]):
            for x in range(image.shape[1]):
                for c in range(3):
                    histograms[c, image[y, x, c]] += 1
        for c in range(3):
            if operation == EQUALIZE:
                _equalize(histograms[c], tables[c])
            else:
                _auto_contrast(histograms[c], tables[c])
        return tables
    if operation == CONTRAST:
        middle = _mean_luma(image)
    for level in range(256):
        new = level
        if operation == INVERT:
            new = 255 - level
        elif operation == POSTERIZE:  # ImageOps.posterize
            new = level & ~((1 << (8 - int(argument))) - 1) if argument < 8 else level
        elif operation == SOLARIZE:
            new = level if level < argument else 255 - level
        elif operation == SOLARIZE_ADD:
            new = min(255, level + int(argument)) if level < 128 else level
        elif operation == BRIGHTNESS:
            new = _blended(0, level, np.float32(argument))
        elif operation == CONTRAST:
            new = _blended(middle, level, np.float32(argument))
        tables[:, level] = new
    return tables


@njit(nogil=True, cache=True)
def _auto_contrast(histogram, table):
    """ImageOps.autocontrast: the lowest level becomes 0, the highest 255."""
    low, high = 0, 255
    while low < 255 and histogram[low] == 0:
        low += 1
    while high > 0 and histogram[high] == 0:
        high -= 1
    for level in range(256):
        if high <= low:
            table[level] = level
        else:
            scale = 255.0 / (high - low)
            table[level] = min(255, max(0, int(level * scale + -low * scale)))


@njit(nogil=True, cache=True)
def _equalize(histogram, table):
    """ImageOps.equalize."""
    last, kinds = 0, 0
    for level in range(256):
        if histogram[level]:
            last, kinds = level, kinds + 1
    step = (histogram.sum() - histogram[last]) // 255
    total = step // 2
    for level in range(256):
        if kinds <= 1 or step == 0:
            table[level] = level
        else:
            table[level] = min(255, total // step)
            total += histogram[level]


@njit(nogil=True, cache=True)
def _luma(red, green, blue):
    return (_LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue + 0x8000) >> 16


@njit(nogil=True, cache=True)
def _mean_luma(image):
    """What ImageEnhance.Contrast blends with."""
    total = 0
    for y in range(image.shape[0]):
        for x in range(image.shape[1]):
            total += _luma(np.int32(image[y, x, 0]), np.int32(image[y, x, 1]), np.int32(image[y, x, 2]))
    return int(total / (image.shape[0] * image.shape[1]) + 0.5)


@njit(nogil=True, cache=True)
def _gray(image, out):
    """What ImageEnhance.Color blends with."""
    for y in range(image.shape[0]):
        for x in range(image.shape[1]):
            gray = _luma(np.int32(image[y, x, 0]), np.int32(image[y, x, 1]), np.int32(image[y, x, 2]))
            out[y, x, 0] = gray
            out[y, x, 1] = gray
            out[y, x, 2] = gray


@njit(nogil=True, cache=True)
def _smooth(image, out):
    """What ImageEnhance.Sharpness blends with, ImageFilter.SMOOTH; the border stays."""
    out[:] = image
    height, width = image.shape[0], image.shape[1]
    rows, smoothed = image.reshape(height, -1), out.reshape(height, -1)  # [H, 3 W]
    for y in range(1, height - 1):
        above, here, below, row = rows[y - 1], rows[y], rows[y + 1], smoothed[y]
        for x in range(3, 3 * width - 3):
            total = 4 * np.int32(here[x])
            for d in (-3, 0, 3):
                total += np.int32(above[x + d]) + np.int32(here[x + d]) + np.int32(below[x + d])
            row[x] = (2 * total + 13) // 26


@njit(nogil=True, cache=True)
def _blended(other, level, factor):
    """Image.blend: `other` at factor 0, `level` at 1, beyond at others; float32, cut off as there."""
    return np.uint8(
        min(
            max(np.float32(other) + factor * np.float32(np.int32(level) - np.int32(other)), np.float32(0)),
            np.float32(255),
        )
    )


@njit(nogil=True, cache=True)
def _blend(other, image, factor):
    others, levels = other.reshape(-1), image.reshape(-1)
    factor = np.float32(factor)
    for i in range(len(levels)):
        levels[i] = _blended(others[i], levels[i], factor)


@njit(nogil=True, cache=True)
def _move(image, operation, argument, fill, out):
    """The geometric operations: Image.transform with AFFINE and BICUBIC (Geometry.c)."""
    height, width = image.shape[0], image.shape[1]
    if operation == ROTATE:
        angle = -math.radians(argument % 360.0)
        cos, sin = round(math.cos(angle), 15), round(math.sin(angle), 15)
        x, y = width / 2.0, height / 2.0
        _turn(image, cos, sin, -cos * x - sin * y + x, -sin, cos, sin * x - cos * y + y, fill, out)
    elif operation == SHEAR_X:
        _shift_rows(image, argument, 0.0, fill, out)
    elif operation == TRANSLATE_X:
        _shift_rows(image, 0.0, argument * width, fill, out)
    elif operation == SHEAR_Y:
        _shift_columns(image, argument, 0.0, fill, out)
    elif operation == TRANSLATE_Y:
        _shift_columns(image, 0.0, argument * height, fill, out)


@njit(nogil=True, cache=True)
def _cubic(a, b, c, d, t):
    """Geometry.c's BICUBIC: between b (t = 0) and c (t = 1), float64."""
    return b + t * ((c - a) + t * ((2 * (a - b) + c - d) + t * (b - a + d - c)))


@njit(nogil=True, cache=True)
def _cut(value):
    """Geometry.c cuts off instead of rounding."""
    return np.uint8(min(max(value, 0.0), 255.0))


@njit(nogil=True, cache=True)
def _shift_rows(image, shear, shift, fill, out):
    """out[y, x] = image[y, x + shear * (y + 0.5) + shift]."""
    height, width = image.shape[0], image.shape[1]
    padded = np.empty((width + 6, 3))  # the row, its ends repeated, so that all taps are there
    for y in range(height):
        padded[3:-3] = image[y]
        padded[:3] = image[y, 0]
        padded[-3:] = image[y, -1]
        levels, row = padded.reshape(-1), out[y].reshape(-1)  # [3 (W + 6)], [3 W]
        offset = shear * (y + 0.5) + shift
        whole = math.floor(offset)
        t = offset - whole
        # x + 0.5 + offset must lie within [0, width).
        begin = min(max(math.ceil(-0.5 - offset), 0), width)
        end = max(min(math.ceil(width - 0.5 - offset), width), begin)
        for x in range(3 * begin):
            row[x] = fill[x % 3]
        for x in range(3 * end, 3 * width):
            row[x] = fill[x % 3]
        first = 3 * (whole + 2)  # of the four taps of x = 0
        for x in range(3 * begin, 3 * end):
            i = first + x
            row[x] = _cut(_cubic(levels[i], levels[i + 3], levels[i + 6], levels[i + 9], t))


@njit(nogil=True, cache=True)
def _shift_columns(image, shear, shift, fill, out):
    """out[y, x] = image[y + shear * (x + 0.5) + shift, x]."""
    height, width = image.shape[0], image.shape[1]
    turned, moved = np.empty((width, height, 3), np.uint8), np.empty((width, height, 3), np.uint8)
    turned[:] = image.transpose(1, 0, 2)
    _shift_rows(turned, shear, shift, fill, moved)
    out[:] = moved.transpose(1, 0, 2)


@njit(nogil=True, cache=True)
def _turn(image, a, b, c, d, e, f, fill, out):
    """out[y, x] = image at (a, b, c) . (x + 0.5, y + 0.5, 1) and (d, e, f) . (...), with 4 x 4 taps."""
    height, width = image.shape[0], image.shape[1]
    for y in range(height):
        for x in range(width):
            u = a * (x + 0.5) + b * (y + 0.5) + c
            v = d * (x + 0.5) + e * (y + 0.5) + f
            if not (0 <= u < width and 0 <= v < height):
                out[y, x] = fill
                continue
            u, v = u - 0.5, v - 0.5
            left, above = math.floor(u), math.floor(v)
            s, t = u - left, v - above
            x0, x1 = max(left - 1, 0), max(left, 0)
            x2, x3 = min(left + 1, width - 1), min(left + 2, width - 1)
            y0, y1 = max(above - 1, 0), max(above, 0)
            y2, y3 = min(above + 1, height - 1), min(above + 2, height - 1)
            for k in range(3):
                p = _cubic(*_four(image[y0], x0, x1, x2, x3, k), s)
                q = _cubic(*_four(image[y1], x0, x1, x2, x3, k), s)
                r = _cubic(*_four(image[y2], x0, x1, x2, x3, k), s)
                w = _cubic(*_four(image[y3], x0, x1, x2, x3, k), s)
                out[y, x, k] = _cut(_cubic(p, q, r, w, t))


@njit(nogil=True, cache=True)
def _four(row, x0, x1, x2, x3, k):
    return np.float64(row[x0, k]), np.float64(row[x1, k]), np.float64(row[x2, k]), np.float64(row[x3, k])
