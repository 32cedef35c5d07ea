"""The one front door of the loss: checks the arguments, picks an implementation, reduces.

Shapes: B samples, C classes.
"""

from __future__ import annotations

import importlib.util
from typing import Literal

import torch
from torch import Tensor

from .neighbor_table import NeighborTable
from .reference import reference_loss

Implementation = Literal["auto", "triton", "reference"]
Reduction = Literal["mean", "sum", "none"]


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
) -> Tensor:
    """Balanced softmax in which a sample's neighbors weigh only lambda_s (arXiv 2410.15980).

    lambda_s = 1 is balanced softmax, tau = 0 as well is cross-entropy, lambda_s = 0 takes the
    neighbors out of the denominator.

    Args:
        logits: [B, C], float64, float32, bfloat16 or float16. Computed in float32 (float64 stays).
        labels: int64 [B]; rows equal to `ignore_index` count nothing and get no gradient.
        table: silenced sets, built for the same C, on the logits' device.
        prior: class counts or frequencies n_j > 0, [C], any dtype; only their ratios matter.
        tau: strength of the prior, at least 0.
        lambda_s: weight of silenced classes, in [0, 1].
        mixed_labels: second label of mixup or cutmix, int64 [B], or None. Each label has its own
            silenced set and so its own denominator.
        mixed_weight: weight mu of `labels` (1 - mu for `mixed_labels`), a float or [B].
        label_smoothing: in [0, 1); spread evenly over the classes that are not silenced.
        ignore_index: see `labels`; a row is also ignored when its second label equals it.
        reduction: "mean" over rows that are not ignored (0 when there is none), "sum", "none".
        impl: "reference" (plain torch), "triton", or "auto": triton on a GPU, else reference.

    Returns:
        A scalar, or [B] for reduction="none", in float32 (float64 for float64 logits).

    Raises:
        ValueError: arguments that do not fit. Label values are checked on the CPU only, as a
            check on a GPU would wait for it; there the triton path answers NaN instead.
    """
    _check(logits, labels, table, prior, tau, lambda_s, label_smoothing, reduction)
    if (mixed_labels is None) != (mixed_weight is None):
        raise ValueError("mixed_labels and mixed_weight go together: give both or neither.")
    _check_labels(labels, "labels", logits, ignore_index)
    keep = labels != ignore_index  # [B]
    if mixed_labels is not None:
        _check_labels(mixed_labels, "mixed_labels", logits, ignore_index)
        keep = keep & (mixed_labels != ignore_index)
    bias = None
    if prior is not None and tau > 0:
        bias = tau * log_prior(prior, torch.float64 if logits.dtype == torch.float64 else torch.float32)

    if lambda_s == 1:
        table = table.emptied()  # nothing is silenced, so smoothing too spreads over all classes
    per_sample = _implementation(impl, logits)

    def loss_of(y: Tensor) -> Tensor:
        return per_sample(logits, y.where(keep, -1), table, bias, lambda_s, label_smoothing)

    loss = loss_of(labels)  # [B]
    if mixed_labels is not None:
        mu = torch.as_tensor(mixed_weight, dtype=loss.dtype, device=loss.device)
        loss = mu * loss + (1 - mu) * loss_of(mixed_labels)
    loss = loss.where(keep, 0)
    if reduction == "none":
        return loss
    total = loss.sum()
    return total if reduction == "sum" else total / keep.sum().clamp_min(1)


def log_prior(counts: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """log(n_j / sum_k n_k), [C], from counts or frequencies n_j > 0 of any dtype."""
    n = counts.to(dtype)
    return n.log() - n.sum().log()


def _implementation(impl: str, logits: Tensor):
    if impl == "auto":
        has_triton = importlib.util.find_spec("triton") is not None
        impl = "triton" if logits.is_cuda and has_triton and logits.dtype != torch.float64 else "reference"
    if impl == "reference":
        return reference_loss
    if impl == "triton":
        from .triton_logits import triton_loss  # here, as Triton is optional

        return triton_loss
    raise ValueError(f"impl must be 'auto', 'triton' or 'reference', got {impl!r}.")


def _check(logits, labels, table, prior, tau, lambda_s, label_smoothing, reduction) -> None:
    if logits.ndim != 2 or not logits.is_floating_point():
        raise ValueError(f"logits must be a float tensor [B, C], got {logits.dtype} {list(logits.shape)}.")
    if table.num_classes != logits.shape[1]:
        raise ValueError(
            f"the neighbor table was built for {table.num_classes} classes, the logits have {logits.shape[1]}."
        )
    if table.indptr.device != logits.device:
        raise ValueError(
            f"the neighbor table is on {table.indptr.device}, the logits on {logits.device}: use table.to(device)."
        )
    if prior is not None:
        if prior.shape != (logits.shape[1],):
            raise ValueError(f"prior must have shape [{logits.shape[1]}], got {list(prior.shape)}.")
        if prior.device.type == "cpu" and not bool((prior > 0).all()):
            raise ValueError("prior must be positive for every class: a class with count 0 cannot be learned.")
    if not tau >= 0:
        raise ValueError(f"tau must be at least 0, got {tau}.")
    if not 0 <= lambda_s <= 1:
        raise ValueError(f"lambda_s must lie in [0, 1], got {lambda_s}.")
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"label_smoothing must lie in [0, 1), got {label_smoothing}.")
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"reduction must be 'mean', 'sum' or 'none', got {reduction!r}.")


def _check_labels(labels: Tensor, name: str, logits: Tensor, ignore_index: int) -> None:
    if labels.shape != logits.shape[:1] or labels.dtype != torch.int64:
        raise ValueError(f"{name} must be int64 [{logits.shape[0]}], got {labels.dtype} {list(labels.shape)}.")
    if labels.device.type == "cpu":
        wrong = labels[(labels != ignore_index) & ((labels < 0) | (labels >= logits.shape[1]))]
        if len(wrong):
            raise ValueError(f"{name} holds {int(wrong[0])}, outside the label space 0..{logits.shape[1] - 1}.")
