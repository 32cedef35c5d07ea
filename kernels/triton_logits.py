"""Triton kernels from logits to per-sample loss and gradient, with the silenced sets read from the sparse table.

One program a row. Silenced classes are weighted inside the stream, so nothing is ever subtracted
from a total. Shapes: B samples, C classes.

Exponents are taken relative to the largest other class, or to the label where that is larger, as
(z_j - z_c) + (b_j - b_c): such differences round at their own size, so that float32 keeps 1e-5 at
logits of +-80. The loss is softplus(rest), rest = log sum_{j != y} w_j exp(s_j - s_y), see
`reference.py`. Backward needs of each row its center (z_c, b_c), the total mass relative to it,
and `rest`: the four rows of `saved`, float32 [4, B].
"""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .neighbor_table import NeighborTable

BLOCK = 1024


@triton.jit
def _block_of(row_logits, bias, columns, inside, HAS_BIAS: tl.constexpr):
    """(logits, biases) of a block of columns, float32; logits are -inf beyond C."""
    z = tl.load(row_logits + columns, mask=inside, other=-float("inf")).to(tl.float32)
    b = tl.zeros_like(z)
    if HAS_BIAS:
        b = tl.load(bias + columns, mask=inside, other=0.0)
    return z, b


@triton.jit
def _label_of(row_logits, bias, label, HAS_BIAS: tl.constexpr):
    """(logit, bias) of the label, float32."""
    z = tl.load(row_logits + label).to(tl.float32)
    b = 0.0
    if HAS_BIAS:
        b = tl.load(bias + label)
    return z, b


@triton.jit
def _silenced(columns, block_end, label, neighbors, k, k_end, auxiliary_start):
    """(which columns of the block N(y) holds, position in the row's list after the block)."""
    found = (columns >= auxiliary_start) & (label >= auxiliary_start) & (columns != label)
    more = k < k_end
    while more:
        neighbor = tl.load(neighbors + k)
        here = neighbor < block_end
        found = found | (columns == neighbor)
        k = tl.where(here, k + 1, k)
        more = here & (k < k_end)
    return found, k


