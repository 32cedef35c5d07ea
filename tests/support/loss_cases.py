"""Random label spaces and batches for kernel tests, and what an implementation makes of them."""

from dataclasses import dataclass

import torch
from torch import Tensor

from fastlt.kernels import NeighborTable, neighbor_silencing_loss


@dataclass
class Case:
    """Inputs of the loss, float64 on the CPU: logits [B, C], two label sets [B], prior [C]."""

    logits: Tensor
    labels: Tensor
    mixed_labels: Tensor
    table: NeighborTable
    prior: Tensor


def make_case(
    batch: int, num_classes: int, num_pairs: int, scale: float = 10.0, seed: int = 0, interval=False, strengths=False
) -> Case:
    """Targets are the first half of the classes; pairs join the halves, each class at random, and their strengths."""
    g = torch.Generator().manual_seed(seed)
    half = max(num_classes // 2, 1)
    pairs = []
    if num_classes > 1:
        left = torch.randint(0, half, (num_pairs,), generator=g)
        right = torch.randint(half, num_classes, (num_pairs,), generator=g)
        pairs = list(zip(left.tolist(), right.tolist(), strict=True))
    pairs = sorted(set(pairs)) if strengths else pairs
    weights = torch.randint(0, 9, (len(pairs),), generator=g) / 8 if strengths else None
    table = NeighborTable.from_pairs(num_classes, pairs, half if interval else None, weights)
    return Case(
        logits=(torch.rand(batch, num_classes, generator=g, dtype=torch.float64) * 2 - 1) * scale,
        labels=torch.randint(0, num_classes, (batch,), generator=g),
        mixed_labels=torch.randint(0, num_classes, (batch,), generator=g),
        table=table,
        prior=torch.randint(1, 1000, (num_classes,), generator=g),
    )


def loss_and_gradient(logits: Tensor, case: Case, impl: str, device, **options) -> tuple[Tensor, Tensor]:
    """(loss of each row [B], gradient of their weighted sum [B, C]), float64 on the CPU."""
    z = logits.clone().to(device).requires_grad_()
    loss = neighbor_silencing_loss(
        z, case.labels.to(device), case.table.to(device), case.prior.to(device), reduction="none", impl=impl, **options
    )
    (loss * torch.linspace(0.5, 2.0, len(loss), device=device, dtype=loss.dtype)).sum().backward()
    return loss.detach().cpu().double(), z.grad.cpu().double()
