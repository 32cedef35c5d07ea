"""The two passes over a slice of logits on the CPU: compiled by numba, rows split over torch's threads.

A row is taken in blocks that stay in the first-level cache. The weights of silenced classes, and the label's 0, are
written into a block-sized copy of the logit bias, so the loops over a block are the same for every row, without a
mask. Exponents are taken as (z_j - z_c) + (b_j - b_c): such differences round at their own size.

Shapes as in `rows.py`: B samples, C classes, S classes of a slice, L labels a sample. Letters: z logit, b logit bias.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
import torch
from numba import njit
from torch import Tensor

from fastlt.caches import cached

from .rows import CENTER_BIAS, CENTER_LOGIT, LABEL_LOGIT, MASS, OUTSIDE_SUM, Rows, finish

_BLOCK, _LANES = 2048, 64
_CLASSES_AT_ONCE = 2**17  # what a thread takes, so that calling the compiled code costs little
# Sums may be reordered, which lets them be vectorized; NaN and infinity keep their meaning.
_sums = cached(njit, nogil=True, fastmath={"reassoc", "contract", "nsz"})
_exact = cached(njit, nogil=True, fastmath={"contract"})

_MINUS_INFINITY = np.float32(-np.inf)
_LOG2E, _LN2_HIGH, _LN2_LOW = np.float32(1.44269504), np.float32(0.693359375), np.float32(-2.12194440e-4)
_SHIFTER = np.float32(1.5 * 2**23)  # adding it rounds to an integer, which then stands in the low bits
_SHIFTER_BITS = np.int32(np.float32(1.5 * 2**23).view(np.int32) - 127)
_MANTISSA, _HALF_WORD, _NAN_BITS = np.int32(23), np.uint32(16), np.uint32(0x7FC00000)
_SMALLEST, _LARGEST = np.float32(-87.3), np.float32(88.3)
_ZERO, _ONE = np.float32(0), np.float32(1)
# Minimax polynomial of (exp(f) - 1 - f) / f^2 over |f| <= ln(2) / 2, after Cephes' expf.
_P0, _P1, _P2 = np.float32(1.9875691500e-4), np.float32(1.3981999507e-3), np.float32(8.3334519073e-3)
_P3, _P4, _P5 = np.float32(4.1665795894e-2), np.float32(1.6666665459e-1), np.float32(5.0000001201e-1)


@_exact
def _exp(x):
    """exp(x), float32 to 2 units in the last place, 0 below -87.3; math.exp would keep the loops from vectorizing."""
    t = min(max(x, _SMALLEST), _LARGEST)
    shifted = t * _LOG2E + _SHIFTER
    n = shifted - _SHIFTER
    f = (t - n * _LN2_HIGH) - n * _LN2_LOW
    p = ((((_P0 * f + _P1) * f + _P2) * f + _P3) * f + _P4) * f + _P5
    scale = np.int32((np.float32(shifted).view(np.int32) - _SHIFTER_BITS) << _MANTISSA).view(np.float32)
    y = (p * (f * f) + f + _ONE) * scale
    if x < _SMALLEST:
        return _ZERO
    return y if x <= _LARGEST else x * np.float32(np.inf)  # overflow; NaN stays


@_exact
def _read(logits, z):
    """A block of logits as float32; uint16 holds the bits of bfloat16."""
    if logits.itemsize == 2:
        for j in range(len(z)):
            z[j] = np.uint32(np.uint32(logits[j]) << _HALF_WORD).view(np.float32)
    else:
        for j in range(len(z)):
            z[j] = logits[j]


@_exact
def _write(g, out):
    """A block of float32 back to the logits' type, rounded to nearest even."""
    if out.itemsize == 2:
        for j in range(len(g)):
            bits = np.float32(g[j]).view(np.uint32)
            odd = np.uint32(bits >> _HALF_WORD) & np.uint32(1)
            rounded = np.uint32(bits + np.uint32(0x7FFF) + odd) if g[j] == g[j] else _NAN_BITS
            out[j] = np.uint16(rounded >> _HALF_WORD)
    else:
        for j in range(len(g)):
            out[j] = g[j]


@_exact
def _weigh(b, u, first, label, neighbors, k, k_end, auxiliary_start, log_lambda):
    """Makes b the log weights of a block for one label, given its logit bias: silenced classes down, the label out.

    Where a class is silenced, u becomes 0 (unless u is empty). Returns the next position in the list of neighbors.
    """
    n = len(b)
    if label >= auxiliary_start:
        inside = max(0, auxiliary_start - first)
        kept = u[label - first] if len(u) and first <= label < first + n else _ZERO
        for j in range(inside, n):
            b[j] += log_lambda
        for j in range(inside, len(u)):
            u[j] = _ZERO
        if len(u) and first <= label < first + n:
            u[label - first] = kept
    while k < k_end and neighbors[k] < first + n:
        b[neighbors[k] - first] += log_lambda
        if len(u):
            u[neighbors[k] - first] = _ZERO
        k += 1
    if first <= label < first + n:
        b[label - first] = _MINUS_INFINITY
    return k


