"""A tree of millions of taxa as arrays: what lies above each, found for all of them at once."""

from __future__ import annotations

import numpy as np


class Tree:
    """Taxa by their places 0..N-1; place N is above all of them.

    A taxon that is above itself, and what lies between, is taken to have nothing above it.

    Args:
        ids: (N,) int64, rising.
        parents: (N,) int64, ids; -1 for none.

    Attributes:
        up: (N + 1,) int64, the place of what is next above each.
        orphans: how many have a parent that is not there.
        ring: (R,) int64, places of taxa that were above themselves.
    """

    def __init__(self, ids: np.ndarray, parents: np.ndarray) -> None:
        n = len(ids)
        at = np.minimum(np.searchsorted(ids, parents), max(n - 1, 0))
        is_there = (ids[at] == parents) if n else np.zeros(0, bool)
        self.up = np.append(np.where(is_there, at, n), n)
        self.orphans = int(np.count_nonzero(~is_there & (parents >= 0)))
        # After N steps or more up, all are at the top, but for those that go round and round.
        far = self.up
        for _ in range(n.bit_length()):
            far = far[far]
        self.ring = np.unique(far[far != n])
        self.up[self.ring] = n

    def __len__(self) -> int:
        return len(self.up) - 1

    def nearest(self, wanted: np.ndarray) -> np.ndarray:
        """(N,) places of the nearest wanted taxon above each, N where there is none; `wanted` is (N,) bool."""
        stops = np.append(wanted, True)
        found = self.up.copy()
        while not (there := stops[found]).all():
            found = np.where(there, found, found[found])
        return found[:-1]

    def above(self, place: int) -> list[int]:
        """The places from the root to what is next above a taxon."""
        line = []
        while (place := int(self.up[place])) < len(self):
            line.append(place)
        return line[::-1]

    def sums(self, numbers: np.ndarray) -> np.ndarray:
        """(N,) int64: the number of each taxon and of all below it; `numbers` is (N,) int64, none below 0."""
        n = len(self)
        sums = numbers.astype(np.int64)
        at = np.flatnonzero(numbers)
        amounts, at = numbers[at], self.up[at]
        while (going := at < n).any():
            amounts, at = amounts[going], at[going]
            np.add.at(sums, at, amounts)
            at = self.up[at]
        return sums
