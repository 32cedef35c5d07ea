"""The fused loss as torch operators, so that autograd, torch.compile and autocast see through it.

`silenced_loss` takes logits; `linear_silenced_loss` takes features and weight and never holds the logits of all
classes at once: forward and backward each multiply slice after slice of the weight, 8 B C D operations in all where
materialized logits take 6.

Shapes: B samples, D features, C classes, L labels a sample. The arguments after the first ones are those of
`rows.Rows`; `impl` is "triton" or "cpu".
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from . import implementations
from .rows import SAVED_ROWS, Rows, finish


@torch.library.custom_op("fastlt::silenced_loss", mutates_args=())
def silenced_loss(
    logits: Tensor,
    stacked_labels: Tensor, weights: Tensor | None, indptr: Tensor, indices: Tensor,
    strengths: Tensor | None, auxiliary_start: int, logit_bias: Tensor | None, log_lambda: float, smoothing: float,
    ignore_index: int, impl: str,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """(loss of each row, float32 [B]; what its gradient needs, float32 [L, 5, B]) of logits [B, C]."""
    rows = Rows(
        stacked_labels, weights, indptr, indices, strengths, auxiliary_start, logit_bias, log_lambda, smoothing,
        ignore_index,
    )  # fmt: skip
    return implementations.passes(impl, logits.device).loss_of(_rows_contiguous(logits), rows)


@silenced_loss.register_fake
def _(logits, stacked_labels, *_: Any):
    return _fake_loss(stacked_labels)


@torch.library.custom_op("fastlt::silenced_loss_gradient", mutates_args=())
def silenced_loss_gradient(
    logits: Tensor, saved: Tensor, grad_loss: Tensor,
    stacked_labels: Tensor, weights: Tensor | None, indptr: Tensor, indices: Tensor,
    strengths: Tensor | None, auxiliary_start: int, logit_bias: Tensor | None, log_lambda: float, smoothing: float,
    ignore_index: int, impl: str,
) -> Tensor:  # fmt: skip
    """Gradient of logits [B, C], in their type, for the gradient of each row's loss [B]."""
    rows = Rows(
        stacked_labels, weights, indptr, indices, strengths, auxiliary_start, logit_bias, log_lambda, smoothing,
        ignore_index,
    )  # fmt: skip
    out = logits.new_empty(logits.shape)
    implementations.passes(impl, logits.device).gradient(_rows_contiguous(logits), 0, rows, saved, grad_loss, out)
    return out


@silenced_loss_gradient.register_fake
def _(logits, *_: Any):
    return logits.new_empty(logits.shape)


@torch.library.custom_op("fastlt::silenced_loss_gradient_", mutates_args=("logits",))
def silenced_loss_gradient_(
    logits: Tensor, saved: Tensor, grad_loss: Tensor,
    stacked_labels: Tensor, weights: Tensor | None, indptr: Tensor, indices: Tensor,
    strengths: Tensor | None, auxiliary_start: int, logit_bias: Tensor | None, log_lambda: float, smoothing: float,
    ignore_index: int, impl: str,
) -> None:  # fmt: skip
    """As `silenced_loss_gradient`, but the gradient takes the place of the logits, whose columns must be adjacent."""
    rows = Rows(
        stacked_labels, weights, indptr, indices, strengths, auxiliary_start, logit_bias, log_lambda, smoothing,
        ignore_index,
    )  # fmt: skip
    implementations.passes(impl, logits.device).gradient(logits, 0, rows, saved, grad_loss, logits)