@triton.jit
def _forward(
    logits, labels, bias, indptr, neighbors, loss, saved,
    B, C, row_stride, auxiliary_start, log_lambda, smoothing,
    HAS_BIAS: tl.constexpr, SMOOTH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    label = tl.load(labels + row)
    known = (label >= 0) & (label < C)
    label = tl.where(known, label, 0)
    row_logits = logits + row * row_stride
    z_y, b_y = _label_of(row_logits, bias, label, HAS_BIAS)
    k = tl.load(indptr + label)
    k_end = tl.load(indptr + label + 1)
    # The largest of the other classes so far: its score, logit and bias, and the mass relative to it.
    # Until one weighs anything, the finite label stands in, so that exp(-inf - x) is 0 and not NaN.
    top = -float("inf")
    z_c = z_y
    b_c = b_y
    mass = 0.0
    outside_sum = 0.0
    outside_count = 0.0
    for start in range(0, C, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        inside = columns < C
        z, b = _block_of(row_logits, bias, columns, inside, HAS_BIAS)
        silenced, k = _silenced(columns, start + BLOCK, label, neighbors, k, k_end, auxiliary_start)
        if SMOOTH:
            counted = inside & (silenced == 0)
            margins = (z - z_y) + (b - b_y)
            outside_sum += tl.sum(tl.where(counted & (columns != label), margins, 0.0))
            outside_count += tl.sum(counted.to(tl.float32))
        b = tl.where(silenced, b + log_lambda, b)
        b = tl.where(columns == label, -float("inf"), b)
        scores = z + b
        best = tl.argmax(scores, 0)
        best_score = tl.max(scores, 0)
        if best_score > top:
            at_best = tl.arange(0, BLOCK) == best
            z_new = tl.sum(tl.where(at_best, z, 0.0))
            b_new = tl.sum(tl.where(at_best, b, 0.0))
            moved = mass * tl.exp((z_c - z_new) + (b_c - b_new))
            mass = tl.where(mass == 0.0, 0.0, moved)  # the stand-in may lie so far above that 0 * inf were NaN
            top = best_score
            z_c = z_new
            b_c = b_new
        mass += tl.sum(tl.exp((z - z_c) + (b - b_c)))
    empty = mass == 0.0
    rest = tl.where(empty, -float("inf"), ((z_c - z_y) + (b_c - b_y)) + tl.log(tl.where(empty, 1.0, mass)))
    # softplus, with log1p(x) = log(1 + x) * x / ((1 + x) - 1), exact to rounding for small x
    small = tl.exp(-tl.abs(rest))
    u = 1.0 + small
    log1p = tl.where(u == 1.0, small, tl.log(u) * (small / tl.where(u == 1.0, 1.0, u - 1.0)))
    result = tl.maximum(rest, 0.0) + log1p
    result = tl.where(rest == rest, result, rest)  # NaN logits stay visible
    if SMOOTH:
        result -= smoothing * outside_sum / outside_count
    tl.store(loss + row, tl.where(known, result, float("nan")))
    label_leads = rest < 0
    tl.store(saved + row, tl.where(label_leads, z_y, z_c))
    tl.store(saved + B + row, tl.where(label_leads, b_y, b_c))
    label_mass = tl.exp(tl.where(label_leads, 0.0, (z_y - z_c) + (b_y - b_c)))
    tl.store(saved + 2 * B + row, label_mass + tl.where(label_leads, tl.exp(rest), mass))
    tl.store(saved + 3 * B + row, rest)


@triton.jit
def _backward(
    logits, labels, bias, indptr, neighbors, num_silenced, saved, grad_loss, grad_logits,
    B, C, row_stride, grad_stride, auxiliary_start, log_lambda, smoothing,
    HAS_BIAS: tl.constexpr, SMOOTH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    label = tl.load(labels + row)
    label = tl.where((label >= 0) & (label < C), label, 0)
    row_logits = logits + row * row_stride
    k = tl.load(indptr + label)
    k_end = tl.load(indptr + label + 1)
    z_c = tl.load(saved + row)
    b_c = tl.load(saved + B + row)
    mass = tl.load(saved + 2 * B + row)
    rest = tl.load(saved + 3 * B + row)
    upstream = tl.load(grad_loss + row)
    small = tl.exp(-tl.abs(rest))
    others = tl.where(rest > 0, 1.0, small) / (1.0 + small)  # sigmoid(rest): the probability of all but y
    if SMOOTH:
        share = smoothing / (C - tl.load(num_silenced + row)).to(tl.float32)
    for start in range(0, C, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        inside = columns < C
        z, b = _block_of(row_logits, bias, columns, inside, HAS_BIAS)
        silenced, k = _silenced(columns, start + BLOCK, label, neighbors, k, k_end, auxiliary_start)
        b = tl.where(silenced, b + log_lambda, b)
        gradient = tl.exp((z - z_c) + (b - b_c)) / mass
        gradient = tl.where(columns == label, -others, gradient)
        if SMOOTH:
            gradient += tl.where(columns == label, smoothing, 0.0) - tl.where(silenced, 0.0, share)
        gradient = tl.where(upstream == 0.0, 0.0, gradient * upstream)  # ignored rows may hold NaN
        tl.store(grad_logits + row * grad_stride + columns, gradient, mask=inside)


class _TritonLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, labels: Tensor, table: NeighborTable, bias: Tensor | None, lambda_s: float,
        label_smoothing: float,
    ) -> Tensor:  # fmt: skip
        logits = logits if logits.stride(1) == 1 else logits.contiguous()
        B, C = logits.shape
        loss = torch.empty(B, dtype=torch.float32, device=logits.device)
        saved = torch.empty(4, B, dtype=torch.float32, device=logits.device)
        log_lambda = math.log(lambda_s) if lambda_s > 0 else -math.inf
        ctx.constants = (C, table.auxiliary_start, log_lambda, label_smoothing, bias is not None)
        C, start, log_lambda, smoothing, has_bias = ctx.constants
        labels = labels.contiguous()
        if B:
            _forward[(B,)](
                logits, labels, bias if has_bias else logits, table.indptr, table.indices, loss, saved,
                B, C, logits.stride(0), start, log_lambda, smoothing,
                HAS_BIAS=has_bias, SMOOTH=smoothing > 0, BLOCK=_block(C),
            )  # fmt: skip
        counts = table.num_silenced(labels.clamp(0, C - 1)) if smoothing > 0 else labels
        ctx.save_for_backward(logits, labels, bias, table.indptr, table.indices, counts, saved)
        return loss

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
        logits, labels, bias, indptr, indices, counts, saved = ctx.saved_tensors
        C, start, log_lambda, smoothing, has_bias = ctx.constants
        gradient = torch.empty(logits.shape, dtype=logits.dtype, device=logits.device)
        if len(logits):
            _backward[(len(logits),)](
                logits, labels, bias if has_bias else logits, indptr, indices, counts, saved,
                grad_loss.contiguous(), gradient,
                len(logits), C, logits.stride(0), gradient.stride(0), start, log_lambda, smoothing,
                HAS_BIAS=has_bias, SMOOTH=smoothing > 0, BLOCK=_block(C),
            )  # fmt: skip
        return gradient, None, None, None, None, None


def triton_loss(
    logits: Tensor, labels: Tensor, table: NeighborTable, bias: Tensor | None, lambda_s: float, label_smoothing: float
) -> Tensor:
    """Per-sample loss, float32 [B]; arguments as `reference_loss`.

    Other labels outside 0..C-1 give NaN, as looking at them on the host would wait for the GPU.

    Raises:
        ValueError: float64 logits, or a CPU tensor outside Triton's interpreter.
    """
    if logits.dtype == torch.float64:
        raise ValueError("the Triton kernel computes in float32: use impl='reference' for float64 logits.")
    if not logits.is_cuda and not triton.knobs.runtime.interpret:
        raise ValueError("impl='triton' needs a GPU, or TRITON_INTERPRET=1 set before Triton is imported.")
    return _TritonLoss.apply(logits, labels, table, bias, lambda_s, label_smoothing)


def _block(num_classes: int) -> int:
    return min(BLOCK, triton.next_power_of_2(max(num_classes, 16)))
