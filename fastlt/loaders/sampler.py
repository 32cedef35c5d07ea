"""Which training images an epoch uses and in which order, as a function of seed and epoch alone."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from fastlt.label_space import LabelSpace
from fastlt.loaders.sample_keys import join_keys


@dataclass(frozen=True)
class EpochPlan:
    """All target images and a fresh draw of the auxiliary ones, shuffled anew every epoch.

    Attributes:
        counts: images of each class on disk, int64 [C]; samples are ordered by class. Those of classes beyond C are
            left out.
        epoch_counts: those of them that an epoch uses, int64 [C], as `LabelSpace.epoch_counts` defines them.
        num_targets: T; classes from T on are auxiliary.
        seed: of draw and order.
    """

    counts: np.ndarray
    epoch_counts: np.ndarray
    num_targets: int
    seed: int
    _orders: dict[int, np.ndarray] = field(default_factory=dict, init=False, repr=False, compare=False)

    @classmethod
    def of(cls, label_space: LabelSpace, auxiliary_per_class: int, seed: int) -> EpochPlan:
        """The plan for a label space, of whose auxiliary classes an epoch uses at most so many images each."""
        counts = np.array(label_space.counts, dtype=np.int64)
        return cls(counts, label_space.epoch_counts(auxiliary_per_class), label_space.num_targets, seed)

    def __len__(self) -> int:
        """Images in an epoch, the same in every epoch."""
        return int(self.epoch_counts.sum())

    def keys(self, start: int, size: int) -> np.ndarray:
        """Keys of `size` samples from position `start` on of the stream of all epochs, one after the other.

        uint64 [size]; the same on every rank.
        """
        parts = []
        while size:
            epoch, begin = divmod(start, len(self))
            indices = self._kept_order(epoch)[begin : begin + size]
            parts.append(join_keys(indices, epoch))
            start, size = start + len(indices), size - len(indices)
        return np.concatenate(parts)

    def steps_before(self, epoch: int, batch_size: int) -> int:
        """Batches of that size of the stream until every sample of the epochs before `epoch` has come."""
        return -(-epoch * len(self) // batch_size)

    def epochs_of(self, steps: int, batch_size: int) -> int:
        """Whole epochs that take the number of steps nearest to this one, at least one."""
        return max(1, round(steps * batch_size / len(self)))

    def _kept_order(self, epoch: int) -> np.ndarray:
        if epoch not in self._orders:
            if len(self._orders) == 2:  # a batch may lie in two epochs
                del self._orders[min(self._orders)]
            self._orders[epoch] = self.order(epoch)
        return self._orders[epoch]

    def order(self, epoch: int) -> np.ndarray:
        """Sample indices of the epoch in their order, int64 [len(self)]."""
        rng = np.random.default_rng([self.seed, epoch])
        first_auxiliary = int(self.counts[: self.num_targets].sum())
        drawn = first_auxiliary + self._draw(rng)
        return rng.permutation(np.concatenate([np.arange(first_auxiliary), drawn]))

    def _draw(self, rng: np.random.Generator) -> np.ndarray:
        """Random positions among the auxiliary images, as many of each class as the epoch uses."""
        counts, used = self.counts[self.num_targets :], self.epoch_counts[self.num_targets :]
        labels = np.repeat(np.arange(len(counts)), counts)
        shuffled = rng.permutation(len(labels))
        shuffled = shuffled[np.argsort(labels[shuffled], kind="stable")]  # by class, at random within it
        starts = np.repeat(np.cumsum(counts) - counts, counts)
        return shuffled[np.arange(len(labels)) - starts < np.repeat(used, counts)]
