"""The classifier that owns the weight of all C classes and computes the loss in its own forward.

Shapes: B samples, D features, C classes. Owning both keeps ZeRO-3 correct: the weight is whole
only inside the forward of the module that holds it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .loss import Implementation, neighbor_silencing_loss
from .neighbor_table import NeighborTable


class NeighborSilencingHead(nn.Module):
    """Linear classifier with the neighbor-silencing loss.

    Args:
        in_features: D.
        table: silenced sets over C classes.
        class_counts: n_j > 0, int64 [C], images of each class seen in an epoch; None for no prior.
        tau, lambda_s, label_smoothing, impl: see `neighbor_silencing_loss`.
        feature_norm: normalize features by a BatchNorm without parameters (the DINOv2 head).
    """

    class_counts: Tensor | None
    _indptr: Tensor
    _indices: Tensor

    def __init__(
        self,
        in_features: int,
        table: NeighborTable,
        class_counts: Tensor | None = None,
        tau: float = 1.0,
        lambda_s: float = 0.1,
        label_smoothing: float = 0.0,
        feature_norm: bool = False,
        impl: Implementation = "auto",
    ) -> None:
        super().__init__()
        self.tau, self.lambda_s, self.label_smoothing = tau, lambda_s, label_smoothing
        self.impl = impl
        self.norm = nn.BatchNorm1d(in_features, affine=False) if feature_norm else nn.Identity()
        self.weight = nn.Parameter(torch.empty(table.num_classes, in_features))
        self.bias = nn.Parameter(torch.zeros(table.num_classes))
        nn.init.trunc_normal_(self.weight, std=0.02)
        # Integers, so that casting the module to a low precision leaves the prior exact.
        self.register_buffer("class_counts", class_counts, persistent=False)
        self.register_buffer("_indptr", table.indptr, persistent=False)
        self.register_buffer("_indices", table.indices, persistent=False)
        self._auxiliary_start = table.auxiliary_start

    @property
    def table(self) -> NeighborTable:
        """The silenced sets, on the module's device."""
        return NeighborTable(len(self._indptr) - 1, self._indptr, self._indices, self._auxiliary_start)

    def forward(
        self,
        features: Tensor,
        labels: Tensor | None = None,
        mixed_labels: Tensor | None = None,
        mixed_weight: Tensor | float | None = None,
    ) -> Tensor:
        """Mean loss (scalar) of features [B, D] with labels [B]; without labels, logits [B, C]."""
        logits = F.linear(self.norm(features), self.weight, self.bias)  # [B, C]
        if labels is None:
            return logits
        return neighbor_silencing_loss(
            logits,
            labels,
            self.table,
            prior=self.class_counts,
            tau=self.tau,
            lambda_s=self.lambda_s,
            mixed_labels=mixed_labels,
            mixed_weight=mixed_weight,
            label_smoothing=self.label_smoothing,
            impl=self.impl,
        )
