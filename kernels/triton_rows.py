"""The two passes over a slice of logits as Triton kernels, one program a row.

Every lane of a block keeps the largest class it has seen and the mass relative to that, so the stream needs one
exponential an element and no reduction; lanes are joined once, at its end. Exponents are taken as
(z_j - z_c) + (b_j - b_c): such differences round at their own size, so that float32 keeps 1e-5 at logits of +-80.
The silenced set of a row is sorted and walked beside the stream: a block that holds none of it pays one comparison,
and nothing is ever subtracted from a total.

Shapes as in `rows.py`: B samples, C classes, S classes of a slice, L labels a sample. Letters: z logit, b bias.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .rows import LOWEST, SAVED_ROWS, STATE_ROWS, Rows

_LOWEST = tl.constexpr(LOWEST)
_NO_CLASS = tl.constexpr(2**31 - 1)
_STATE_ROWS = tl.constexpr(STATE_ROWS)
_SAVED_ROWS = tl.constexpr(SAVED_ROWS)


@triton.jit
def _add(z, b, center_z, center_b, mass):
    """Adds exp(z + b) to the lanes' masses."""
    rise = (z - center_z) + (b - center_b)
    small = tl.exp(-tl.abs(rise))
    higher = rise > 0
    mass = tl.where(higher, mass * small + 1.0, mass + small)
    return tl.where(higher, z, center_z), tl.where(higher, b, center_b), mass


