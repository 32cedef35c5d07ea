"""The two passes over a slice of logits as Triton kernels, one program a row.

A block is R x LANES classes. Every lane keeps the largest score it has seen and the mass relative to it, so that the
stream needs one exponential an element and no reduction over lanes; they are joined once, at the end. The silenced
set of a row is sorted and walked beside the stream: only blocks that hold a member of it, or the label, are looked
at class by class, and nothing is ever subtracted from a total.

Shapes as in `rows.py`: B samples, C classes, S classes of a slice, L labels a sample. Letters: z logit, b logit_bias,
s = z + b score.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from .rows import LOWEST, SAVED_ROWS, STATE_ROWS, Rows

_LOWEST = tl.constexpr(LOWEST)
_NO_CLASS = tl.constexpr(2**31 - 1)
_STATE_ROWS = tl.constexpr(STATE_ROWS)
_SAVED_ROWS = tl.constexpr(SAVED_ROWS)
_COMPILED = tl.constexpr(not triton.knobs.runtime.interpret)  # the interpreter knows no assembly


@triton.jit
def _exp(x):
    """exp(x) in one multiplication and one instruction; what would be denormal is 0."""
    if _COMPILED:
        return tl.inline_asm_elementwise(
            "ex2.approx.ftz.f32 $0, $1;", "=f,f", [x * 1.4426950408889634], dtype=tl.float32, is_pure=True, pack=1
        )
    return tl.exp(x)


@triton.jit
def _add(scores, center, mass):
    """Adds exp(scores), [R, LANES], to the lanes' masses, [LANES], relative to their centers."""
    top = tl.maximum(center, tl.max(scores, 0))
    mass = mass * _exp(center - top) + tl.sum(_exp(scores - top[None, :]), 0)
    return top, mass


@triton.jit
def _scores(logits, block_bias, offsets, inside, HAS_BIAS: tl.constexpr, WHOLE: tl.constexpr):
    """Scores of a block of logits, float32."""
    scores = logits.to(tl.float32)
    if HAS_BIAS:
        if WHOLE:
            scores += tl.load(block_bias + offsets)
        else:
            scores += tl.load(block_bias + offsets, mask=inside, other=0.0)
    return scores


@triton.jit
def _first_neighbor(neighbors, k, k_end, first_class):
    """Position of the first neighbor in the slice, by bisection of the sorted list."""
    high = k_end
    while k < high:
        middle = (k + high) // 2
        below = tl.load(neighbors + middle) < first_class
        k = tl.where(below, middle + 1, k)
        high = tl.where(below, high, middle)
    return k


@triton.jit
def _neighbor(neighbors, k, k_end, first_class):
    """The k-th neighbor, counted from the slice's first class; a class beyond all others after the last."""
    found = tl.load(neighbors + k, mask=k < k_end, other=0) - first_class
    return tl.where(k < k_end, found, _NO_CLASS).to(tl.int32)


@triton.jit
def _silenced(offsets, start, block_end, is_auxiliary, auxiliary_start, neighbors, k, k_end, neighbor, first_class):
    """(classes of the block in the label's silenced set, next position, next neighbor)."""
    found = (offsets >= auxiliary_start - start) & is_auxiliary
    while neighbor < block_end:
        found = found | (offsets == neighbor - start)
        k += 1
        neighbor = _neighbor(neighbors, k, k_end, first_class)
    return found, k, neighbor


@triton.jit
def _is_plain(start, block_end, label_column, is_auxiliary, auxiliary_start, neighbor):
    """Whether a block holds neither the label nor a silenced class."""
    has_label = (label_column >= start) & (label_column < block_end)
    return (has_label | (neighbor < block_end) | (is_auxiliary & (block_end > auxiliary_start))) == 0


@triton.jit
def _open_list(label, C, indptr, neighbors, first_class, SILENCE: tl.constexpr):
    """(position, end, neighbor) of the label's sorted list at the slice's first class."""
    k = tl.zeros((), tl.int64)
    k_end = k
    neighbor = tl.full((), _NO_CLASS, tl.int32)
    if SILENCE:
        known = tl.minimum(tl.maximum(label, 0), C - 1)
        k_end = tl.load(indptr + known + 1)
        k = _first_neighbor(neighbors, tl.load(indptr + known), k_end, first_class)
        neighbor = _neighbor(neighbors, k, k_end, first_class)
    return k, k_end, neighbor


