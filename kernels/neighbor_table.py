"""The sparse table of silenced classes N(y): which classes a sample of class y does not compete with."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class NeighborTable:
    """N(y) for every class y, as sorted CSR rows plus one interval; O(pairs) memory, never C x C.

    N is symmetric and y is never in N(y). Classes from `auxiliary_start` on also silence each
    other (the authors' strongest switch); that set is an interval and is not stored.

    Attributes:
        num_classes: C.
        indptr: int64 [C + 1], row y holds `indices[indptr[y]:indptr[y + 1]]`.
        indices: int64 [nnz], ascending within a row.
        auxiliary_start: first class of the interval, C when there is none.
        strengths: float32 [nnz], each above 0 and at most 1, or None where all are 1. The weight of a pair in the
            loss is lambda_s ** strength; the interval's strength is 1.
    """

    num_classes: int
    indptr: Tensor
    indices: Tensor
    auxiliary_start: int
    strengths: Tensor | None = None

    @classmethod
    def from_pairs(
        cls,
        num_classes: int,
        pairs: Iterable[tuple[int, int]] | Tensor,
        auxiliary_start: int | None = None,
        strengths: Iterable[float] | Tensor | None = None,
    ) -> NeighborTable:
        """Builds the table from (class, class) pairs; order and repetitions do not matter.

        Args:
            num_classes: C, at least 1.
            pairs: neighbors, any iterable of two class indices or an integer tensor [P, 2].
            auxiliary_start: from this class on, every class silences every other such class.
            strengths: of each pair, [P], in 0..1; a pair of strength 0 is none. None: all 1.

        Raises:
            ValueError: a class outside 0..C-1, a class paired with itself, a wrong shape, or strengths that are
                outside of 0..1, of another number than the pairs, or two of one pair.
        """
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {num_classes}.")
        start = num_classes if auxiliary_start is None else auxiliary_start
        if not 0 <= start <= num_classes:
            raise ValueError(f"auxiliary_start must lie in 0..{num_classes}, got {start}.")
        edges = pairs if isinstance(pairs, Tensor) else torch.tensor(list(pairs), dtype=torch.int64)
        edges = edges.to(torch.int64).cpu()
        if edges.numel() == 0:
            edges = edges.new_empty(0, 2)
        if edges.ndim != 2 or edges.shape[1] != 2:
            raise ValueError(f"pairs must have shape [P, 2], got {list(edges.shape)}.")
        outside = (edges < 0) | (edges >= num_classes)
        if outside.any():
            first = edges[outside.any(dim=1)][0].tolist()
            raise ValueError(f"the pair {first} names a class outside 0..{num_classes - 1}.")
        alone = edges[:, 0] == edges[:, 1]
        if alone.any():
            raise ValueError(f"class {int(edges[alone][0, 0])} is listed as its own neighbor.")
        strength = _checked(strengths, edges)
        # Pairs inside the interval are already silenced by it; kept out, the two parts are disjoint.
        outside = ~(edges >= start).all(dim=1)
        edges, given = edges[outside], strength[outside].repeat(2)
        edges, place = torch.unique(torch.cat([edges, edges.flip(1)]), dim=0, return_inverse=True)  # [nnz, 2], sorted
        strength = given.new_empty(len(edges)).scatter_(0, place, given)
        differ = strength[place] != given
        if differ.any():
            pair = edges[place[differ][0]].tolist()
            raise ValueError(f"the pair {pair} is given twice, with different strengths: give one.")
        edges, strength = edges[strength > 0], strength[strength > 0]
        indptr = torch.zeros(num_classes + 1, dtype=torch.int64)
        indptr[1:] = torch.bincount(edges[:, 0], minlength=num_classes).cumsum(0)
        return cls(num_classes, indptr, edges[:, 1].contiguous(), start, None if (strength == 1).all() else strength)

    def to(self, device: torch.device | str) -> NeighborTable:
        """The same table with its tensors on `device`."""
        indptr, indices = self.indptr.to(device), self.indices.to(device)
        strengths = None if self.strengths is None else self.strengths.to(device)
        return NeighborTable(self.num_classes, indptr, indices, self.auxiliary_start, strengths)

    def restricted(self, first: int, end: int) -> NeighborTable:
        """The table of the same classes in which only neighbors in first..end-1 are listed: a shard's part of it."""
        kept = (self.indices >= first) & (self.indices < end)  # [nnz]
        before = torch.cat([kept.new_zeros(1), kept]).cumsum(0)
        strengths = None if self.strengths is None else self.strengths[kept]
        return NeighborTable(self.num_classes, before[self.indptr], self.indices[kept], self.auxiliary_start, strengths)

    def emptied(self) -> NeighborTable:
        """A table of the same classes in which nobody is silenced."""
        indptr = torch.zeros_like(self.indptr)
        return NeighborTable(self.num_classes, indptr, self.indices[:0], self.num_classes)

    def silenced(self, labels: Tensor) -> Tensor:
        """Membership as a dense mask, bool [B, C]; for the reference and for small C.

        Args:
            labels: int64 [B], each in 0..C-1, on the table's device.
        """
        return self.strength(labels) > 0

    def strength(self, labels: Tensor) -> Tensor:
        """How strongly each class is silenced, float32 [B, C]: 0 where it is not; as `silenced`."""
        starts, lengths = self.indptr[labels], self._row_lengths(labels)
        rows = torch.repeat_interleave(lengths)  # [nnz of the batch]
        offsets = torch.arange(len(rows), device=labels.device) - (lengths.cumsum(0) - lengths)[rows]
        places = starts[rows] + offsets
        strength = torch.zeros(len(labels), self.num_classes, device=labels.device)
        strength[rows, self.indices[places]] = 1.0 if self.strengths is None else self.strengths[places]
        strength[:, self.auxiliary_start :].masked_fill_((labels >= self.auxiliary_start)[:, None], 1.0)
        return strength.scatter_(1, labels[:, None], 0.0)

    def _row_lengths(self, labels: Tensor) -> Tensor:
        return self.indptr[labels + 1] - self.indptr[labels]


def _checked(strengths: Iterable[float] | Tensor | None, edges: Tensor) -> Tensor:
    """Strengths of edges [P, 2] as float32 [P]; what float32 holds with fewer digits, next to 0, is 0."""
    if strengths is None:
        return torch.ones(len(edges))
    found = strengths if isinstance(strengths, Tensor) else torch.tensor(list(strengths), dtype=torch.float64)
    found = found.detach().cpu()
    if found.shape != edges.shape[:1]:
        raise ValueError(f"strengths must have shape [{len(edges)}], one for each pair, got {list(found.shape)}.")
    wrong = ~((found >= 0) & (found <= 1))  # NaN too
    if wrong.any():
        pair, strength = edges[wrong][0].tolist(), found[wrong][0].item()
        raise ValueError(f"the strength of the pair {pair} is {strength:g}: it must lie in 0..1.")
    found = found.float()
    return found.where(found >= torch.finfo(torch.float32).tiny, 0.0)
