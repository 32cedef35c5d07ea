"""Random label spaces and batches for kernel tests."""

from dataclasses import dataclass

import torch
from fastlt.kernels import NeighborTable
from torch import Tensor


@dataclass
class Case:
    """Inputs of the loss, float64 on the CPU: logits [B, C], two label sets [B], prior [C]."""

    logits: Tensor
    labels: Tensor
    mixed_labels: Tensor
    table: NeighborTable
    prior: Tensor


def make_case(batch: int, num_classes: int, num_pairs: int, scale: float = 10.0, seed: int = 0, interval=False) -> Case:
    """Targets are the first half of the classes; pairs join the halves, each class at random."""
    g = torch.Generator().manual_seed(seed)
    half = max(num_classes // 2, 1)
    pairs = []
    if num_classes > 1:
        left = torch.randint(0, half, (num_pairs,), generator=g)
        right = torch.randint(half, num_classes, (num_pairs,), generator=g)
        pairs = list(zip(left.tolist(), right.tolist(), strict=True))
    table = NeighborTable.from_pairs(num_classes, pairs, auxiliary_start=half if interval else None)
    return Case(
        logits=(torch.rand(batch, num_classes, generator=g, dtype=torch.float64) * 2 - 1) * scale,
        labels=torch.randint(0, num_classes, (batch,), generator=g),
        mixed_labels=torch.randint(0, num_classes, (batch,), generator=g),
        table=table,
        prior=torch.randint(1, 1000, (num_classes,), generator=g),
    )
