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
    near, far = (1.5 * x - 2.5) * x * x + 1, (((x - 5) * x + 8) * x - 4) * -0.5
    return near if x < 1 else (far if x < 2 else 0.0)


@compiled
def _weights(inputs, begin, length, start, size, out_length):
    """(first input int64 [O], fixed-point weights int32 [a multiple of 4, O], zeros behind the last) of each output.

    These are the outputs `start` to `start + size` of `out_length` that the stretch of `length` inputs from `begin` on
    is resized to; it may begin and end within an input. Inputs beyond the last have weight 0, but are named.
    """
    scale = length / out_length
    stretch = max(scale, 1.0)
    support = 2.0 * stretch
    first, counts = np.empty(size), np.empty(size)  # whole numbers, but processors turn no vectors of those to floats
    centers, totals, most = np.empty(size), np.zeros(size), 0
    for i in range(size):
        center = begin + (start + i + 0.5) * scale
        low = max(int(center - support + 0.5), 0)
        count = min(int(center + support + 0.5), inputs) - low
        centers[i], first[i], counts[i], most = center, low, count, max(most, count)
    taps = np.empty((-(-most // 4) * 4, size))
    for k in range(len(taps)):  # of all outputs at once, which vectorizes
        _add_taps(float(k), first, counts, centers, 1.0 / stretch, taps[k], totals)
    for k in range(len(taps)):
        _scale(taps[k], totals)
    return first.astype(np.int64), taps.astype(np.int32)


@compiled
def _add_taps(k, first, counts, centers, squeeze, taps, totals):
    """The k-th tap of each output, 0 where that has none, and their sum with those before it."""
    for i in range(len(taps)):
        tap = _cubic((k + first[i] - centers[i] + 0.5) * squeeze)
        taps[i] = tap if k < counts[i] else 0.0
        totals[i] += taps[i]


@compiled
def _scale(taps, totals):
    """Taps whose sum is given to fixed point, in place; what is behind the point means nothing."""
    taps[:] = taps / totals * (1 << _BITS)  # of arrays, as one number's looks for a division by zero
    for i in range(len(taps)):
        taps[i] += -0.5 if taps[i] < 0 else 0.5


@compiled
def _weigh(rows, last, left, first, weights, out):
    """out[o, x] = sum over k of weights[k, o] * rows[first[o] + k, left + x], rounded to 8 bits.

    rows: uint8 [N, M], of which `last` is the last; out: uint8 [O, X].
    """
    width = out.shape[1]
    sums = np.empty(width, np.int32)
    for o in range(len(first)):
        end = len(weights)
        while end > 4 and weights[end - 4, o] == weights[end - 3, o] == weights[end - 2, o] == weights[end - 1, o] == 0:
            end -= 4
        for k in range(0, end, 4):
            a, b, c, d = weights[k, o], weights[k + 1, o], weights[k + 2, o], weights[k + 3, o]
            i = first[o] + k
            p = rows[min(i, last)][left : left + width]
            q = rows[min(i + 1, last)][left : left + width]
            r = rows[min(i + 2, last)][left : left + width]
            s = rows[min(i + 3, last)][left : left + width]
            if k == 0:
                for x in range(width):
                    sum = a * np.int32(p[x]) + b * np.int32(q[x]) + c * np.int32(r[x]) + d * np.int32(s[x])
                    sums[x] = sum + (1 << (_BITS - 1))
            else:
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
def _narrow(rows, top, last, x, inputs, begin, end, first, weights, flip, w):
    """The horizontal pass over rows `begin` to `end` behind `top` and columns behind `x`: uint8 [end - begin.., 3 w].

    rows: uint8 [H, 3 W], of which `last` is the last; first, weights: of each output, among `inputs` columns.
    """
    first_column, columns = first[0], min(first[-1] + len(weights), inputs) - first[0]
    first = first - first_column
    if flip:
        first, weights = first[::-1].copy(), weights[:, ::-1].copy()
    narrow = np.empty((end - begin + _MANY, 3 * w), np.uint8)
    turned, other = np.empty(3 * columns * _MANY, np.uint8), np.empty(3 * columns * _MANY, np.uint8)
    weighed, another = np.empty(3 * w * _MANY, np.uint8), np.empty(3 * w * _MANY, np.uint8)
    y = begin
    while y < end:
        count = _MANY if end - y > 2 * _FEW else _FEW
        size, narrow_size = 3 * columns * count, 3 * w * count
        memory = _turn(rows, top + y, last, 3 * (x + first_column), count, turned[:size], other[:size])
        _weigh(
            memory.reshape(columns, 3 * count),
            columns - 1,
            0,
            first,
            weights,
            weighed[:narrow_size].reshape(w, 3 * count),
        )
        _turn_back(weighed[:narrow_size], count, narrow[y - begin : y - begin + count], another[:narrow_size])
        y += count
    return narrow


@compiled
def _mirror(out):
    """From left to right, in place."""
    h, w = out.shape[0], out.shape[1]
    for y in range(h):
        for x in range(w // 2):
            for c in range(3):
                out[y, x, c], out[y, w - 1 - x, c] = out[y, w - 1 - x, c], out[y, x, c]


@compiled
def resize_crop(image, top, left, height, width, out_height, out_width, out_top, out_left, flip, out):
    """Writes a window of a resized crop.

    Args:
        image: uint8 [H, W, 3].
        top, left, height, width: of the crop, float64, as it may begin and end within a pixel. It is resized as if
            nothing lay around the pixels that it touches.
        out_height, out_width: what it is resized to, in pixels.
        out_top, out_left: where in that the window begins, which is as large as `out`.
        flip: mirror the window from left to right.
        out: uint8 [h, w, 3].
    """
    h, w = out.shape[0], out.shape[1]
    y, x = int(np.floor(top)), int(np.floor(left))
    inputs_y, inputs_x = int(np.ceil(top + height)) - y, int(np.ceil(left + width)) - x
    last, as_wide = y + inputs_y - 1, width == out_width and left == x
    rows, outs = image.reshape(image.shape[0], -1), out.reshape(h, 3 * w)
    first_y, weights_y = _weights(inputs_y, top - y, height, out_top, h, out_height)
    if as_wide:  # nothing to do across
        _weigh(rows, last, 3 * (x + out_left), first_y + y, weights_y, outs)
        if flip:
            _mirror(out)
        return
    begin, end = first_y[0], min(first_y[-1] + len(weights_y), inputs_y)  # the rows that matter
    first_x, weights_x = _weights(inputs_x, left - x, width, out_left, w, out_width)
    narrow = _narrow(rows, y, last, x, inputs_x, begin, end, first_x, weights_x, flip, w)
    _weigh(narrow, end - begin - 1, 0, first_y - begin, weights_y, outs)