@_exact
def _copy_bias(b, logit_bias):
    """Fills b with the logit bias of a block, or with 0 where there is none."""
    if len(logit_bias):
        for j in range(len(b)):
            b[j] = logit_bias[j]
    else:
        for j in range(len(b)):
            b[j] = _ZERO


@_exact
def _largest_score(z, b, lanes):
    """The largest z + b that is no NaN; in lanes, as a running maximum in one variable is not vectorized."""
    for j in range(len(lanes)):
        lanes[j] = _MINUS_INFINITY
    whole = len(z) // len(lanes) * len(lanes)
    for start in range(0, whole, len(lanes)):
        z_part, b_part = z[start : start + len(lanes)], b[start : start + len(lanes)]
        for j in range(len(lanes)):
            score = z_part[j] + b_part[j]
            lanes[j] = score if score > lanes[j] else lanes[j]
    largest = _MINUS_INFINITY
    for j in range(len(lanes)):
        largest = max(largest, lanes[j])
    for j in range(whole, len(z)):
        largest = max(largest, z[j] + b[j])
    return largest


@_exact
def _above(z, z_c, b, b_c):
    """The score over the center's, by differences of like numbers, which a reordering of sums would undo."""
    return (z - z_c) + (b - b_c)


@_sums
def _mass(z, b, z_c, b_c):
    total = _ZERO
    for j in range(len(z)):
        total += _exp(_above(z[j], z_c, b[j], b_c))
    return total


@_sums
def _sum(u):
    total = _ZERO
    for j in range(len(u)):
        total += u[j]
    return total


@_exact
def _buffer():
    return np.empty(_BLOCK, np.float32)  # its type says that it is contiguous, without which nothing is vectorized


@_exact
def _list_from(label, indptr, neighbors, first_class, log_lambda):
    """(first position in the slice, end) of the label's sorted list; an empty one for no class."""
    if label < 0 or label >= len(indptr) - 1 or log_lambda == 0:
        return 0, 0
    k, k_end = indptr[label], indptr[label + 1]
    return k + np.searchsorted(neighbors[k:k_end], first_class), k_end


@_exact
def _accumulate(
    logits, first_class, stacked_labels, logit_bias, indptr, neighbors, auxiliary_start, log_lambda, smooth,
    ignore_index, state, begin, end,
):  # fmt: skip
    width = logits.shape[1]
    z_block, b_block, u_block, lanes = _buffer(), _buffer(), _buffer(), _buffer()[:_LANES]
    for row in range(begin, end):
        if np.any(stacked_labels[:, row] == ignore_index):
            continue
        for i in range(len(stacked_labels)):
            label = stacked_labels[i, row]
            one = state[i, :, row]
            z_c, b_c = one[CENTER_LOGIT], one[CENTER_BIAS]
            mass, outside = np.float64(one[MASS]), np.float64(one[OUTSIDE_SUM])
            k, k_end = _list_from(label, indptr, neighbors, first_class, log_lambda)
            for start in range(0, width, _BLOCK):
                n, first = min(_BLOCK, width - start), first_class + start
                z, b, u = z_block[:n], b_block[:n], u_block[: n if smooth else 0]
                _read(logits[row, start : start + n], z)
                _copy_bias(b, logit_bias[first : first + n])
                for j in range(len(u)):
                    u[j] = z[j] + b[j]
                k = _weigh(b, u, first, label, neighbors, k, k_end, auxiliary_start, log_lambda)
                outside += _sum(u)
                if first <= label < first + n:
                    one[LABEL_LOGIT] = z[label - first]
                largest = _largest_score(z, b, lanes)
                if largest > z_c + b_c:
                    best = 0
                    while z[best] + b[best] != largest:
                        best += 1
                    mass *= np.exp((np.float64(z_c) - z[best]) + (np.float64(b_c) - b[best]))
                    z_c, b_c = z[best], b[best]
                mass += _mass(z, b, z_c, b_c)
            one[CENTER_LOGIT], one[CENTER_BIAS], one[MASS], one[OUTSIDE_SUM] = z_c, b_c, mass, outside


@_exact
def _add_gradient(g, z, b, u, z_c, b_c, scale):
    if len(u):
        for j in range(len(g)):
            g[j] += _exp(_above(z[j], z_c, b[j], b_c)) * scale - u[j]
    else:
        for j in range(len(g)):
            g[j] += _exp(_above(z[j], z_c, b[j], b_c)) * scale


