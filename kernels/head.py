"""The loss as modules: over logits, and as the classifier that owns the weight of all C classes.

Shapes: B samples, D features, C classes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .loss import Objective, Reduction, loss_of_features, loss_of_logits
from .neighbor_table import NeighborTable
from .options import Implementation
from .silenced_mass import silenced_mass


class NeighborSilencingLoss(nn.Module):
    """`neighbor_silencing_loss` with everything but logits and labels given once.

    Args:
        table: silenced sets over C classes.
        class_counts: n_j > 0, [C], images of each class seen in an epoch; None for no prior.
        tau, lambda_s, label_smoothing, ignore_index, reduction, impl: see `neighbor_silencing_loss`.
    """

    _logit_bias: Tensor | None
    _indptr: Tensor
    _indices: Tensor
    _strengths: Tensor | None

    def __init__(
        self,
        table: NeighborTable,
        class_counts: Tensor | None = None,
        tau: float = 1.0,
        lambda_s: float = 0.1,
        label_smoothing: float = 0.0,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
        impl: Implementation = "auto",
    ) -> None:
        super().__init__()
        objective = Objective.build(
            table, class_counts, tau, lambda_s=lambda_s, label_smoothing=label_smoothing, ignore_index=ignore_index,
            reduction=reduction,
        )  # fmt: skip
        self.lambda_s, self.label_smoothing = lambda_s, label_smoothing
        self.ignore_index, self.reduction, self.impl = ignore_index, reduction, impl
        self._auxiliary_start = table.auxiliary_start
        for name, value in {
            "_logit_bias": objective.logit_bias,
            "_indptr": table.indptr,
            "_indices": table.indices,
            "_strengths": table.strengths,
        }.items():
            self.register_buffer(name, value, persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        """Moves as any module, but prior and strengths stay float32 when the module is cast."""
        exact = {name: value for name in ("_logit_bias", "_strengths") if (value := getattr(self, name)) is not None}
        super()._apply(fn, recurse)
        for name, value in exact.items():
            setattr(self, name, value.to(getattr(self, name).device))
        return self

    @property
    def table(self) -> NeighborTable:
        """The silenced sets, on the module's device."""
        classes = len(self._indptr) - 1
        return NeighborTable(classes, self._indptr, self._indices, self._auxiliary_start, self._strengths)

    @property
    def objective(self) -> Objective:
        """What is minimized, on the module's device."""
        return Objective(
            self.table, self._logit_bias, self.lambda_s, self.label_smoothing, self.ignore_index, self.reduction
        )

    def forward(
        self,
        logits: Tensor,
        labels: Tensor,
        mixed_labels: Tensor | None = None,
        mixed_weight: Tensor | float | None = None,
    ) -> Tensor:
        """The loss of logits [B, C] with labels [B]."""
        if logits.ndim != 2 or logits.shape[1] != len(self._indptr) - 1:
            raise ValueError(f"logits must be [B, {len(self._indptr) - 1}], got {list(logits.shape)}.")
        return loss_of_logits(logits, labels, self.objective, mixed_labels, mixed_weight, self.impl)


class NeighborSilencingHead(nn.Module):
    """Linear classifier that computes the loss in its own forward, never holding more logits than it may.

    Owning weight and loss keeps ZeRO-3 correct: the weight is whole only inside the forward of the module that
    holds it.

    Args:
        in_features: D.
        table, class_counts, tau, lambda_s, label_smoothing, impl: see `NeighborSilencingLoss`.
        feature_norm: normalize features by a BatchNorm without parameters (the DINOv2 head).
        cosine_scale: logits are this times the cosine of features and rows, without bias (the CLIP head, 100);
            None for a linear classifier.
        memory_limit: see `linear_neighbor_silencing_loss`.

    Attributes:
        measures_silenced: whether a loss also leaves `silenced_mass` of its samples in `silenced`.
    """

    measures_silenced = False
    silenced: tuple[Tensor, Tensor] | None = None

    def __init__(
        self,
        in_features: int,
        table: NeighborTable,
        class_counts: Tensor | None = None,
        tau: float = 1.0,
        lambda_s: float = 0.1,
        label_smoothing: float = 0.0,
        feature_norm: bool = False,
        cosine_scale: float | None = None,
        impl: Implementation = "auto",
        memory_limit: int | None = None,
    ) -> None:
        super().__init__()
        self.loss = NeighborSilencingLoss(table, class_counts, tau, lambda_s, label_smoothing, impl=impl)
        self.memory_limit = memory_limit
        self.norm = nn.BatchNorm1d(in_features, affine=False) if feature_norm else nn.Identity()
        self.weight = nn.Parameter(torch.empty(table.num_classes, in_features))
        self.cosine_scale = cosine_scale
        self.bias = nn.Parameter(torch.zeros(table.num_classes)) if cosine_scale is None else None
        nn.init.trunc_normal_(self.weight, std=0.02)

    def forward(
        self,
        features: Tensor,
        labels: Tensor | None = None,
        mixed_labels: Tensor | None = None,
        mixed_weight: Tensor | float | None = None,
    ) -> Tensor:
        """Mean loss (scalar) of features [B, D] with labels [B]; without labels, logits [B, C]."""
        features = self.norm(features)
        weight: Tensor = self.weight
        if self.cosine_scale is not None:  # in float32: a scale of 100 turns bfloat16's rounding into half a logit
            features = self.cosine_scale * F.normalize(features.float())
            weight = F.normalize(weight)
        if labels is None:
            return F.linear(features, weight, self.bias)
        objective, how = self.loss.objective, (self.loss.impl, self.memory_limit)
        if self.measures_silenced:
            linear = features.detach(), weight.detach(), None if self.bias is None else self.bias.detach()
            self.silenced = silenced_mass(
                lambda y, other: loss_of_features(*linear, y, other, None, None, *how),
                objective, labels, mixed_labels, mixed_weight,
            )  # fmt: skip
        return loss_of_features(features, weight, self.bias, labels, objective, mixed_labels, mixed_weight, *how)