@triton.jit
def _num_outside(label, C, indptr, auxiliary_start, SILENCE: tl.constexpr):
    """Classes that are not silenced for the label, itself included."""
    outside = tl.zeros((), tl.int64) + C
    if SILENCE:
        outside -= tl.load(indptr + label + 1) - tl.load(indptr + label)
        outside -= tl.where(label >= auxiliary_start, C - auxiliary_start - 1, 0)
    return outside.to(tl.float32)


@triton.jit
def _take(
    start, logits, offsets, S, block_bias, first_class, label_column, is_auxiliary, auxiliary_start, log_lambda,
    neighbors, k, k_end, neighbor, center, mass, outside,
    HAS_BIAS: tl.constexpr, SMOOTH: tl.constexpr, WHOLE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Adds one block to the lanes: (next position, next neighbor, center, mass, outside sum)."""
    block_end = start + BLOCK
    inside = offsets < S - start
    scores = _scores(logits, block_bias, offsets, inside, HAS_BIAS, WHOLE)
    counted = scores  # what smoothing counts
    if not WHOLE:
        counted = tl.where(inside, scores, 0.0)
    if not _is_plain(start, block_end, label_column, is_auxiliary, auxiliary_start, neighbor):
        silenced, k, neighbor = _silenced(
            offsets, start, block_end, is_auxiliary, auxiliary_start, neighbors, k, k_end, neighbor, first_class
        )
        at_label = offsets == label_column - start
        if SMOOTH:
            counted = tl.where(silenced & (at_label == 0), 0.0, counted)
        scores = tl.where(silenced, scores + log_lambda, scores)
        scores = tl.where(at_label, scores - float("inf"), scores)  # a label of NaN stays NaN
    if SMOOTH:
        outside += tl.sum(counted, 0)
    center, mass = _add(scores, center, mass)
    return k, neighbor, center, mass, outside


@triton.jit
def _accumulate_label(
    label, row_logits, first_class, S, C, logit_bias, indptr, neighbors, auxiliary_start, log_lambda,
    state, row, B,
    HAS_BIAS: tl.constexpr, SILENCE: tl.constexpr, SMOOTH: tl.constexpr, FIRST: tl.constexpr,
    R: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """State of one row and label after this slice: (center, mass, label z, outside sum)."""
    BLOCK: tl.constexpr = R * LANES
    lanes = tl.arange(0, LANES)
    offsets = tl.arange(0, R)[:, None] * LANES + lanes[None, :]
    label_column = (label - first_class).to(tl.int32)
    here = (label >= first_class) & (label < first_class + S)
    z_y = tl.load(row_logits + label_column, mask=here, other=0.0).to(tl.float32)
    mass = tl.zeros((LANES,), tl.float32)
    outside = tl.zeros((LANES,), tl.float32)
    center = tl.full((LANES,), _LOWEST, tl.float32)
    if not FIRST:
        center = tl.maximum(center, tl.load(state + row) + tl.load(state + B + row))
        mass = tl.where(lanes == 0, tl.load(state + 2 * B + row), mass)
        z_y = tl.where(here, z_y, tl.load(state + 3 * B + row))
        outside = tl.where(lanes == 0, tl.load(state + 4 * B + row), outside)
    k, k_end, neighbor = _open_list(label, C, indptr, neighbors, first_class, SILENCE)
    is_auxiliary = label >= auxiliary_start
    if not SILENCE:
        is_auxiliary = label < -1  # never
    start_local = (auxiliary_start - first_class).to(tl.int32)
    row_bias = logit_bias + first_class
    whole = S // BLOCK * BLOCK
    logits = tl.load(row_logits + offsets, mask=offsets < whole, other=0.0)
    for start in range(0, whole, BLOCK):
        # The next block is on its way while this one is computed; the last is asked for twice.
        following = tl.load(row_logits + tl.minimum(start + BLOCK, whole - BLOCK) + offsets)
        k, neighbor, center, mass, outside = _take(
            start, logits, offsets, S, row_bias + start, first_class, label_column, is_auxiliary, start_local,
            log_lambda, neighbors, k, k_end, neighbor, center, mass, outside, HAS_BIAS, SMOOTH, True, BLOCK,
        )  # fmt: skip
        logits = following
    if whole < S:
        logits = tl.load(row_logits + whole + offsets, mask=offsets < S - whole, other=-float("inf"))
        k, neighbor, center, mass, outside = _take(
            whole, logits, offsets, S, row_bias + whole, first_class, label_column, is_auxiliary, start_local,
            log_lambda, neighbors, k, k_end, neighbor, center, mass, outside, HAS_BIAS, SMOOTH, False, BLOCK,
        )  # fmt: skip
    top = tl.max(center, 0)
    return top, tl.sum(mass * tl.exp(center - top)), z_y, tl.sum(outside)


@triton.jit
def _finish_label(
    label, center, mass, z_y, outside_sum, C, logit_bias, indptr, auxiliary_start, smoothing, saved, row, B,
    HAS_BIAS: tl.constexpr, SILENCE: tl.constexpr, SMOOTH: tl.constexpr,
):  # fmt: skip
    """Loss of one row and label; stores what the second pass needs. See `rows.finish`."""
    known = (label >= 0) & (label < C)
    label = tl.where(known, label, 0)
    b_y = 0.0
    if HAS_BIAS:
        b_y = tl.load(logit_bias + label)
    empty = mass == 0.0
    above = (center - z_y) - b_y  # of the center over the label
    rest = tl.where(empty, -float("inf"), above + tl.log(tl.where(empty, 1.0, mass)))
    # softplus, with log1p(x) = log(1 + x) * x / ((1 + x) - 1), exact to rounding for small x
    small = tl.exp(-tl.abs(rest))
    u = 1.0 + small
    log1p = tl.where(u == 1.0, small, tl.log(u) * (small / tl.where(u == 1.0, 1.0, u - 1.0)))
    loss = tl.maximum(rest, 0.0) + log1p
    loss = tl.where(rest == rest, loss, rest)  # NaN logits stay visible
    if SMOOTH:
        outside = _num_outside(label, C, indptr, auxiliary_start, SILENCE)
        loss -= smoothing * (outside_sum / outside - (z_y + b_y))
        tl.store(saved + 4 * B + row, outside)
    leads = rest < 0
    label_mass = tl.exp(tl.where(leads, 0.0, -above))
    tl.store(saved + row, tl.where(leads, z_y, center))
    tl.store(saved + B + row, tl.where(leads, b_y, 0.0))
    tl.store(saved + 2 * B + row, label_mass + tl.where(leads, tl.exp(rest), mass))
    tl.store(saved + 3 * B + row, tl.where(rest > 0, 1.0, small) / (1.0 + small))
    return tl.where(known, loss, float("nan"))


@triton.jit
def _accumulate(
    logits, stacked_labels, weights, logit_bias, indptr, neighbors, state, loss, saved,
    B, S, C, first_class, row_stride, auxiliary_start, log_lambda, smoothing, ignore_index,
    L: tl.constexpr, HAS_BIAS: tl.constexpr, SILENCE: tl.constexpr, SMOOTH: tl.constexpr,
    FIRST: tl.constexpr, LAST: tl.constexpr, UNIT: tl.constexpr, R: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    counts = tl.load(stacked_labels + row) != ignore_index
    if L == 2:
        counts = counts & (tl.load(stacked_labels + B + row) != ignore_index)
    width = tl.where(counts, tl.zeros((), tl.int32) + S, 0)  # a row that does not count is not read
    total = 0.0
    for i in tl.static_range(L):
        label = tl.load(stacked_labels + i * B + row)
        one = state + i * _STATE_ROWS * B
        center, mass, z_y, outside = _accumulate_label(
            label, logits + row * row_stride * UNIT, first_class, width, C, logit_bias, indptr, neighbors,
            auxiliary_start, log_lambda, one, row, B, HAS_BIAS, SILENCE, SMOOTH, FIRST, R, LANES,
        )  # fmt: skip
        if LAST:
            part = _finish_label(
                label, center, mass, z_y, outside, C, logit_bias, indptr, auxiliary_start, smoothing,
                saved + i * _SAVED_ROWS * B, row, B, HAS_BIAS, SILENCE, SMOOTH,
            )  # fmt: skip
            if L == 2:
                part *= tl.load(weights + i * B + row)
            total += part
        else:
            tl.store(one + row, center)
            tl.store(one + B + row, 0.0)
            tl.store(one + 2 * B + row, mass)
            tl.store(one + 3 * B + row, z_y)
            tl.store(one + 4 * B + row, outside)
    if LAST:
        tl.store(loss + row, tl.where(counts, total, 0.0))


@triton.jit
def _open_gradient(
    label, weight, upstream, first_class, C, indptr, neighbors, auxiliary_start, smoothing, saved, row, B,
    SILENCE: tl.constexpr, SMOOTH: tl.constexpr,
):  # fmt: skip
    """What the gradient of a row needs for one label, see `_gradient_label`."""
    upstream *= weight
    z_c = tl.load(saved + row)
    b_c = tl.load(saved + B + row)
    center = z_c + b_c
    # The total is relative to z_c + b_c, which float32 had to round.
    scale = upstream / tl.load(saved + 2 * B + row) * tl.exp((center - z_c) - b_c)
    at_label = -upstream * (tl.load(saved + 3 * B + row) - smoothing)
    share = 0.0
    if SMOOTH:
        share = upstream * smoothing / tl.load(saved + 4 * B + row)
    k, k_end, neighbor = _open_list(label, C, indptr, neighbors, first_class, SILENCE)
    is_auxiliary = label >= auxiliary_start
    if not SILENCE:
        is_auxiliary = label < -1  # never
    return (label - first_class).to(tl.int32), is_auxiliary, center, scale, at_label, share, k, k_end, neighbor


@triton.jit
def _gradient_label(
    start, offsets, scores, label_column, is_auxiliary, auxiliary_start, center, scale, at_label, share,
    neighbors, k, k_end, neighbor, first_class, log_lambda, SMOOTH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """(one label's part of the gradient of a block, next position, next neighbor)."""
    block_end = start + BLOCK
    if _is_plain(start, block_end, label_column, is_auxiliary, auxiliary_start, neighbor):
        gradient = _exp(scores - center) * scale
        if SMOOTH:
            gradient -= share
    else:
        silenced, k, neighbor = _silenced(
            offsets, start, block_end, is_auxiliary, auxiliary_start, neighbors, k, k_end, neighbor, first_class
        )
        scores = tl.where(silenced, scores + log_lambda, scores)
        gradient = _exp(scores - center) * scale
        if SMOOTH:
            gradient -= tl.where(silenced, 0.0, share)
        gradient = tl.where(offsets == label_column - start, at_label - share, gradient)
    return gradient, k, neighbor


@triton.jit
def _gradient(
    logits, stacked_labels, weights, logit_bias, indptr, neighbors, saved, grad_loss, grad_logits,
    B, S, C, first_class, row_stride, grad_stride, grad_loss_stride, auxiliary_start, log_lambda, smoothing,
    ignore_index,
    L: tl.constexpr, HAS_BIAS: tl.constexpr, SILENCE: tl.constexpr, SMOOTH: tl.constexpr, UNIT: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    row_logits = logits + row * row_stride * UNIT
    row_gradient = grad_logits + row * grad_stride * UNIT
    row_bias = logit_bias + first_class
    offsets = tl.arange(0, BLOCK)
    upstream = tl.load(grad_loss + row * grad_loss_stride)
    label = tl.load(stacked_labels + row)
    counts = (label != ignore_index) & (upstream != 0.0)
    weight = 1.0
    if L == 2:
        label2 = tl.load(stacked_labels + B + row)
        counts = counts & (label2 != ignore_index)
        weight = tl.load(weights + row)
        column2, auxiliary2, center2, scale2, at_label2, share2, k2, k_end2, neighbor2 = _open_gradient(
            label2, tl.load(weights + B + row), upstream, first_class, C, indptr, neighbors, auxiliary_start,
            smoothing, saved + _SAVED_ROWS * B, row, B, SILENCE, SMOOTH,
        )  # fmt: skip
    column, auxiliary, center, scale, at_label, share, k, k_end, neighbor = _open_gradient(
        label, weight, upstream, first_class, C, indptr, neighbors, auxiliary_start, smoothing, saved, row, B,
        SILENCE, SMOOTH,
    )  # fmt: skip
    start_local = (auxiliary_start - first_class).to(tl.int32)
    width = tl.zeros((), tl.int32) + S
    readable = tl.where(counts, width, 0)  # rows that do not count may hold NaN and are not even read
    for start in range(0, readable, BLOCK):
        inside = offsets < width - start
        if start + BLOCK <= width:  # loads without a mask are one instruction for 16 bytes
            z = tl.load(row_logits + start + offsets)
            scores = _scores(z, row_bias + start, offsets, inside, HAS_BIAS, True)
        else:
            z = tl.load(row_logits + start + offsets, mask=inside, other=-float("inf"))
            scores = _scores(z, row_bias + start, offsets, inside, HAS_BIAS, False)
        gradient, k, neighbor = _gradient_label(
            start, offsets, scores, column, auxiliary, start_local, center, scale, at_label, share,
            neighbors, k, k_end, neighbor, first_class, log_lambda, SMOOTH, BLOCK,
        )  # fmt: skip
        if L == 2:
            second, k2, neighbor2 = _gradient_label(
                start, offsets, scores, column2, auxiliary2, start_local, center2, scale2, at_label2, share2,
                neighbors, k2, k_end2, neighbor2, first_class, log_lambda, SMOOTH, BLOCK,
            )  # fmt: skip
            gradient += second
        tl.store(row_gradient + start + offsets, gradient, mask=inside)
    for start in range(readable, width, BLOCK):  # all of a row that does not count
        tl.store(row_gradient + start + offsets, tl.zeros((BLOCK,), tl.float32), mask=offsets < width - start)


def check_device(device: torch.device) -> None:
    """Raises ValueError where Triton's kernels cannot run."""
    if device.type != "cuda" and not triton.knobs.runtime.interpret:
        raise ValueError("impl='triton' needs a GPU, or TRITON_INTERPRET=1 set before Triton is imported.")


def accumulate(logits: Tensor, first_class: int, rows: Rows, state: Tensor) -> None:
    """Adds a slice of logits [B, S], the classes from `first_class` on, to the state; any order of slices."""
    _run_accumulate(logits, first_class, rows, state, state, state, first=False, last=False)


def loss_of(logits: Tensor, rows: Rows) -> tuple[Tensor, Tensor]:
    """(loss [B], saved [L, 5, B]), float32, of logits [B, C] in one kernel."""
    L, B = rows.stacked_labels.shape
    loss = torch.empty(B, dtype=torch.float32, device=logits.device)
    saved = torch.empty(L, SAVED_ROWS, B, dtype=torch.float32, device=logits.device)
    _run_accumulate(logits, 0, rows, saved, loss, saved, first=True, last=True)
    return loss, saved


def gradient(logits: Tensor, first_class: int, rows: Rows, saved: Tensor, grad_loss: Tensor, out: Tensor) -> None:
    """Writes the gradient of a slice of logits [B, S] to `out` [B, S], which may be `logits` itself.

    Args:
        grad_loss: gradient of the loss of each row, float32 [B], of any stride.
    """
    if not logits.numel():
        return
    lanes, warps = _configuration(logits.shape[1])
    unit = math.gcd(logits.stride(0), out.stride(0), 16)
    _gradient[(len(logits),)](
        logits, rows.stacked_labels, _or(rows.weights, logits), _or(rows.logit_bias, logits), rows.indptr,
        rows.indices, saved, grad_loss, out, *logits.shape, rows.num_classes, first_class, logits.stride(0) // unit,
        out.stride(0) // unit, grad_loss.stride(0), rows.auxiliary_start, rows.log_lambda, rows.smoothing,
        rows.ignore_index,
        L=len(rows.stacked_labels), HAS_BIAS=rows.logit_bias is not None, SILENCE=rows.silences,
        SMOOTH=rows.smoothing > 0, UNIT=unit, BLOCK=lanes, num_warps=warps,
    )  # fmt: skip


def _run_accumulate(logits, first_class, rows: Rows, state, loss, saved, first: bool, last: bool) -> None:
    if not len(logits):
        return
    lanes, warps = _configuration(logits.shape[1])
    unit = math.gcd(logits.stride(0), 16)  # a constant by which the compiler knows how rows are aligned
    _accumulate[(len(logits),)](
        logits, rows.stacked_labels, _or(rows.weights, logits), _or(rows.logit_bias, logits), rows.indptr, rows.indices,
        state, loss, saved, *logits.shape, rows.num_classes, first_class, logits.stride(0) // unit,
        rows.auxiliary_start, rows.log_lambda, rows.smoothing, rows.ignore_index,
        L=len(rows.stacked_labels), HAS_BIAS=rows.logit_bias is not None, SILENCE=rows.silences,
        SMOOTH=rows.smoothing > 0, FIRST=first, LAST=last, UNIT=unit, R=2 if warps > 1 else 1, LANES=lanes,
        num_warps=warps,
    )  # fmt: skip


def _configuration(width: int) -> tuple[int, int]:
    """(lanes, warps) for a slice of that many classes: eight lanes a thread, which bfloat16 loads at once."""
    if width <= 256:
        return max(triton.next_power_of_2(width), 16), 1
    warps = 2 if width <= 2048 else 4 if width <= 16384 else 8
    return 256 * warps, warps


def _or(tensor: Tensor | None, stand_in: Tensor) -> Tensor:
    """Kernels take no None; a stand-in that is never read goes in its place."""
    return stand_in if tensor is None else tensor
