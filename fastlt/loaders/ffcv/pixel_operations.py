"""RandAugment's operations on the pixels of one image, compiled: what timm has Pillow do, to the level or nearly.

Images are uint8 [H, W, 3]. Sources are named by Pillow's function; timm's `auto_augment.py` says what calls it.
"""

from __future__ import annotations

import math

import numpy as np

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
from fastlt.loaders.compiled import compiled, fused

_LUMA = (19595, 38470, 7471)  # of 65536: what Pillow's convert("L") takes of red, green and blue
_ONE_26TH, _ONE_26TH_BITS = 40330, 20  # n * 40330 >> 20 is n // 26 for all n that occur, and is vectorized
_BEYOND = 3  # pixels that an image is continued on each side, so that all taps are there


@compiled
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


@compiled
def _look_up(image, tables):
    """Replaces each level by that of its channel's table; tables uint8 [3, 256]."""
    red, green, blue = tables[0], tables[1], tables[2]
    for y in range(image.shape[0]):
        for x in range(image.shape[1]):
            image[y, x, 0] = red[image[y, x, 0]]
            image[y, x, 1] = green[image[y, x, 1]]
            image[y, x, 2] = blue[image[y, x, 2]]


@compiled
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


@compiled
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


@compiled
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


@compiled
def _luma(red, green, blue):
    return (_LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue + 0x8000) >> 16


@compiled
def _mean_luma(image):
    """What ImageEnhance.Contrast blends with."""
    total = 0
    for y in range(image.shape[0]):
        for x in range(image.shape[1]):
            total += _luma(np.int32(image[y, x, 0]), np.int32(image[y, x, 1]), np.int32(image[y, x, 2]))
    return int(total / (image.shape[0] * image.shape[1]) + 0.5)


@compiled
def _gray(image, out):
    """What ImageEnhance.Color blends with."""
    for y in range(image.shape[0]):
        for x in range(image.shape[1]):
            gray = _luma(np.int32(image[y, x, 0]), np.int32(image[y, x, 1]), np.int32(image[y, x, 2]))
            out[y, x, 0] = gray
            out[y, x, 1] = gray
            out[y, x, 2] = gray


@compiled
def _smooth(image, out):
    """What ImageEnhance.Sharpness blends with, ImageFilter.SMOOTH; the border stays."""
    out[:] = image
    height = image.shape[0]
    rows, smoothed = image.reshape(height, -1), out.reshape(height, -1)  # [H, 3 W]
    width = rows.shape[1]
    sums = np.empty(width, np.int32)  # of three rows
    for y in range(1, height - 1):
        above, here, below = rows[y - 1], rows[y], rows[y + 1]
        for x in range(width):
            sums[x] = np.int32(above[x]) + np.int32(here[x]) + np.int32(below[x])
        left, middle, right, center, row = sums[:-6], sums[3:-3], sums[6:], here[3:-3], smoothed[y][3:-3]
        for x in range(len(row)):
            total = left[x] + middle[x] + right[x] + 4 * np.int32(center[x])
            row[x] = np.int32((2 * total + 13) * _ONE_26TH) >> _ONE_26TH_BITS


@compiled
def _blended(other, level, factor):
    """Image.blend: `other` at factor 0, `level` at 1, beyond at others; float32, cut off as there."""
    return np.uint8(
        min(
            max(np.float32(other) + factor * np.float32(np.int32(level) - np.int32(other)), np.float32(0)),
            np.float32(255),
        )
    )


@compiled
def _blend(other, image, factor):
    others, levels = other.reshape(-1), image.reshape(-1)
    factor = np.float32(factor)
    for i in range(len(levels)):
        levels[i] = _blended(others[i], levels[i], factor)


