"""The front door of the loss: checks the arguments, picks an implementation, reduces.

Shapes: B samples, D features, C classes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import functional as F

from . import implementations, operators
from .neighbor_table import NeighborTable
from .options import MEMORY_LIMIT, Implementation
from .reference import reference_loss
from .rows import Rows

Reduction = Literal["mean", "sum", "none"]
_NARROWEST_SLICE = 1024


@dataclass(frozen=True)
class Objective:
    """What is minimized, apart from the labels of a batch; checked once.

    Attributes:
        table: silenced sets.
        logit_bias: tau * log prior, float32 [C] (float64 for float64 logits), or None.
        lambda_s, label_smoothing, ignore_index, reduction: see `neighbor_silencing_loss`.
    """

    table: NeighborTable
    logit_bias: Tensor | None
    lambda_s: float = 0.1
    label_smoothing: float = 0.0
    ignore_index: int = -100
    reduction: Reduction = "mean"

    @classmethod
    def build(
        cls,
        table: NeighborTable,
        prior: Tensor | None,
        tau: float = 1.0,
        dtype: torch.dtype = torch.float32,
        **options: Any,
    ) -> Objective:
        """From counts. Raises ValueError for a prior or tau that does not fit."""
        if prior is not None:
            if prior.shape != (table.num_classes,):
                raise ValueError(f"prior must have shape [{table.num_classes}], got {list(prior.shape)}.")
            if prior.device.type == "cpu" and not torch.compiler.is_compiling() and not prior.min() > 0:
                raise ValueError("prior must be positive for every class: a class with count 0 cannot be learned.")
        if not tau >= 0:
            raise ValueError(f"tau must be at least 0, got {tau}.")
        logit_bias = tau * log_prior(prior, dtype) if prior is not None and tau > 0 else None
        return cls(table, logit_bias, **options)

    def __post_init__(self) -> None:
        if not 0 <= self.lambda_s <= 1:
            raise ValueError(f"lambda_s must lie in [0, 1], got {self.lambda_s}.")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing must lie in [0, 1), got {self.label_smoothing}.")
        if self.reduction not in ("mean", "sum", "none"):
            raise ValueError(f"reduction must be 'mean', 'sum' or 'none', got {self.reduction!r}.")


def neighbor_silencing_loss(
    logits: Tensor,
    labels: Tensor,
    table: NeighborTable,
    prior: Tensor | None = None,
    tau: float = 1.0,
    lambda_s: float = 0.1,
    *,
    mixed_labels: Tensor | None = None,
    mixed_weight: Tensor | float | None = None,
    label_smoothing: float = 0.0,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
    impl: Implementation = "auto",
    inplace: bool = False,
) -> Tensor:
    """Balanced softmax in which a sample's neighbors weigh only lambda_s (arXiv 2410.15980).

    lambda_s = 1 is balanced softmax, tau = 0 as well is cross-entropy, lambda_s = 0 takes the
    neighbors out of the denominator.

    Args:
        logits: [B, C], float64, float32, bfloat16 or float16. Computed in float32 (float64 stays).
        labels: int64 [B]; rows equal to `ignore_index` count nothing and get no gradient.
        table: silenced sets, built for the same C, on the logits' device.
        prior: class counts or frequencies n_j > 0, [C], any dtype; only their ratios matter.
            `NeighborSilencingLoss` takes its logarithm once instead of at every call.
        tau: strength of the prior, at least 0.
        lambda_s: weight of silenced classes, in [0, 1].
        mixed_labels: second label of mixup or cutmix, int64 [B], or None. Each label has its own
            silenced set and so its own denominator.
        mixed_weight: weight mu of `labels` (1 - mu for `mixed_labels`), a float or [B].
        label_smoothing: in [0, 1); spread evenly over the classes that are not silenced.
        ignore_index: see `labels`; a row is also ignored when its second label equals it.
        reduction: "mean" over rows that are not ignored (0 when there is none), "sum", "none".
        impl: "triton" (a GPU), "cpu" (numba; float32 and bfloat16), "reference" (plain torch), or
            "auto": the fused one of the device where it takes the dtype, else the reference.
        inplace: let the gradient take the place of the logits, for a mean or sum as early as in forward, which
            saves their size; nothing else may use the logits. The reference does not do it.

    Returns:
        A scalar, or [B] for reduction="none", in float32 (float64 for float64 logits).

    Raises:
        ValueError: arguments that do not fit. Values of labels and prior are checked on the CPU only,
            as a check on a GPU would wait for it; there a label that is no class makes the loss NaN.
    """
    if logits.ndim != 2 or not logits.is_floating_point():
        raise ValueError(f"logits must be a float tensor [B, C], got {logits.dtype} {list(logits.shape)}.")
    _check_table(table, logits.shape[1], logits.device, "logits")
    dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
    objective = Objective.build(
        table, prior, tau, dtype, lambda_s=lambda_s, label_smoothing=label_smoothing, ignore_index=ignore_index,
        reduction=reduction,
    )  # fmt: skip
    return loss_of_logits(logits, labels, objective, mixed_labels, mixed_weight, impl, inplace)


def linear_neighbor_silencing_loss(
    features: Tensor,
    weight: Tensor,
    labels: Tensor,
    table: NeighborTable,
    prior: Tensor | None = None,
    tau: float = 1.0,
    lambda_s: float = 0.1,
    *,
    bias: Tensor | None = None,
    mixed_labels: Tensor | None = None,
    mixed_weight: Tensor | float | None = None,
    label_smoothing: float = 0.0,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
    impl: Implementation = "auto",
    memory_limit: int | None = None,
) -> Tensor:
    """`neighbor_silencing_loss` of the logits features @ weight.T + bias, which need not fit into memory.

    Logits of up to `memory_limit` bytes are computed once and their gradient takes their place: 6 B C D
    operations. Larger ones are computed in slices of classes that fit, in forward and again in backward: 8 B C D,
    and nothing of size B C is ever held. Under autocast the products are computed in its dtype.

    Args:
        features: [B, D].
        weight: [C, D], of the same dtype (any under autocast).
        bias: [C] or None, as `weight`.
        memory_limit: bytes, at least those of 1,024 classes are taken; default `MEMORY_LIMIT`, 1 GiB.
        labels, ...: see `neighbor_silencing_loss`.

    Returns:
        As `neighbor_silencing_loss`; features, weight and bias get gradients in their dtypes.

    Raises:
        ValueError: as `neighbor_silencing_loss`.
    """
    _check_linear(features, weight, bias)
    _check_table(table, len(weight), features.device, "weight")
    dtype = torch.float64 if features.dtype == torch.float64 else torch.float32
    objective = Objective.build(
        table, prior, tau, dtype, lambda_s=lambda_s, label_smoothing=label_smoothing, ignore_index=ignore_index,
        reduction=reduction,
    )  # fmt: skip
    return loss_of_features(features, weight, bias, labels, objective, mixed_labels, mixed_weight, impl, memory_limit)


def loss_of_logits(
    logits: Tensor,
    labels: Tensor,
    objective: Objective,
    mixed_labels: Tensor | None = None,
    mixed_weight: Tensor | float | None = None,
    impl: Implementation = "auto",
    inplace: bool = False,
) -> Tensor:
    """As `neighbor_silencing_loss`, with everything but the labels prepared."""
    stacked_labels, weights = stack_labels(labels, mixed_labels, mixed_weight, objective, logits.shape, logits.dtype)
    resolved = implementations.resolve(impl, logits.device, logits.dtype)
    if resolved == "reference":
        return reduce_rows(_reference(logits, stacked_labels, weights, objective), stacked_labels, objective)
    _refuse_forward_mode(logits)
    arguments = row_arguments(stacked_labels, weights, objective, resolved)
    if _takes_gradient_in_forward(logits, objective):
        return _InForward.apply(logits, Rows(*arguments[:-1]), objective.reduction == "mean", inplace, resolved)
    if inplace and not torch.compiler.is_compiling():
        loss = _InPlace.apply(logits, *arguments)
    else:
        loss, _ = operators.silenced_loss(logits, *arguments)
    return reduce_rows(loss, stacked_labels, objective)


def loss_of_features(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    objective: Objective,
    mixed_labels: Tensor | None = None,
    mixed_weight: Tensor | float | None = None,
    impl: Implementation = "auto",
    memory_limit: int | None = None,
) -> Tensor:
    """As `linear_neighbor_silencing_loss`, with everything but the labels prepared."""
    device = features.device.type
    if torch.is_autocast_enabled(device):
        features = features.to(torch.get_autocast_dtype(device))
    B, C, size = len(features), len(weight), features.element_size()
    limit = MEMORY_LIMIT if memory_limit is None else memory_limit
    resolved = implementations.resolve(impl, features.device, features.dtype)
    if resolved == "reference" or B * C * size <= limit:
        logits = F.linear(features, weight, bias)  # [B, C]
        return loss_of_logits(logits, labels, objective, mixed_labels, mixed_weight, impl, inplace=True)
    stacked_labels, weights = stack_labels(labels, mixed_labels, mixed_weight, objective, (B, C))
    _refuse_forward_mode(features, weight, bias)
    arguments = row_arguments(stacked_labels, weights, objective, resolved)
    loss, _ = operators.linear_silenced_loss(features, weight, bias, slice_size(features, weight, limit), *arguments)
    return reduce_rows(loss, stacked_labels, objective)


def slice_size(features: Tensor, weight: Tensor, memory_limit: int) -> int:
    """Classes of a slice of the weight [C, D] that keeps within the limit for features [B, D]; at least 1,024."""
    size = features.element_size()
    # A class takes its logits, its weight in their type, and the weight's gradient before it is stored.
    per_class = len(features) * size + (2 * features.shape[1] * size if weight.dtype != features.dtype else 0)
    return max(memory_limit // max(per_class, 1) // _NARROWEST_SLICE, 1) * _NARROWEST_SLICE


def log_prior(counts: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """log(n_j / sum_k n_k), [C], from counts or frequencies n_j > 0 of any dtype."""
    n = counts.to(dtype)
    return n.log() - n.sum().log()


def _takes_gradient_in_forward(logits: Tensor, objective: Objective) -> bool:
    """Whether the gradient is computed with the loss; a scalar loss later multiplies it by one number at most.

    Not for float16, whose small gradients would be lost before the factor of a scaled loss reaches them.
    """
    wanted = objective.reduction != "none" and logits.requires_grad and torch.is_grad_enabled()
    return wanted and logits.dtype != torch.float16 and not torch.compiler.is_compiling()


class _InForward(torch.autograd.Function):
    """Mean or sum of the loss, whose gradient is there when it is: backward multiplies by what comes from above.

    It calls the kernels without the operators of `operators.py`, whose dispatch takes longer than small losses do.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, rows: Rows, mean: bool, inplace: bool, impl: str) -> Tensor:
        if inplace:
            logits = _overwritable(logits)
        elif logits.stride(1) != 1:
            logits = logits.contiguous()
        ctx.passes, ctx.inplace = implementations.passes(impl, logits.device), inplace
        out = logits if inplace else logits.new_empty(logits.shape)
        loss, saved, weight = ctx.passes.loss_and_gradient(logits, rows, mean, out)
        if inplace:
            torch.autograd.graph.increment_version(logits)
            ctx.save_for_backward(logits)
        else:
            ctx.gradient, ctx.rows = out, rows
            ctx.save_for_backward(logits, saved, weight)
        return loss

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
        _refuse_second_gradient()
        logits, *rest = ctx.saved_tensors
        if ctx.inplace:
            gradient = logits.detach()
            torch.autograd.graph.increment_version(logits)  # a second backward raises
        else:
            gradient, ctx.gradient = ctx.gradient, None
        if gradient is None:  # given away by an earlier backward
            saved, weight = rest
            gradient = logits.new_empty(logits.shape)
            ctx.passes.gradient(logits, 0, ctx.rows, saved, (grad_loss * weight).expand(len(logits)), gradient)
        else:
            ctx.passes.rescale(gradient, grad_loss)
        return gradient, None, None, None, None


