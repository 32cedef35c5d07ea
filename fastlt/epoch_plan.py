"""Which training images an epoch uses and in which order, as a function of seed and epoch alone."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

_EPOCH_SHIFT = np.uint64(40)
_INDEX_MASK = np.uint64((1 << 40) - 1)


def sample_keys(indices: np.ndarray, epoch: int = 0) -> np.ndarray:
    """Joins epoch and sample index in one uint64 [N]: all the randomness of a sample follows from (seed, key)."""
    return (np.uint64(epoch) << _EPOCH_SHIFT) | indices.astype(np.uint64)


def split_keys(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Inverse of `sample_keys`: (epochs, indices), each uint64 [N]."""
    return keys >> _EPOCH_SHIFT, keys & _INDEX_MASK


@dataclass(frozen=True)
class EpochPlan:
    """All target images and a fresh draw of the auxiliary ones, shuffled anew every epoch.

    Attributes:
        counts: images of each class on disk, int64 [C]; samples are ordered by class.
        num_targets: T; classes from T on are auxiliary. Samples of classes beyond C are left out.
        auxiliary_per_class: at most so many images of an auxiliary class in one epoch.
        seed: of draw and order.
    """

    counts: np.ndarray
    num_targets: int
    auxiliary_per_class: int
    seed: int
    _orders: dict[int, np.ndarray] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __len__(self) -> int:
        """Images in an epoch, the same in every epoch."""
        auxiliary = np.minimum(self.counts[self.num_targets :], self.auxiliary_per_class)
        return int(self.counts[: self.num_targets].sum() + auxiliary.sum())

    def keys(self, start: int, size: int) -> np.ndarray:
        """Keys of `size` samples from position `start` on of the stream of all epochs, one after the other.

        uint64 [size]; the same on every rank.
        """
        parts = []
        while size:
            epoch, begin = divmod(start, len(self))
            indices = self._kept_order(epoch)[begin : begin + size]
            parts.append(sample_keys(indices, epoch))
            start, size = start + len(indices), size - len(indices)
        return np.concatenate(parts)

    def steps_before(self, epoch: int, batch_size: int) -> int:
        """Batches of that size of the stream until every sample of the epochs before `epoch` has come."""
        return -(-epoch * len(self) // batch_size)

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
        drawn = first_auxiliary + self._draw(self.counts[self.num_targets :], rng)
        return rng.permutation(np.concatenate([np.arange(first_auxiliary), drawn]))

    def _draw(self, counts: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Up to `auxiliary_per_class` random positions of each class, without a loop over classes."""
        labels = np.repeat(np.arange(len(counts)), counts)
        shuffled = rng.permutation(len(labels))
        shuffled = shuffled[np.argsort(labels[shuffled], kind="stable")]  # by class, at random within it
        starts = np.repeat(np.cumsum(counts) - counts, counts)
        return shuffled[np.arange(len(labels)) - starts < self.auxiliary_per_class]