@compiled
def _move(image, operation, argument, fill, out):
    """The geometric operations: Image.transform with AFFINE and BICUBIC (Geometry.c)."""
    height, width = image.shape[0], image.shape[1]
    if operation == ROTATE:
        angle = -math.radians(argument % 360.0)
        cos, sin = round(math.cos(angle), 15), round(math.sin(angle), 15)
        x, y = width / 2.0, height / 2.0
        matrix = cos, sin, -cos * x - sin * y + x, -sin, cos, sin * x - cos * y + y
        _turn(image, matrix, fill, out)
    elif operation == SHEAR_X:
        _shift_rows(image, argument, 0.0, fill, out)
    elif operation == TRANSLATE_X:
        _shift_rows(image, 0.0, argument * width, fill, out)
    elif operation == SHEAR_Y:
        _shift_columns(image, argument, 0.0, fill, out)
    elif operation == TRANSLATE_Y:
        _shift_columns(image, 0.0, argument * height, fill, out)


@compiled
def _cubic(a, b, c, d, t):
    """Geometry.c's BICUBIC: between b (t = 0) and c (t = 1)."""
    return b + t * ((c - a) + t * ((2 * (a - b) + c - d) + t * (b - a + d - c)))


@compiled
def _shift_rows(image, shear, shift, fill, out):
    """out[y, x] = image[y, x + shear * (y + 0.5) + shift]; in float64, as Pillow has it."""
    height, width = image.shape[0], image.shape[1]
    levels = np.empty(3 * (width + 2 * _BEYOND))  # of a row
    middles = np.empty(3 * width)  # of the pixels
    for x in range(width):
        middles[3 * x : 3 * x + 3] = x + 0.5
    for y in range(height):
        row = out[y]
        _widen(image[y].reshape(-1), levels)
        slant = shear * (y + 0.5)
        begin = min(max(math.ceil(-0.5 - slant - shift), 0), width)  # where the source lies within [0, width)
        end = max(min(math.ceil(width - 0.5 - slant - shift), width), begin)
        _fill_outside(row, begin, end, fill)
        whole = math.floor(slant + shift)
        first = 3 * (begin + whole + _BEYOND - 1)  # of the four taps
        _weigh_shifted(levels[first:], middles[3 * begin : 3 * end], slant, shift, whole, row[begin:end].reshape(-1))


@compiled
def _widen(pixels, levels):
    """uint8 [3 W] to float64 [3 (W + 6)], the ends repeated."""
    inside = levels[3 * _BEYOND :]
    for x in range(len(pixels)):
        inside[x] = pixels[x]
    for x in range(3 * _BEYOND):
        levels[x] = pixels[x % 3]
        levels[len(levels) - 1 - x] = pixels[len(pixels) - 1 - x % 3]


@compiled
def _fill_outside(row, begin, end, fill):
    red, green, blue = fill[0], fill[1], fill[2]
    for x in range(begin):
        row[x, 0], row[x, 1], row[x, 2] = red, green, blue
    for x in range(end, len(row)):
        row[x, 0], row[x, 1], row[x, 2] = red, green, blue


@compiled
def _weigh_shifted(levels, middles, slant, shift, whole, out):
    """Geometry.c cuts off instead of rounding, so the place between two pixels is rounded as there."""
    a, b, c, d = levels, levels[3:], levels[6:], levels[9:]
    for x in range(len(out)):
        t = (middles[x] + slant + shift - 0.5) - (middles[x] + (whole - 0.5))
        out[x] = np.int32(min(max(_cubic(a[x], b[x], c[x], d[x], t), 0.0), 255.0))


@compiled
def _shift_columns(image, shear, shift, fill, out):
    """out[y, x] = image[y + shear * (x + 0.5) + shift, x]."""
    height, width = image.shape[0], image.shape[1]
    turned, moved = np.empty((width, height, 3), np.uint8), np.empty((width, height, 3), np.uint8)
    _transpose(image, turned)
    _shift_rows(turned, shear, shift, fill, moved)
    _transpose(moved, out)


