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
    """

    num_classes: int
    indptr: Tensor
    indices: Tensor
    auxiliary_start: int

    @classmethod
    def from_pairs(
        cls,
        num_classes: int,
        pairs: Iterable[tuple[int, int]] | Tensor,
        auxiliary_start: int | None = None,
    ) -> NeighborTable:
        """Builds the table from (class, class) pairs; order and repetitions do not matter.

        Args:
            num_classes: C, at least 1.
            pairs: neighbors, any iterable of two class indices or an integer tensor [P, 2].
            auxiliary_start: from this class on, every class silences every other such class.

        Raises:
            ValueError: a class outside 0..C-1, a class paired with itself, or a wrong shape.
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
        # Pairs inside the interval are already silenced by it; kept out, the two parts are disjoint.
        edges = edges[~(edges >= start).all(dim=1)]
        edges = torch.unique(torch.cat([edges, edges.flip(1)]), dim=0)  # [nnz, 2], sorted
        indptr = torch.zeros(num_classes + 1, dtype=torch.int64)
        indptr[1:] = torch.bincount(edges[:, 0], minlength=num_classes).cumsum(0)
        return cls(num_classes, indptr, edges[:, 1].contiguous(), start)

    def to(self, device: torch.device | str) -> NeighborTable:
        """The same table with its tensors on `device`."""
        indptr, indices = self.indptr.to(device), self.indices.to(device)
        return NeighborTable(self.num_classes, indptr, indices, self.auxiliary_start)

    def restricted(self, first: int, end: int) -> NeighborTable:
        """The table of the same classes in which only neighbors in first..end-1 are listed: a shard's part of it."""
        kept = (self.indices >= first) & (self.indices < end)  # [nnz]
        before = torch.cat([kept.new_zeros(1), kept]).cumsum(0)
        return NeighborTable(self.num_classes, before[self.indptr], self.indices[kept], self.auxiliary_start)

    def emptied(self) -> NeighborTable:
        """A table of the same classes in which nobody is silenced."""
        indptr = torch.zeros_like(self.indptr)
        return NeighborTable(self.num_classes, indptr, self.indices[:0], self.num_classes)

    def silenced(self, labels: Tensor) -> Tensor:
        """Membership as a dense mask, bool [B, C]; for the reference and for small C.

        Args:
            labels: int64 [B], each in 0..C-1, on the table's device.
        """
        starts, lengths = self.indptr[labels], self._row_lengths(labels)
        rows = torch.repeat_interleave(lengths)  # [nnz of the batch]
        offsets = torch.arange(len(rows), device=labels.device) - (lengths.cumsum(0) - lengths)[rows]
        mask = torch.zeros(len(labels), self.num_classes, dtype=torch.bool, device=labels.device)
        mask[rows, self.indices[starts[rows] + offsets]] = True
        mask[:, self.auxiliary_start :] |= (labels >= self.auxiliary_start)[:, None]
        mask.scatter_(1, labels[:, None], False)
        return mask

    def _row_lengths(self, labels: Tensor) -> Tensor:
        return self.indptr[labels + 1] - self.indptr[labels]
