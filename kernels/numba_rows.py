"""The two passes over a slice of logits on the CPU: compiled by numba, rows split over torch's own threads.

A row is taken in blocks that stay in the first-level cache. The weights of silenced classes, and the label's 0, are
written into a block-sized copy of the logit bias, so the loops over a block are the same for every row, without a
mask. Exponents are taken as (z_j - z_c) + (b_j - b_c): such differences round at their own size. Where both passes
are wanted, each row is taken through both at once, and the second finds the exponentials of the first in the
second-level cache.

Shapes as in `rows.py`: B samples, C classes, S classes of a slice, L labels a sample. Letters: z logit, b logit bias.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
import torch
from numba import carray, cfunc, from_dtype, njit, types
from numba.extending import intrinsic
from torch import Tensor

from fastlt.caches import cached

from .rows import CENTER_BIAS, CENTER_LOGIT, LABEL_LOGIT, LOWEST, MASS, OUTSIDE_SUM, SAVED_ROWS, STATE_ROWS, TOTAL, Rows

_BLOCK = 2048
_CLASSES_AT_ONCE = 2**15  # what a thread takes at a time, and what is too little for two
_MOST_KEPT = 2**18  # exponentials of a row, 1 MB a thread; of longer rows they are computed again
_HUGE_PAGE = 2**21
# Sums may be reordered, which lets them be vectorized; NaN and infinity keep their meaning.
_sums = cached(njit, error_model="numpy", fastmath={"reassoc", "contract", "nsz"})
_exact = cached(njit, error_model="numpy", fastmath={"contract"})

_MINUS_INFINITY = np.float32(-np.inf)
_LOG2E, _LN2_HIGH, _LN2_LOW = np.float32(1.44269504), np.float32(0.693359375), np.float32(-2.12194440e-4)
_SHIFTER = np.float32(1.5 * 2**23)  # adding it rounds to an integer, which then stands in the low bits
_SHIFTER_BITS = np.int32(np.float32(1.5 * 2**23).view(np.int32) - 127)
_MANTISSA, _SIGN, _HALF_WORD, _NAN_BITS = np.int32(23), np.int32(31), np.uint32(16), np.uint32(0x7FC00000)
_SMALLEST, _MAGNITUDE = np.float32(-87.3), np.int32(0x7FFFFFFF)
_ZERO, _ONE = np.float32(0), np.float32(1)
# Minimax polynomial of (exp(f) - 1 - f) / f^2 over |f| <= ln(2) / 2, after Cephes' expf.
_P0, _P1, _P2 = np.float32(1.9875691500e-4), np.float32(1.3981999507e-3), np.float32(8.3334519073e-3)
_P3, _P4, _P5 = np.float32(4.1665795894e-2), np.float32(1.6666665459e-1), np.float32(5.0000001201e-1)


@_exact
def _exp(x):
    """exp(x) for x up to 88, float32 to 2 units in the last place, 0 below -87.3, NaN for NaN.

    math.exp would keep the loops from vectorizing.
    """
    t = _SMALLEST if x < _SMALLEST else x
    shifted = t * _LOG2E + _SHIFTER
    n = shifted - _SHIFTER
    f = (t - n * _LN2_HIGH) - n * _LN2_LOW
    p = ((((_P0 * f + _P1) * f + _P2) * f + _P3) * f + _P4) * f + _P5
    scale = np.int32((np.float32(shifted).view(np.int32) - _SHIFTER_BITS) << _MANTISSA).view(np.float32)
    y = (p * (f * f) + f + _ONE) * scale
    return _ZERO if x < _SMALLEST else y


@_exact
def _read(logits, z):
    """A block of logits as float32, in z unless it is that already; uint16 holds the bits of bfloat16."""
    if logits.itemsize == 4:
        return logits.view(np.float32)
    for j in range(len(z)):
        z[j] = np.uint32(np.uint32(logits[j]) << _HALF_WORD).view(np.float32)
    return z


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
def _weigh(b, u, first, label, neighbors, strengths, k, k_end, auxiliary_start, log_lambda):
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
        b[neighbors[k] - first] += strengths[k] * log_lambda if len(strengths) else log_lambda
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
def _largest_score(z, b):
    """The largest z + b; NaN where a positive one is among them.

    Floats are compared by their bits, as integers of the same order: a running maximum of floats is not vectorized.
    """
    largest = _ordered(_MINUS_INFINITY)
    for j in range(len(z)):
        largest = max(largest, _ordered(z[j] + b[j]))
    return np.int32(largest ^ ((largest >> _SIGN) & _MAGNITUDE)).view(np.float32)


@_exact
def _ordered(x):
    bits = np.float32(x).view(np.int32)
    return np.int32(bits ^ ((bits >> _SIGN) & _MAGNITUDE))


@_exact
def _above(z, z_c, b, b_c):
    """The score over the center's, by differences of like numbers, which a reordering of sums would undo."""
    return (z - z_c) + (b - b_c)