@compiled
def _transpose(image, out):
    for y in range(image.shape[0]):
        for x in range(image.shape[1]):
            out[x, y, 0], out[x, y, 1], out[x, y, 2] = image[y, x, 0], image[y, x, 1], image[y, x, 2]


@compiled
def _turn(image, matrix, fill, out):
    """out[y, x] = image at (a, b, c) . (x + 0.5, y + 0.5, 1) and (d, e, f) . (...), with 4 x 4 taps.

    In float32 and down before across, so one level of some 10,000 is one off.
    """
    height, width = image.shape[0], image.shape[1]
    stride = 4 * (width + 2 * _BEYOND)
    levels = np.empty((height + 2 * _BEYOND) * stride, np.uint8)  # [H + 6, W + 6, 4]
    for y in range(height + 2 * _BEYOND):
        _pad(image[min(max(y - _BEYOND, 0), height - 1)], levels[y * stride : (y + 1) * stride])
    places, s, t = np.empty(width, np.int64), np.empty(width, np.float32), np.empty(width, np.float32)
    columns = np.empty((width, 16), np.float32)
    for y in range(height):
        begin, end = _find_places(matrix, y, width, height, places, s, t)
        _fill_outside(out[y], begin, end, fill)
        _weigh_down(levels, stride, places[begin:end], t[begin:end], columns)
        _weigh_across(columns.reshape(-1), s[begin:end], out[y, begin:end].reshape(-1))


@compiled
def _pad(pixels, row):
    """uint8 [W, 3] to uint8 [4 (W + 6)], the ends repeated."""
    width = len(pixels)
    for x in range(width + 2 * _BEYOND):
        i = min(max(x - _BEYOND, 0), width - 1)
        row[4 * x], row[4 * x + 1], row[4 * x + 2], row[4 * x + 3] = pixels[i, 0], pixels[i, 1], pixels[i, 2], 0


@compiled
def _find_places(matrix, y, width, height, places, s, t):
    """Where the first of the taps of each pixel of a row lies, and how far beyond the second of each four it is.

    Returns the first pixel that is taken from within the image, and the one behind the last.
    """
    a, b, c, d, e, f = matrix
    begin, end = width, 0
    for x in range(width):
        u = a * (x + 0.5) + b * (y + 0.5) + c
        v = d * (x + 0.5) + e * (y + 0.5) + f
        if 0 <= u < width and 0 <= v < height:
            begin, end = min(begin, x), x + 1
        left, above = math.floor(u - 0.5), math.floor(v - 0.5)
        s[x], t[x] = u - 0.5 - left, v - 0.5 - above
        places[x] = 4 * ((above + _BEYOND - 1) * (width + 2 * _BEYOND) + left + _BEYOND - 1)
    return min(begin, end), end


@fused
def _weigh_down(levels, stride, places, t, columns):
    """Four taps for each of the 16 levels of four neighboring columns: columns float32 [W, 16]."""
    for x in range(len(places)):
        p, t_x, column = places[x], t[x], columns[x]
        q, r, w = p + stride, p + 2 * stride, p + 3 * stride
        first, second, third, fourth = levels[p : p + 16], levels[q : q + 16], levels[r : r + 16], levels[w : w + 16]
        for k in range(16):
            a, b, c, d = np.int32(first[k]), np.int32(second[k]), np.int32(third[k]), np.int32(fourth[k])
            square, cube = np.float32(np.int32(2 * (a - b) + c - d)), np.float32(np.int32(b - a + d - c))
            column[k] = np.float32(b) + t_x * (np.float32(np.int32(c - a)) + t_x * (square + t_x * cube))


@fused
def _weigh_across(columns, s, out):
    for x in range(len(s)):
        for k in range(3):
            i = 16 * x + k
            level = _cubic(columns[i], columns[i + 4], columns[i + 8], columns[i + 12], s[x])
            out[3 * x + k] = np.int32(min(max(level, np.float32(0)), np.float32(255)))
