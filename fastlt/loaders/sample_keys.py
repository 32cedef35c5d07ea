"""A sample's key: epoch and index in one number, from which, with the seed, all its randomness follows."""

from __future__ import annotations

import numpy as np

from fastlt.loaders.compiled import compiled

_EPOCH_SHIFT = np.uint64(40)
_INDEX_MASK = np.uint64((1 << 40) - 1)


def join_keys(indices: np.ndarray, epoch: int = 0) -> np.ndarray:
    """Keys uint64 [N] of the samples of these indices [N] in an epoch."""
    return (np.uint64(epoch) << _EPOCH_SHIFT) | indices.astype(np.uint64)


def split_keys(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Inverse of `join_keys`: (epochs, indices), each int64 [N]."""
    return (keys >> _EPOCH_SHIFT).astype(np.int64), (keys & _INDEX_MASK).astype(np.int64)


@compiled
def sample_index(key):
    """The index, int64, in one key, uint64."""
    return np.int64(key & _INDEX_MASK)