@triton.jit
def _join(center_z, center_b, mass, lanes):
    """One center and mass of all lanes."""
    best = lanes == tl.argmax(center_z + center_b, 0)
    z = tl.sum(tl.where(best, center_z, 0.0))
    b = tl.sum(tl.where(best, center_b, 0.0))
    return z, b, tl.sum(mass * tl.exp((center_z - z) + (center_b - b)))


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
def _silenced(columns, block_end, is_auxiliary, auxiliary_start, neighbors, k, k_end, neighbor, first_class):
    """(columns of the block in the label's silenced set, next position, next neighbor)."""
    found = (columns >= auxiliary_start) & is_auxiliary
    while neighbor < block_end:
        found = found | (columns == neighbor)
        k += 1
        neighbor = _neighbor(neighbors, k, k_end, first_class)
    return found, k, neighbor


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
def _accumulate_label(
    label, row_logits, first_class, S, C, bias, indptr, neighbors, auxiliary_start, log_lambda,
    state, row, B,
    HAS_BIAS: tl.constexpr, SILENCE: tl.constexpr, SMOOTH: tl.constexpr, FIRST: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """State of one row and label after this slice: (center z, center b, mass, label z, outside sum)."""
    lanes = tl.arange(0, BLOCK)
    label_column = (label - first_class).to(tl.int32)
    here = (label >= first_class) & (label < first_class + S)
    z_y = tl.load(row_logits + label_column, mask=here, other=0.0).to(tl.float32)
    center_b = tl.zeros((BLOCK,), tl.float32)
    mass = tl.zeros((BLOCK,), tl.float32)
    outside = tl.zeros((BLOCK,), tl.float32)
    if FIRST:
        center_z = tl.full((BLOCK,), _LOWEST, tl.float32)
    else:
        center_z = tl.zeros((BLOCK,), tl.float32) + tl.load(state + row)
        center_b += tl.load(state + B + row)
        mass = tl.where(lanes == 0, tl.load(state + 2 * B + row), mass)
        z_y = tl.where(here, z_y, tl.load(state + 3 * B + row))
        outside = tl.where(lanes == 0, tl.load(state + 4 * B + row), outside)
    k, k_end, neighbor = _open_list(label, C, indptr, neighbors, first_class, SILENCE)
    for start in range(0, S, BLOCK):
        columns = start + lanes
        inside = columns < S
        z = tl.load(row_logits + columns, mask=inside, other=-float("inf")).to(tl.float32)
        b = tl.zeros((BLOCK,), tl.float32)
        if HAS_BIAS:
            b = tl.load(bias + first_class + columns, mask=inside, other=0.0)
        counted = inside
        weighted = b
        if SILENCE:
            silenced, k, neighbor = _silenced(
                columns, start + BLOCK, label >= auxiliary_start, auxiliary_start - first_class,
                neighbors, k, k_end, neighbor, first_class,
            )  # fmt: skip
            counted = inside & ((silenced == 0) | (columns == label_column))
            weighted = tl.where(silenced, b + log_lambda, b)
        if SMOOTH:
            outside += tl.where(counted, z + b, 0.0)
        weighted = tl.where(columns == label_column, -float("inf"), weighted)
        center_z, center_b, mass = _add(z, weighted, center_z, center_b, mass)
    z_c, b_c, total = _join(center_z, center_b, mass, lanes)
    return z_c, b_c, total, z_y, tl.sum(outside)


@triton.jit
def _finish_label(
    label, z_c, b_c, mass, z_y, outside_sum, C, bias, indptr, auxiliary_start, smoothing, saved, row, B,
    HAS_BIAS: tl.constexpr, SILENCE: tl.constexpr, SMOOTH: tl.constexpr,
):  # fmt: skip
    """Loss of one row and label; stores what the second pass needs. See `rows.finish`."""
    known = (label >= 0) & (label < C)
    label = tl.where(known, label, 0)
    b_y = 0.0
    if HAS_BIAS:
        b_y = tl.load(bias + label)
    empty = mass == 0.0
    rest = tl.where(empty, -float("inf"), ((z_c - z_y) + (b_c - b_y)) + tl.log(tl.where(empty, 1.0, mass)))
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
    label_mass = tl.exp(tl.where(leads, 0.0, (z_y - z_c) + (b_y - b_c)))
    tl.store(saved + row, tl.where(leads, z_y, z_c))
    tl.store(saved + B + row, tl.where(leads, b_y, b_c))
    tl.store(saved + 2 * B + row, label_mass + tl.where(leads, tl.exp(rest), mass))
    tl.store(saved + 3 * B + row, tl.where(rest > 0, 1.0, small) / (1.0 + small))
    return tl.where(known, loss, float("nan"))


@triton.jit
def _accumulate(
    logits, targets, weights, bias, indptr, neighbors, state, loss, saved,
    B, S, C, first_class, row_stride, auxiliary_start, log_lambda, smoothing, ignore_index,
    L: tl.constexpr, HAS_BIAS: tl.constexpr, SILENCE: tl.constexpr, SMOOTH: tl.constexpr,
    FIRST: tl.constexpr, LAST: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    counts = tl.load(targets + row) != ignore_index
    if L == 2:
        counts = counts & (tl.load(targets + B + row) != ignore_index)
    total = 0.0
    for i in tl.static_range(L):
        label = tl.load(targets + i * B + row)
        one = state + i * _STATE_ROWS * B
        z_c, b_c, mass, z_y, outside = _accumulate_label(
            label, logits + row * row_stride, first_class, tl.where(counts, S, 0), C, bias, indptr, neighbors,
            auxiliary_start, log_lambda, one, row, B, HAS_BIAS, SILENCE, SMOOTH, FIRST, BLOCK,
        )  # fmt: skip
        if LAST:
            part = _finish_label(
                label, z_c, b_c, mass, z_y, outside, C, bias, indptr, auxiliary_start, smoothing,
                saved + i * _SAVED_ROWS * B, row, B, HAS_BIAS, SILENCE, SMOOTH,
            )  # fmt: skip
            if L == 2:
                part *= tl.load(weights + i * B + row)
            total += part
        else:
            tl.store(one + row, z_c)
            tl.store(one + B + row, b_c)
            tl.store(one + 2 * B + row, mass)
            tl.store(one + 3 * B + row, z_y)
            tl.store(one + 4 * B + row, outside)
    if LAST:
        tl.store(loss + row, tl.where(counts, total, 0.0))


@triton.jit
def _gradient(
    logits, targets, weights, bias, indptr, neighbors, saved, grad_loss, grad_logits,
    B, S, C, first_class, row_stride, grad_stride, grad_loss_stride, auxiliary_start, log_lambda, smoothing,
    ignore_index,
    L: tl.constexpr, HAS_BIAS: tl.constexpr, SILENCE: tl.constexpr, SMOOTH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    row_logits = logits + row * row_stride
    lanes = tl.arange(0, BLOCK)
    upstream = tl.load(grad_loss + row * grad_loss_stride)
    label = tl.load(targets + row)
    counts = label != ignore_index
    column = (label - first_class).to(tl.int32)
    z_c = tl.load(saved + row)
    b_c = tl.load(saved + B + row)
    scale = upstream / tl.load(saved + 2 * B + row)
    at_label = -upstream * (tl.load(saved + 3 * B + row) - smoothing)
    k, k_end, neighbor = _open_list(label, C, indptr, neighbors, first_class, SILENCE)
    share = 0.0
    if SMOOTH:
        share = upstream * smoothing / tl.load(saved + 4 * B + row)
    if L == 2:
        label2 = tl.load(targets + B + row)
        counts = counts & (label2 != ignore_index)
        column2 = (label2 - first_class).to(tl.int32)
        saved2 = saved + _SAVED_ROWS * B
        z_c2 = tl.load(saved2 + row)
        b_c2 = tl.load(saved2 + B + row)
        weight = tl.load(weights + row)
        weight2 = tl.load(weights + B + row)
        scale2 = weight2 * upstream / tl.load(saved2 + 2 * B + row)
        at_label2 = -weight2 * upstream * (tl.load(saved2 + 3 * B + row) - smoothing)
        scale *= weight
        at_label *= weight
        k2, k_end2, neighbor2 = _open_list(label2, C, indptr, neighbors, first_class, SILENCE)
        share2 = 0.0
        if SMOOTH:
            share *= weight
            share2 = weight2 * upstream * smoothing / tl.load(saved2 + 4 * B + row)
    readable = tl.where(counts & (upstream != 0.0), S, 0)  # rows that do not count may hold NaN and are not even read
    for start in range(0, S, BLOCK):
        columns = start + lanes
        inside = columns < S
        z = tl.load(row_logits + columns, mask=columns < readable, other=-float("inf")).to(tl.float32)
        b = tl.zeros((BLOCK,), tl.float32)
        if HAS_BIAS:
            b = tl.load(bias + first_class + columns, mask=inside, other=0.0)
        gradient, k, neighbor = _gradient_label(
            z, b, columns, start + BLOCK, label, column, z_c, b_c, scale, at_label, share,
            neighbors, k, k_end, neighbor, first_class, auxiliary_start, log_lambda, SILENCE, SMOOTH,
        )  # fmt: skip
        if L == 2:
            second, k2, neighbor2 = _gradient_label(
                z, b, columns, start + BLOCK, label2, column2, z_c2, b_c2, scale2, at_label2, share2,
                neighbors, k2, k_end2, neighbor2, first_class, auxiliary_start, log_lambda, SILENCE, SMOOTH,
            )  # fmt: skip
            gradient += second
        gradient = tl.where(columns < readable, gradient, 0.0)
        tl.store(grad_logits + row * grad_stride + columns, gradient, mask=inside)


@triton.jit
def _gradient_label(
    z, b, columns, block_end, label, label_column, z_c, b_c, scale, at_label, share,
    neighbors, k, k_end, neighbor, first_class, auxiliary_start, log_lambda,
    SILENCE: tl.constexpr, SMOOTH: tl.constexpr,
):  # fmt: skip
    """(one label's part of the gradient of a block, next position, next neighbor)."""
    spread = share
    if SILENCE:
        silenced, k, neighbor = _silenced(
            columns, block_end, label >= auxiliary_start, auxiliary_start - first_class,
            neighbors, k, k_end, neighbor, first_class,
        )  # fmt: skip
        b = tl.where(silenced, b + log_lambda, b)
        if SMOOTH:
            spread = tl.where(silenced, 0.0, share)
    gradient = tl.exp((z - z_c) + (b - b_c)) * scale
    if SMOOTH:
        gradient -= spread
        gradient = tl.where(columns == label_column, at_label - share, gradient)
    else:
        gradient = tl.where(columns == label_column, at_label, gradient)
    return gradient, k, neighbor


def check_device(device: torch.device) -> None:
    """Raises ValueError where Triton's kernels cannot run."""
    if device.type != "cuda" and not triton.knobs.runtime.interpret:
        raise ValueError("impl='triton' needs a GPU, or TRITON_INTERPRET=1 set before Triton is imported.")


def accumulate(logits: Tensor, first_class: int, rows: Rows, state: Tensor) -> None:
    """Adds a slice of logits [B, S], the classes from `first_class` on, to the state; any order of slices."""
    _run_accumulate(logits, first_class, rows, state, state, state, first=False, last=False)


def loss_of(logits: Tensor, rows: Rows) -> tuple[Tensor, Tensor]:
    """(loss [B], saved [L, 5, B]), float32, of logits [B, C] in one kernel."""
    L, B = rows.targets.shape
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
    block, warps = _configuration(logits.shape[1])
    _gradient[(len(logits),)](
        logits, rows.targets, _or(rows.weights, logits), _or(rows.bias, logits), rows.indptr, rows.indices, saved,
        grad_loss, out, *logits.shape, rows.num_classes, first_class, logits.stride(0), out.stride(0),
        grad_loss.stride(0), rows.auxiliary_start, rows.log_lambda, rows.smoothing, rows.ignore_index,
        L=len(rows.targets), HAS_BIAS=rows.bias is not None, SILENCE=rows.silences, SMOOTH=rows.smoothing > 0,
        BLOCK=block, num_warps=warps,
    )  # fmt: skip


def _run_accumulate(logits, first_class, rows: Rows, state, loss, saved, first: bool, last: bool) -> None:
    if not len(logits):
        return
    block, warps = _configuration(logits.shape[1])
    _accumulate[(len(logits),)](
        logits, rows.targets, _or(rows.weights, logits), _or(rows.bias, logits), rows.indptr, rows.indices,
        state, loss, saved, *logits.shape, rows.num_classes, first_class, logits.stride(0),
        rows.auxiliary_start, rows.log_lambda, rows.smoothing, rows.ignore_index,
        L=len(rows.targets), HAS_BIAS=rows.bias is not None, SILENCE=rows.silences, SMOOTH=rows.smoothing > 0,
        FIRST=first, LAST=last, BLOCK=block, num_warps=warps,
    )  # fmt: skip


def _configuration(width: int) -> tuple[int, int]:
    """(block, warps) for a slice of that many classes: rows are short enough for one block, or long and streamed."""
    if width <= 2048:
        block = triton.next_power_of_2(max(width, 16))
        return block, max(1, block // 512)
    return (2048, 4) if width <= 16384 else (4096, 8)


def _or(tensor: Tensor | None, stand_in: Tensor) -> Tensor:
    """Kernels take no None; a stand-in that is never read goes in its place."""
    return stand_in if tensor is None else tensor