@_sums
def _sum(u):
    total = _ZERO
    for j in range(len(u)):
        total += u[j]
    return total


@_sums
def _mass(z, b, z_c, b_c, kept):
    """The sum of exp of the scores over the center's, each of which is kept unless `kept` is empty."""
    total = _ZERO
    if len(kept):
        for j in range(len(kept)):
            kept[j] = _exp(_above(z[j], z_c, b[j], b_c))
        return _sum(kept)
    for j in range(len(z)):
        total += _exp(_above(z[j], z_c, b[j], b_c))
    return total


@_exact
def _list_from(label, indptr, neighbors, first_class, log_lambda):
    """(first position in the slice, end) of the label's sorted list; an empty one for no class."""
    if label < 0 or label >= len(indptr) - 1 or log_lambda == 0:
        return 0, 0
    k, k_end = indptr[label], indptr[label + 1]
    return k + np.searchsorted(neighbors[k:k_end], first_class), k_end


@_exact
def _accumulate(logits, first_class, rows, row, state, blocks, kept, centers):
    """Adds a slice [S] of a row's logits to its state.

    What was added is kept in `kept` [L, S] with the centers of its blocks [2, L, blocks], unless `kept` is empty.
    """
    stacked_labels, _, logit_bias, indptr, neighbors, strengths, auxiliary_start, log_lambda, smoothing = rows
    for i in range(len(stacked_labels)):
        label = stacked_labels[i, row]
        one = state[i, :, row]
        z_c, b_c = one[CENTER_LOGIT], one[CENTER_BIAS]
        mass, outside = np.float64(one[MASS]), np.float64(one[OUTSIDE_SUM])
        k, k_end = _list_from(label, indptr, neighbors, first_class, log_lambda)
        for start in range(0, len(logits), _BLOCK):
            n, first = min(_BLOCK, len(logits) - start), first_class + start
            z = _read(logits[start : start + n], blocks[0, :n])
            b, u = blocks[1, :n], blocks[2, : n if smoothing > 0 else 0]
            _copy_bias(b, logit_bias[first : first + n])
            for j in range(len(u)):
                u[j] = z[j] + b[j]
            k = _weigh(b, u, first, label, neighbors, strengths, k, k_end, auxiliary_start, log_lambda)
            outside += _sum(u)
            if first <= label < first + n:
                one[LABEL_LOGIT] = z[label - first]
            largest = _largest_score(z, b)
            if largest > z_c + b_c:
                best = 0
                while z[best] + b[best] != largest:
                    best += 1
                mass *= np.exp((np.float64(z_c) - z[best]) + (np.float64(b_c) - b[best]))
                z_c, b_c = z[best], b[best]
            if kept.size:
                centers[0, i, start // _BLOCK], centers[1, i, start // _BLOCK] = z_c, b_c
            mass += _mass(z, b, z_c, b_c, kept[i, start : start + n] if kept.size else u[:0])
        one[CENTER_LOGIT], one[CENTER_BIAS], one[MASS], one[OUTSIDE_SUM] = z_c, b_c, mass, outside


@_exact
def _finish(rows, num_outside, row, state, saved):
    """As `rows.finish`, of one row that counts: the loss, and what is saved."""
    stacked_labels, weights, logit_bias, indptr, _, _, _, _, smoothing = rows
    loss = np.float64(0)
    for i in range(len(stacked_labels)):
        label, one, mine = stacked_labels[i, row], state[i, :, row], saved[i, :, row]
        z_c, b_c, z_y, b_y = one[CENTER_LOGIT], one[CENTER_BIAS], one[LABEL_LOGIT], _ZERO
        if len(logit_bias):
            b_y = logit_bias[min(max(label, 0), len(logit_bias) - 1)]
        mass, s_y = np.float64(one[MASS]), np.float64(z_y) + b_y
        above = (np.float64(z_c) + b_c) - s_y
        # The log of all other mass over the label's; where there is none and the label has none either, NaN.
        rest = above + np.log(mass) if mass != 0 else (-np.inf if s_y > LOWEST else np.nan)
        ratio = np.exp(-abs(rest))
        value = np.log1p(ratio) + (rest if rest > 0 else 0.0)
        outside = np.float64(num_outside[i, row]) if smoothing > 0 else 0.0
        if smoothing > 0:
            value -= smoothing * (one[OUTSIDE_SUM] / outside - s_y)
        known = 0 <= label < len(indptr) - 1
        loss += value * weights[i, row] if known else np.nan
        if rest < 0:
            mine[0], mine[1], mine[TOTAL], mine[3] = z_y, b_y, 1 + ratio, ratio / (1 + ratio)
        else:
            mine[0], mine[1], mine[TOTAL], mine[3] = z_c, b_c, mass + np.exp(-above), 1 / (1 + ratio)
        mine[4] = outside
    return loss


@_exact
def _add_gradient(g, z, b, u, z_c, b_c, scale):
    if len(u):
        for j in range(len(g)):
            g[j] += _exp(_above(z[j], z_c, b[j], b_c)) * scale - u[j]
    else:
        for j in range(len(g)):
            g[j] += _exp(_above(z[j], z_c, b[j], b_c)) * scale


@_exact
def _gradient(logits, first_class, rows, row, saved, grad_loss, out, blocks, places):
    """The gradient of a slice [S] of a row's logits, for that of its loss."""
    stacked_labels, weights, logit_bias, indptr, neighbors, strengths, auxiliary_start, log_lambda, smoothing = rows
    for i in range(len(stacked_labels)):
        places[:, i] = _list_from(stacked_labels[i, row], indptr, neighbors, first_class, log_lambda)
    for start in range(0, len(logits), _BLOCK):
        n, first = min(_BLOCK, len(logits) - start), first_class + start
        z = _read(logits[start : start + n], blocks[0, :n])
        b, u, g = blocks[1, :n], blocks[2, : n if smoothing > 0 else 0], blocks[3, :n]
        for j in range(n):
            g[j] = _ZERO
        for i in range(len(stacked_labels)):
            label, upstream = stacked_labels[i, row], grad_loss * weights[i, row]
            z_c, b_c, total, others, outside = saved[i, :, row]
            _copy_bias(b, logit_bias[first : first + n])
            for j in range(len(u)):
                u[j] = upstream * smoothing / outside
            k, k_end = places[:, i]
            places[0, i] = _weigh(b, u, first, label, neighbors, strengths, k, k_end, auxiliary_start, log_lambda)
            _add_gradient(g, z, b, u, z_c, b_c, np.float32(upstream / total))
            if first <= label < first + n:
                g[label - first] -= upstream * (others - smoothing)
        _write(g, out[start : start + n])


@_exact
def _gradient_of_kept(kept, centers, rows, row, saved, grad_loss, out, blocks):
    """As `_gradient` of all classes without smoothing, of the exponentials that `_accumulate` kept."""
    stacked_labels, weights = rows[0], rows[1]
    for start in range(0, len(out), _BLOCK):
        n = min(_BLOCK, len(out) - start)
        g = blocks[3, :n]
        for i in range(len(stacked_labels)):
            z_c, b_c, total, others, _ = saved[i, :, row]
            upstream, label = grad_loss * weights[i, row], stacked_labels[i, row]
            z_block, b_block = centers[:, i, start // _BLOCK]
            scale = np.float32(upstream / total * np.exp((np.float64(z_block) - z_c) + (np.float64(b_block) - b_c)))
            _scale(g, kept[i, start : start + n], scale, i > 0)
            if start <= label < start + n:
                g[label - start] -= upstream * others
        _write(g, out[start : start + n])


@_exact
def _scale(g, kept, scale, more):
    if more:
        for j in range(len(g)):
            g[j] += kept[j] * scale
    else:
        for j in range(len(g)):
            g[j] = kept[j] * scale


@intrinsic
def _memory(typingctx, address):
    """What `carray` takes, of an address."""
    return types.voidptr(address), lambda context, builder, _, arguments: builder.inttoptr(
        arguments[0], context.get_value_type(types.voidptr)
    )


@intrinsic
def _add_at_once(typingctx, array, value):
    """Adds to array[0], which several threads may do at once, and returns what was there."""

    def generate(context, builder, signature, arguments):
        there = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        return builder.atomic_rmw("add", there, arguments[1], "monotonic")

    return types.int64(array, types.int64), generate


# What the threads share: addresses (0 for what is not there), then numbers.
_ADDRESSES = (
    "taken", "stacked_labels", "weights", "indptr", "indices", "strengths", "logit_bias", "num_outside", "logits",
    "state", "saved", "loss", "grad_loss", "out",
)  # fmt: skip
_NUMBERS = (
    "B", "C", "L", "S", "at_once", "first_class", "stride", "out_stride", "listed", "auxiliary_start", "ignore_index",
)  # fmt: skip
_JOB = np.dtype(
    [(name, np.int64) for name in (*_ADDRESSES, *_NUMBERS)] + [("log_lambda", np.float32), ("smoothing", np.float32)]
)


@_exact
def _take_rows(job, kind):
    """Takes rows, some at a time, until none is left; `kind` is the type of the logits."""
    B, L, S, stride, out_stride = job.B, job.L, job.S, job.stride, job.out_stride
    logits = carray(_memory(job.logits), (B - 1) * stride + S, kind)  # type: ignore[call-arg]
    out = carray(_memory(job.out), (B - 1) * out_stride + S, kind)
    stacked_labels = carray(_memory(job.stacked_labels), (L, B), np.int64)
    rows = (
        stacked_labels, carray(_memory(job.weights), (L, B), np.float32),
        carray(_memory(job.logit_bias), job.C if job.logit_bias else 0, np.float32),
        carray(_memory(job.indptr), job.C + 1, np.int64), carray(_memory(job.indices), job.listed, np.int64),
        carray(_memory(job.strengths), job.listed if job.strengths else 0, np.float32),
        job.auxiliary_start, job.log_lambda, job.smoothing,
    )  # fmt: skip
    num_outside = carray(_memory(job.num_outside), (L, B), np.int64)
    state = carray(_memory(job.state), (L, STATE_ROWS, B), np.float32)
    saved = carray(_memory(job.saved), (L, SAVED_ROWS, B), np.float32)
    loss, grad_loss = carray(_memory(job.loss), B, np.float32), carray(_memory(job.grad_loss), B, np.float32)
    blocks, places = np.empty((4, _BLOCK), np.float32), np.empty((2, L), np.int64)
    keeps = L if job.loss and job.out and job.smoothing == 0 and L * S <= _MOST_KEPT else 0
    kept, centers = np.empty((keeps, S), np.float32), np.empty((2, keeps, -(-S // _BLOCK)), np.float32)
    taken = carray(_memory(job.taken), 1, np.int64)
    begin = _add_at_once(taken, job.at_once)
    while begin < B:
        for row in range(begin, min(begin + job.at_once, B)):
            z, counts = logits[row * stride : row * stride + S], not np.any(stacked_labels[:, row] == job.ignore_index)
            if job.state and counts:
                _accumulate(z, job.first_class, rows, row, state, blocks, kept, centers)
            if job.loss:
                loss[row] = _finish(rows, num_outside, row, state, saved) if counts else 0
            if job.out:
                g = out[row * out_stride : row * out_stride + S]
                if counts and grad_loss[row] != 0 and keeps:
                    _gradient_of_kept(kept, centers, rows, row, saved, grad_loss[row], g, blocks)
                elif counts and grad_loss[row] != 0:
                    _gradient(z, job.first_class, rows, row, saved, grad_loss[row], g, blocks, places)
                else:
                    g[:] = 0
        begin = _add_at_once(taken, job.at_once)


def _take_float32_rows(job):
    _take_rows(carray(job, 1)[0], np.float32)


def _take_bfloat16_rows(job):
    _take_rows(carray(job, 1)[0], np.uint16)


def accumulate(logits: Tensor, first_class: int, rows: Rows, state: Tensor) -> None:
    """Adds a slice of logits [B, S], the classes from `first_class` on, to the state; any order of slices."""
    _run(logits, first_class, rows, state=state)


def loss_of(logits: Tensor, rows: Rows) -> tuple[Tensor, Tensor]:
    """(loss [B], saved [L, 5, B]), float32, of logits [B, C]."""
    loss, saved = _new_results(rows)
    _run(logits, 0, rows, state=rows.new_state(), saved=saved, loss=loss)
    return loss, saved


def gradient(logits: Tensor, first_class: int, rows: Rows, saved: Tensor, grad_loss: Tensor, out: Tensor) -> None:
    """Writes the gradient of a slice of logits [B, S] to `out` [B, S], which may be `logits` itself.

    Args:
        grad_loss: gradient of the loss of each row, float32 [B], of any stride.
    """
    _run(logits, first_class, rows, saved=saved.contiguous(), grad_loss=grad_loss.contiguous(), out=out)


def loss_and_gradient(logits: Tensor, rows: Rows, mean: bool, out: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(mean or sum of the loss [], saved [L, 5, B], weight of a row's loss []); its gradient to `out` [B, C].

    All float32; `out` may be the logits.
    """
    loss, saved = _new_results(rows)
    weight = 1 / max(int(rows.counted().sum()), 1) if mean else 1.0
    grad_loss = torch.full_like(loss, weight)
    _run(logits, 0, rows, state=rows.new_state(), saved=saved, loss=loss, grad_loss=grad_loss, out=out)
    return loss.sum() * weight, saved, torch.tensor(weight)


def rescale(gradient: Tensor, factor: Tensor) -> None:
    """Multiplies a gradient [B, C] by a factor [] in place; costs nothing where that is 1."""
    if factor.item() != 1:
        gradient.mul_(factor)


def _new_results(rows: Rows) -> tuple[Tensor, Tensor]:
    """Memory for (loss [B], saved [L, 5, B]), float32."""
    L, B = rows.stacked_labels.shape
    return torch.empty(B), torch.empty(L, SAVED_ROWS, B)


def _run(logits: Tensor, first_class: int, rows: Rows, out: Tensor | None = None, **results: Tensor) -> None:
    """Takes every row through the passes whose results are given: state, loss and saved, out."""
    (L, B), (_, S), threads = rows.stacked_labels.shape, logits.shape, torch.get_num_threads()
    weights = torch.ones(L, B) if rows.weights is None else rows.weights
    outside = rows.num_outside(rows.num_listed()) if rows.smoothing > 0 and "loss" in results else None
    taken = torch.zeros(1, dtype=torch.int64)
    tensors = {
        "taken": taken, "stacked_labels": rows.stacked_labels, "weights": weights, "indptr": rows.indptr,
        "indices": rows.indices, "strengths": rows.strengths, "logit_bias": rows.logit_bias,
        "num_outside": outside, **results,
    }  # fmt: skip
    assert all(tensor is None or tensor.is_contiguous() for tensor in tensors.values())
    tensors |= {"logits": logits, "out": out}
    at_once = max(1, min(_CLASSES_AT_ONCE // max(S, 1), B // (4 * threads)))
    numbers = (
        B, rows.num_classes, L, S, at_once, first_class, logits.stride(0), 0 if out is None else out.stride(0),
        len(rows.indices), rows.auxiliary_start if rows.silences else rows.num_classes, rows.ignore_index,
        rows.log_lambda, rows.smoothing,
    )  # fmt: skip
    if out is not None:
        _take_huge_pages(out)
    addresses = (0 if (tensor := tensors.get(name)) is None else tensor.data_ptr() for name in _ADDRESSES)
    _call(logits.dtype, np.array((*addresses, *numbers), _JOB), threads if logits.numel() > _CLASSES_AT_ONCE else 1)
    if taken.item() < B:  # a thread that finds no memory can only end
        raise MemoryError(f"the loss of {B} rows of {S} classes found no memory for its threads.")


def _take_huge_pages(out: Tensor) -> None:
    """Asks for pages of 2 MB where the memory is fresh: faults of 4 kB each take longer than the gradient does."""
    first, end = -(-out.data_ptr() // _HUGE_PAGE), (out.data_ptr() + out.nbytes) // _HUGE_PAGE
    if end > first and hasattr(mmap, "MADV_HUGEPAGE") and out.is_contiguous():
        size = ctypes.c_size_t((end - first) * _HUGE_PAGE)
        _from_c("madvise")(ctypes.c_void_p(first * _HUGE_PAGE), size, mmap.MADV_HUGEPAGE)


def _call(dtype: torch.dtype, job: np.ndarray, threads: int) -> None:
    """Has that many threads take the rows of a job, torch's own where it computes with OpenMP.

    Those are at hand at once: after an operator of torch they wait for the next one in a loop, which keeps threads of
    others off their cores for milliseconds.
    """
    function, memory = _compiled(dtype), ctypes.c_void_p(job.ctypes.data)
    if threads == 1:
        function(memory)
    elif in_parallel := _from_c("GOMP_parallel"):
        in_parallel(function, memory, ctypes.c_uint(threads), ctypes.c_uint(0))
    else:
        others = [_threads().submit(function, memory) for _ in range(threads - 1)]
        function(memory)
        for other in others:
            other.result()


@cache
def _from_c(name: str) -> Any:
    """A function of a library that torch has loaded, or of C's; None where there is none."""
    return getattr(ctypes.CDLL(None), name, None)


@cache
def _compiled(dtype: torch.dtype) -> Callable:
    """What takes the rows of a job, called without Python's lock."""
    take = _take_bfloat16_rows if dtype == torch.bfloat16 else _take_float32_rows
    address = cached(cfunc, types.void(types.CPointer(from_dtype(_JOB))))(take).address
    return ctypes.CFUNCTYPE(None, ctypes.c_void_p)(address)


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max(torch.get_num_threads(), 2) - 1, thread_name_prefix="fastlt-rows")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_threads.cache_clear)  # which has none of the threads
