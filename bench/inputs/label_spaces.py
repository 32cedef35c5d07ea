"""What the loss is measured on: label spaces, real where their counts are at hand, and seeded inputs.

Shapes: B samples, D features, C classes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from fastlt.kernels import NeighborTable

SPACES = {  # targets, auxiliary classes
    "1k": (250, 750),
    "imagenet_lt": (1_000, 2_000),
    "inat18": (8_142, 24_426),
    "131k": (32_768, 98_304),
    "262k": (65_536, 196_608),
    "524k": (131_072, 393_216),
    "1M": (262_144, 786_432),
}
COUNTS_FILE = Path(__file__).resolve().parents[3] / "shared" / "data" / "class_counts.json"
COUNTED = {"imagenet_lt": "imagenet_lt", "inat18": "inaturalist2018"}  # names in that file
AUXILIARY_COUNT = 50.0  # images of an auxiliary class seen in an epoch


@dataclass(frozen=True)
class Case:
    """One input of the loss, on one device.

    Attributes:
        space: a key of `SPACES`.
        inputs: what gets a gradient: (logits [B, C],) or (features [B, D], weight [C, D]).
        labels: int64 [B], drawn as often as their classes count.
        table: silenced sets; each auxiliary class is the neighbor of one target.
        counts: images of each class, float32 [C].
        prior: "real" or "drawn", where the counts of the targets come from.
    """

    space: str
    inputs: tuple[Tensor, ...]
    labels: Tensor
    table: NeighborTable
    counts: Tensor
    prior: str

    @property
    def linear(self) -> bool:
        return len(self.inputs) == 2

    @property
    def device(self) -> torch.device:
        return self.labels.device

    @property
    def sizes(self) -> tuple[int, int, int]:
        """B, D (0 for logits), C."""
        return len(self.labels), self.inputs[0].shape[1] if self.linear else 0, self.table.num_classes

    @property
    def logits_bytes(self) -> int:
        return len(self.labels) * self.table.num_classes * self.inputs[0].element_size()

    @property
    def name(self) -> str:
        batch, dim, _ = self.sizes
        return name(self.space, batch, dim, self.inputs[0].dtype)

    def logits(self) -> Tensor:
        """[B, C], without a graph."""
        with torch.no_grad():
            return F.linear(*self.inputs) if self.linear else self.inputs[0]


def name(space: str, batch: int, dim: int, dtype: torch.dtype) -> str:
    """What a case is called in records and tables."""
    what = f"D={dim} " if dim else ""
    return f"{'B' if dim else 'A'} {space} B={batch} {what}C={sum(SPACES[space])} {str(dtype)[6:]}"


def draw(space: str, batch: int, dim: int, dtype: torch.dtype, device: torch.device) -> Case:
    """A case of seeded inputs whose logits have a standard deviation of 3; `dim` 0 gives logits."""
    targets, auxiliaries = SPACES[space]
    classes = targets + auxiliaries
    parents = torch.arange(auxiliaries) % targets
    table = NeighborTable.from_pairs(classes, torch.stack([parents, torch.arange(targets, classes)], dim=1))
    found = _real_counts(space)
    counts = torch.cat(
        [_drawn_counts(targets) if found is None else found, torch.full((auxiliaries,), AUXILIARY_COUNT)]
    )
    labels = torch.multinomial(counts, batch, replacement=True, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator(device).manual_seed(0)  # on the device: 10^9 normal numbers take minutes on the CPU

    def normal(rows: int, columns: int, scale: float) -> Tensor:
        drawn = torch.randn(rows, columns, generator=generator, device=device, dtype=dtype)
        return drawn.mul_(scale).requires_grad_()

    inputs = (normal(batch, dim, 1), normal(classes, dim, 3 / dim**0.5)) if dim else (normal(batch, classes, 3),)
    prior = "drawn" if found is None else "real"
    return Case(space, inputs, labels.to(device), table.to(device), counts.to(device), prior)


def _real_counts(space: str) -> Tensor | None:
    """Training images of each target, float32 [T]; None for a space without them."""
    if space not in COUNTED or not COUNTS_FILE.exists():
        return None
    counts = json.loads(COUNTS_FILE.read_text())[COUNTED[space]]
    if len(counts) != SPACES[space][0]:
        raise ValueError(f"{COUNTS_FILE.name} holds {len(counts)} counts for {space}, not {SPACES[space][0]}.")
    return torch.tensor(counts, dtype=torch.float32)


def _drawn_counts(targets: int) -> Tensor:
    return 1 + 1000 / torch.arange(1, targets + 1)  # a long tail as Zipf's law has it
