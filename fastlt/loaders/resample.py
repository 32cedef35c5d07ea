"""Cropping and resizing with antialiasing, bit for bit as Pillow's BICUBIC does it (Resample.c), compiled.

Both of Pillow's passes weigh whole rows of memory, which vectorizes: the horizontal one takes some rows of the image at
a time and transposes them there and back. A transposition of 4^n rows is n shuffles of the memory, of which LLVM makes
the processor's own; a loop over the bytes would cost more than all the rest.
"""

from __future__ import annotations

import numpy as np

from fastlt.loaders.compiled import compiled

_BITS = 22  # of a weight behind the point
_FEW, _MANY = 16, 64  # rows at a time


@compiled
def _cubic(x):
    """Keys' kernel with a = -0.5."""
    x = abs(x)
    if x < 1:
        return (1.5 * x - 2.5) * x * x + 1
    if x < 2:
        return (((x - 5) * x + 8) * x - 4) * -0.5
    return 0.0


@compiled
def _weights(length, start, size, out_length):
    """(first input int64 [O], fixed-point weights int32 [O, a multiple of 4], zeros behind the last) of each output.

    These are the outputs `start` to `start + size` of `out_length` that `length` inputs are resized to. Inputs beyond
    the last have weight 0, but are named.
    """
    scale = length / out_length
    stretch = max(scale, 1.0)
    support = 2.0 * stretch
    most = 4 * int(np.ceil((np.ceil(support) * 2 + 1) / 4))
    first, weights, taps = np.empty(size, np.int64), np.zeros((size, most), np.int32), np.empty(most)
    for i in range(size):
        center = (start + i + 0.5) * scale
        low = max(int(center - support + 0.5), 0)
        count = min(int(center + support + 0.5), length) - low
        total = 0.0
        for k in range(count):
            taps[k] = _cubic((k + low - center + 0.5) * (1.0 / stretch))
            total += taps[k]
        for k in range(count):
            weight = taps[k] / total * (1 << _BITS)
            weights[i, k] = int(weight - 0.5) if weight < 0 else int(weight + 0.5)
        first[i] = low
    return first, weights


@compiled
def _weigh(rows, last, left, first, weights, out):
    """out[o, x] = sum over k of weights[o, k] * rows[first[o] + k, left + x], rounded to 8 bits.

    rows: uint8 [N, M], of which `last` is the last; out: uint8 [O, X].
    """
    width = out.shape[1]
    sums = np.empty(width, np.int32)
    for o in range(len(first)):
        sums[:] = 1 << (_BITS - 1)
        for k in range(0, weights.shape[1], 4):
            a, b, c, d = weights[o, k], weights[o, k + 1], weights[o, k + 2], weights[o, k + 3]
            if a == 0 and b == 0 and c == 0 and d == 0:
                continue
            i = first[o] + k
            p = rows[min(i, last)][left : left + width]
            q = rows[min(i + 1, last)][left : left + width]
            r = rows[min(i + 2, last)][left : left + width]
            s = rows[min(i + 3, last)][left : left + width]
            for x in range(width):
                sums[x] += a * np.int32(p[x]) + b * np.int32(q[x]) + c * np.int32(r[x]) + d * np.int32(s[x])
        row = out[o]
        for x in range(width):
            row[x] = min(max(np.int32(sums[x] >> _BITS), np.int32(0)), np.int32(255))


@compiled
def _interleave(a, b, c, d, out):
    for i in range(len(a)):
        out[4 * i] = a[i]
        out[4 * i + 1] = b[i]
        out[4 * i + 2] = c[i]
        out[4 * i + 3] = d[i]


@compiled
def _separate(mixed, a, b, c, d):
    for i in range(len(a)):
        a[i] = mixed[4 * i]
        b[i] = mixed[4 * i + 1]
        c[i] = mixed[4 * i + 2]
        d[i] = mixed[4 * i + 3]


@compiled
def _quarters(memory):
    n = len(memory) // 4
    return memory[:n], memory[n : 2 * n], memory[2 * n : 3 * n], memory[3 * n :]


@compiled
def _turn(rows, top, last, left, count, out, other):
    """Transposes uint8 [count, M], rows from `top` on, columns from `left` on, into the memory of `out` or `other`.

    The row `last` stands for those beyond it. Returns that memory, uint8 [M * count].
    """
    width = len(out) // count
    part = count // 4
    for i in range(part):
        a = rows[min(top + i, last)][left : left + width]
        b = rows[min(top + part + i, last)][left : left + width]
        c = rows[min(top + 2 * part + i, last)][left : left + width]
        d = rows[min(top + 3 * part + i, last)][left : left + width]
        _interleave(a, b, c, d, out[4 * width * i : 4 * width * (i + 1)])
    while part > 1:
        a, b, c, d = _quarters(out)
        _interleave(a, b, c, d, other)
        out, other = other, out
        part //= 4
    return out


@compiled
def _turn_back(memory, count, rows, other):
    """Inverse of `_turn`: memory uint8 [M * count], which is overwritten, into rows uint8 [count, M]."""
    part = count // 4
    while part > 1:
        a, b, c, d = _quarters(other)
        _separate(memory, a, b, c, d)
        memory, other = other, memory
        part //= 4
    width, part = rows.shape[1], count // 4
    for i in range(part):
        mixed = memory[4 * width * i : 4 * width * (i + 1)]
        _separate(mixed, rows[i], rows[part + i], rows[2 * part + i], rows[3 * part + i])


@compiled
def resize_crop(image, top, left, height, width, out_height, out_width, out_top, out_left, flip, out):
    """Writes a window of a resized crop.

    Args:
        image: uint8 [H, W, 3].
        top, left, height, width: of the crop, which is resized as if nothing lay around it.
        out_height, out_width: what it is resized to, in pixels.
        out_top, out_left: where in that the window begins, which is as large as `out`.
        flip: mirror the window from left to right.
        out: uint8 [h, w, 3].
    """
    h, w = out.shape[0], out.shape[1]
    first_y, weights_y = _weights(height, out_top, h, out_height)
    first_x, weights_x = _weights(width, out_left, w, out_width)
    begin, end = first_y[0], min(first_y[-1] + weights_y.shape[1], height)  # the rows that matter
    first_column, columns = first_x[0], min(first_x[-1] + weights_x.shape[1], width) - first_x[0]
    first_x -= first_column
    if flip:
        first_x, weights_x = first_x[::-1].copy(), weights_x[::-1].copy()
    rows = image.reshape(image.shape[0], -1)  # [H, 3 W]
    narrow = np.empty((end - begin + _MANY, 3 * w), np.uint8)
    turned, other = np.empty(3 * columns * _MANY, np.uint8), np.empty(3 * columns * _MANY, np.uint8)
    weighed, another = np.empty(3 * w * _MANY, np.uint8), np.empty(3 * w * _MANY, np.uint8)
    y = begin
    while y < end:
        count = _MANY if end - y > 2 * _FEW else _FEW
        size, narrow_size = 3 * columns * count, 3 * w * count
        memory = _turn(rows, top + y, top + height - 1, 3 * (left + first_column), count, turned[:size], other[:size])
        _weigh(
            memory.reshape(columns, 3 * count), columns - 1, 0, first_x, weights_x,
            weighed[:narrow_size].reshape(w, 3 * count),
        )  # fmt: skip
        _turn_back(weighed[:narrow_size], count, narrow[y - begin : y - begin + count], another[:narrow_size])
        y += count
    _weigh(narrow, end - begin - 1, 0, first_y - begin, weights_y, out.reshape(h, 3 * w))