def _keep_logits(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
    logits, stacked_labels, weights, indptr, indices, strengths, auxiliary_start, logit_bias, *numbers = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(logits, output[1], stacked_labels, weights, indptr, indices, strengths, logit_bias)
    ctx.auxiliary_start, ctx.numbers = auxiliary_start, numbers


def _grad_logits(ctx: Any, grad_loss: Tensor, _: Any) -> tuple[Tensor | None, ...]:
    logits, saved, stacked_labels, weights, indptr, indices, strengths, logit_bias = ctx.saved_tensors
    rows = (stacked_labels, weights, indptr, indices, strengths, ctx.auxiliary_start, logit_bias, *ctx.numbers)
    return silenced_loss_gradient(logits, saved, grad_loss, *rows), *[None] * 11


silenced_loss.register_autograd(_grad_logits, setup_context=_keep_logits)


@torch.library.custom_op("fastlt::linear_silenced_loss", mutates_args=())
def linear_silenced_loss(
    features: Tensor, weight: Tensor, bias: Tensor | None, slice_classes: int,
    stacked_labels: Tensor, weights: Tensor | None, indptr: Tensor, indices: Tensor,
    strengths: Tensor | None, auxiliary_start: int, logit_bias: Tensor | None, log_lambda: float, smoothing: float,
    ignore_index: int, impl: str,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """As `silenced_loss` for the logits of features [B, D], weight [C, D] and bias [C].

    The weight is multiplied in the features' type, `slice_classes` classes at a time.
    """
    rows = Rows(
        stacked_labels, weights, indptr, indices, strengths, auxiliary_start, logit_bias, log_lambda, smoothing,
        ignore_index,
    )  # fmt: skip
    passes, state = implementations.passes(impl, features.device), rows.new_state()
    for first, _, logits in weight_slices(features, weight, bias, slice_classes):
        passes.accumulate(logits, first, rows, state)
    loss, saved = finish(state, rows)
    return loss.float(), saved.float()


@linear_silenced_loss.register_fake
def _(features, weight, bias, slice_classes, stacked_labels, *_: Any):
    return _fake_loss(stacked_labels)


@torch.library.custom_op("fastlt::linear_silenced_loss_gradient", mutates_args=())
def linear_silenced_loss_gradient(
    features: Tensor, weight: Tensor, bias: Tensor | None, slice_classes: int, saved: Tensor, grad_loss: Tensor,
    stacked_labels: Tensor, weights: Tensor | None, indptr: Tensor, indices: Tensor,
    strengths: Tensor | None, auxiliary_start: int, logit_bias: Tensor | None, log_lambda: float, smoothing: float,
    ignore_index: int, impl: str,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of features, weight and bias (empty without one), each in its type."""
    rows = Rows(
        stacked_labels, weights, indptr, indices, strengths, auxiliary_start, logit_bias, log_lambda, smoothing,
        ignore_index,
    )  # fmt: skip
    passes = implementations.passes(impl, features.device)
    grad_features = torch.zeros_like(features, dtype=torch.float32)  # added up over the slices
    grad_weight = torch.empty_like(weight)
    grad_bias = weight.new_empty(0) if bias is None else torch.empty_like(bias)
    for first, part, logits in weight_slices(features, weight, bias, slice_classes):
        passes.gradient(logits, first, rows, saved, grad_loss, logits)
        here = slice(first, first + len(part))
        grad_features += logits @ part
        if weight.dtype == features.dtype:
            torch.mm(logits.t(), features, out=grad_weight[here])
        else:
            grad_weight[here] = logits.t() @ features
        if bias is not None:
            grad_bias[here] = logits.sum(dim=0, dtype=torch.float32)
    return grad_features.to(features.dtype), grad_weight, grad_bias


@linear_silenced_loss_gradient.register_fake
def _(features, weight, bias, *_: Any):
    grad_bias = weight.new_empty(0) if bias is None else torch.empty_like(bias)
    return torch.empty_like(features), torch.empty_like(weight), grad_bias


def _keep_features(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
    features, weight, bias, slice_classes, *rows = inputs
    stacked_labels, weights, indptr, indices, strengths, start, logit_bias, *numbers = rows
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(
        features, weight, bias, output[1], stacked_labels, weights, indptr, indices, strengths, logit_bias
    )
    ctx.slice_classes, ctx.auxiliary_start, ctx.numbers = slice_classes, start, numbers


def _grad_linear(ctx: Any, grad_loss: Tensor, _: Any) -> tuple[Tensor | None, ...]:
    features, weight, bias, saved, stacked_labels, weights, indptr, indices, strengths, logit_bias = ctx.saved_tensors
    rows = (stacked_labels, weights, indptr, indices, strengths, ctx.auxiliary_start, logit_bias, *ctx.numbers)
    grad_features, grad_weight, grad_bias = linear_silenced_loss_gradient(
        features, weight, bias, ctx.slice_classes, saved, grad_loss, *rows
    )
    return grad_features, grad_weight, None if bias is None else grad_bias, *[None] * 12


linear_silenced_loss.register_autograd(_grad_linear, setup_context=_keep_features)


def weight_slices(
    features: Tensor, weight: Tensor, bias: Tensor | None, slice_classes: int
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """(first class, weight of the slice [S, D] in the features' type, its logits [B, S]).

    All slices' logits are written to the same memory, so one must not be used after the next is asked for.
    """
    memory = features.new_empty(len(features) * min(slice_classes, len(weight)))
    for first in range(0, len(weight), slice_classes):
        part = weight[first : first + slice_classes].to(features.dtype)  # [S, D]
        logits = memory[: len(features) * len(part)].view(len(features), len(part))  # [B, S]
        if bias is None:
            torch.mm(features, part.t(), out=logits)
        else:
            torch.addmm(bias[first : first + len(part)].to(features.dtype), features, part.t(), out=logits)
        yield first, part, logits


def _fake_loss(stacked_labels: Tensor) -> tuple[Tensor, Tensor]:
    L, B = stacked_labels.shape
    empty = torch.empty(L, SAVED_ROWS, B, dtype=torch.float32, device=stacked_labels.device)
    return empty.new_empty(B), empty


def _rows_contiguous(logits: Tensor) -> Tensor:
    return logits if logits.stride(1) == 1 else logits.contiguous()
