"""How much of a sample's softmax lies on the classes that are silenced for it: what silencing takes out.

Shapes: B samples.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from .loss import Objective


@torch.no_grad()
def silenced_mass(
    losses: Callable[[Tensor, Objective], Tensor],
    objective: Objective,
    labels: Tensor,
    mixed_labels: Tensor | None = None,
    mixed_weight: Tensor | float | None = None,
) -> tuple[Tensor, Tensor]:
    """(labels [B], mass on N(label) of the softmax with the prior in which nobody is silenced [B], in 0..1).

    Of two mixed labels it is that with more weight. The mass follows from two losses, 1 - exp(L(lambda = 0) - L(lambda
    = 1)), so that whoever can compute the loss can compute it, of as many classes, and nobody waits for a device.

    Args:
        losses: gives the loss of each sample [B] for labels and an objective. Weights that are trained are to be
            detached in it: autocast may keep what it casts here, without a gradient, for the loss itself.
        objective: what is trained.
        labels, mixed_labels, mixed_weight: see `neighbor_silencing_loss`.
    """
    if mixed_labels is not None and mixed_weight is not None:
        if isinstance(mixed_weight, Tensor):
            labels = labels.where(mixed_weight >= 0.5, mixed_labels)
        elif mixed_weight < 0.5:
            labels = mixed_labels
    without, among = (
        losses(labels, replace(objective, lambda_s=weight, label_smoothing=0.0, reduction="none"))
        for weight in (0.0, 1.0)
    )
    return labels, -torch.expm1((without - among).clamp_max(0))