class _InPlace(torch.autograd.Function):
    """`operators.silenced_loss` whose gradient takes the place of the logits; a second backward raises."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, *rows: Any) -> Tensor:
        logits = _overwritable(logits)
        loss, saved = operators.silenced_loss(logits, *rows)
        tensors = [value for value in rows if isinstance(value, Tensor)]
        ctx.save_for_backward(logits, saved, *tensors)
        ctx.rows = [None if isinstance(value, Tensor) else (value,) for value in rows]
        return loss

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
        _refuse_second_gradient()
        logits, saved, *tensors = ctx.saved_tensors
        rest = iter(tensors)
        rows = [next(rest) if value is None else value[0] for value in ctx.rows]
        operators.silenced_loss_gradient_(logits, saved, grad_loss, *rows)
        return logits.detach(), *[None] * len(rows)


def _overwritable(logits: Tensor) -> Tensor:
    """The logits, or a copy where two of them share memory, as expanded rows do, or columns are not adjacent."""
    apart = len(logits) == 1 or logits.stride(0) >= logits.shape[1]
    return logits if logits.stride(1) == 1 and apart else logits.clone(memory_format=torch.contiguous_format)


def _refuse_forward_mode(*tensors: Tensor | None) -> None:
    """Operators without a rule for it would take the derivative for zero."""
    if torch.compiler.is_compiling():
        return
    if any(t is not None and forward_ad.unpack_dual(t).tangent is not None for t in tensors):
        raise RuntimeError("the fused loss has no forward-mode derivative: take impl='reference' for torch.func.jvp.")


def _refuse_second_gradient() -> None:
    """Backward runs in grad mode for `create_graph` alone."""
    if torch.is_grad_enabled():
        raise RuntimeError("the fused loss has no second gradient: take impl='reference' for create_graph=True.")


def row_arguments(stacked_labels: Tensor, weights: Tensor | None, objective: Objective, impl: str) -> tuple[Any, ...]:
    """The arguments of `rows.Rows`, and who computes."""
    table, lambda_s = objective.table, objective.lambda_s
    log_lambda = math.log(lambda_s) if lambda_s > 0 else -math.inf
    logit_bias = None if objective.logit_bias is None else objective.logit_bias.float()
    return (
        stacked_labels, weights, table.indptr, table.indices, table.strengths, table.auxiliary_start, logit_bias,
        log_lambda, float(objective.label_smoothing), objective.ignore_index, impl,
    )  # fmt: skip


def _reference(logits: Tensor, stacked_labels: Tensor, weights: Tensor | None, objective: Objective) -> Tensor:
    counted = _counted(stacked_labels, objective)
    # With lambda_s = 1 nothing is silenced, so smoothing too spreads over all classes.
    table = objective.table.emptied() if objective.lambda_s == 1 else objective.table
    options = table, objective.logit_bias, objective.lambda_s, objective.label_smoothing
    losses = torch.stack([reference_loss(logits, y.where(counted, -1), *options) for y in stacked_labels])  # [L, B]
    loss = losses[0] if weights is None else (losses * weights).sum(dim=0)
    return loss.where(counted, 0)


def _counted(stacked_labels: Tensor, objective: Objective) -> Tensor:
    return (stacked_labels != objective.ignore_index).all(dim=0)  # [B]


def reduce_rows(loss: Tensor, stacked_labels: Tensor, objective: Objective) -> Tensor:
    if objective.reduction == "none":
        return loss
    total = loss.sum()
    return total if objective.reduction == "sum" else total / _counted(stacked_labels, objective).sum().clamp_min(1)


def stack_labels(
    labels: Tensor,
    mixed_labels: Tensor | None,
    mixed_weight: Tensor | float | None,
    objective: Objective,
    shape: Any,
    dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor | None]:
    """(labels, int64 [L, B]; their weights, float32 [L, B], or None for one label); float64 for a `dtype` that is."""
    _check_labels(labels, "labels", shape, objective.ignore_index)
    if (mixed_labels is None) != (mixed_weight is None):
        raise ValueError("mixed_labels and mixed_weight go together: give both or neither.")
    if mixed_labels is None or mixed_weight is None:
        return labels.contiguous()[None], None
    _check_labels(mixed_labels, "mixed_labels", shape, objective.ignore_index)
    exact = torch.float64 if dtype == torch.float64 else torch.float32
    if isinstance(mixed_weight, Tensor):
        mu = mixed_weight.to(exact).expand(labels.shape)
    else:
        mu = torch.full(labels.shape, mixed_weight, dtype=exact, device=labels.device)  # copying a number would wait
    return torch.stack([labels, mixed_labels]), torch.stack([mu, 1 - mu])


def _check_table(table: NeighborTable, num_classes: int, device: torch.device, name: str) -> None:
    if table.num_classes != num_classes:
        raise ValueError(
            f"the neighbor table was built for {table.num_classes} classes, the {name} "
            f"{'have' if name == 'logits' else 'has'} {num_classes}."
        )
    if table.indptr.device != device:
        where = table.indptr.device
        raise ValueError(f"the neighbor table is on {where}, the {name} on {device}: use table.to(device).")


def _check_linear(features: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    shapes = [list(t.shape) for t in (features, weight) if t is not None]
    if features.ndim != 2 or weight.ndim != 2 or features.shape[1] != weight.shape[1]:
        raise ValueError(f"features must be [B, D] and weight [C, D], got {shapes[0]} and {shapes[1]}.")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"bias must have shape [{len(weight)}], got {list(bias.shape)}.")
    if not torch.is_autocast_enabled(features.device.type) and features.dtype != weight.dtype:
        raise ValueError(f"features are {features.dtype}, weight is {weight.dtype}: cast one, or use torch.autocast.")


def _check_labels(labels: Tensor, name: str, shape: Any, ignore_index: int) -> None:
    batch, num_classes = shape
    if labels.is_floating_point() and labels.ndim == 2:
        raise ValueError(
            f"{name} are soft, {labels.dtype} {list(labels.shape)}, as of timm's Mixup: pass the two classes of each "
            "sample and the weight of the first, head(features, labels, mixed_labels, mixed_weight)."
        )
    if labels.shape != (batch,) or labels.dtype != torch.int64:
        raise ValueError(f"{name} must be int64 [{batch}], got {labels.dtype} {list(labels.shape)}.")
    if labels.device.type == "cpu" and len(labels) and not torch.compiler.is_compiling():
        lowest, highest = labels.aminmax()
        if lowest.item() >= 0 and highest.item() < num_classes:
            return
        wrong = labels[(labels != ignore_index) & ((labels < 0) | (labels >= num_classes))]
        if len(wrong):
            raise ValueError(f"{name} holds {int(wrong[0])}, outside the label space 0..{num_classes - 1}.")