@_exact
def _gradient(
    logits, first_class, stacked_labels, weights, logit_bias, indptr, neighbors, auxiliary_start, log_lambda, smoothing,
    ignore_index, saved, grad_loss, out, begin, end,
):  # fmt: skip
    width, L = logits.shape[1], len(stacked_labels)
    z_block, b_block, u_block, g_block = _buffer(), _buffer(), _buffer(), _buffer()
    k, k_end = np.empty(L, np.int64), np.empty(L, np.int64)
    for row in range(begin, end):
        if grad_loss[row] == 0 or np.any(stacked_labels[:, row] == ignore_index):
            out[row, :] = 0
            continue
        for i in range(L):
            k[i], k_end[i] = _list_from(stacked_labels[i, row], indptr, neighbors, first_class, log_lambda)
        for start in range(0, width, _BLOCK):
            n, first = min(_BLOCK, width - start), first_class + start
            z, b, g, u = z_block[:n], b_block[:n], g_block[:n], u_block[: n if smoothing > 0 else 0]
            _read(logits[row, start : start + n], z)
            for j in range(n):
                g[j] = _ZERO
            for i in range(L):
                label, upstream = stacked_labels[i, row], grad_loss[row] * weights[i, row]
                z_c, b_c, total, others, outside = saved[i, :, row]
                _copy_bias(b, logit_bias[first : first + n])
                for j in range(len(u)):
                    u[j] = upstream * smoothing / outside
                k[i] = _weigh(b, u, first, label, neighbors, k[i], k_end[i], auxiliary_start, log_lambda)
                _add_gradient(g, z, b, u, z_c, b_c, np.float32(upstream / total))
                if first <= label < first + n:
                    g[label - first] -= upstream * (others - smoothing)
            _write(g, out[row, start : start + n])


def accumulate(logits: Tensor, first_class: int, rows: Rows, state: Tensor) -> None:
    """Adds a slice of logits [B, S], the classes from `first_class` on, to the state; any order of slices."""
    arguments = (_array(logits), first_class, rows.stacked_labels.numpy(), *_shared(rows), rows.smoothing > 0)
    _over_rows(_accumulate, logits.shape, *arguments, rows.ignore_index, state.numpy())


def loss_of(logits: Tensor, rows: Rows) -> tuple[Tensor, Tensor]:
    """(loss [B], saved [L, 5, B]), float32, of logits [B, C]."""
    state = rows.new_state()
    accumulate(logits, 0, rows, state)
    loss, saved = finish(state, rows)
    return loss.float(), saved.float()


def gradient(logits: Tensor, first_class: int, rows: Rows, saved: Tensor, grad_loss: Tensor, out: Tensor) -> None:
    """Writes the gradient of a slice of logits [B, S] to `out` [B, S], which may be `logits` itself.

    Args:
        grad_loss: gradient of the loss of each row, float32 [B], of any stride.
    """
    weights = torch.ones(rows.stacked_labels.shape) if rows.weights is None else rows.weights
    _over_rows(
        _gradient, logits.shape, _array(logits), first_class, rows.stacked_labels.numpy(), weights.numpy(),
        *_shared(rows), np.float32(rows.smoothing), rows.ignore_index, saved.numpy(),
        grad_loss.contiguous().numpy(), _array(out),
    )  # fmt: skip


def _shared(rows: Rows) -> tuple:
    logit_bias = np.empty(0, np.float32) if rows.logit_bias is None else rows.logit_bias.numpy()
    start = rows.auxiliary_start if rows.silences else rows.num_classes
    return logit_bias, rows.indptr.numpy(), rows.indices.numpy(), start, np.float32(rows.log_lambda)


def _array(logits: Tensor) -> np.ndarray:
    """The tensor's memory; bfloat16, which numpy lacks, as its bits."""
    return logits.view(torch.uint16).numpy() if logits.dtype == torch.bfloat16 else logits.numpy()


def _over_rows(work: Callable, shape: Sequence[int], *arguments: object) -> None:
    """Runs work(*arguments, begin, end) over the rows of [B, S] in torch's number of threads.

    Each takes the next few rows in turn, so that one which starts late, as others still spin after a torch operator,
    leaves its rows to this one. These are not numba's own threads: two Python threads may not use those at once, and
    FFCV's loader does.
    """
    (rows, classes), threads = shape, torch.get_num_threads()
    at_once = max(1, min(_CLASSES_AT_ONCE // max(classes, 1), rows // (4 * threads)))
    begins = iter(range(0, rows, at_once))  # `next` is atomic

    def take() -> None:
        for begin in begins:
            work(*arguments, begin, min(begin + at_once, rows))

    others = [_threads().submit(take) for _ in range(min(threads, -(-rows // at_once)) - 1)]
    take()
    for other in others:
        other.result()


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max(torch.get_num_threads(), 2) - 1, thread_name_prefix="fastlt-rows")
