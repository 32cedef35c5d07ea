"""An exact search for perceptual hashes within a Hamming radius.

Multi-index hashing (Norouzi, Punjani, Fleet, Fast Search in Hamming Space, 2012): the 64 bits are cut into radius + 1
chunks, and two hashes within the radius agree in one of them.

Shapes: N hashes in the index, M queries, K chunks.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numba import njit

from fastlt.caches import cached
from fastlt.cores import available_cores

_MAX_RADIUS = 15  # 16 chunks of 4 bits: beyond, a scan of everything is as good
_BUCKET_BITS = 16  # of a chunk, to keep the tables small
_MIN_TAIL = 4096
_BLOCK = 65_536  # queries a thread takes at once


class HashIndex:
    """Hashes that can be added to and searched, exact within `radius` bits.

    New hashes wait in an unsorted tail, which every query reads; it is sorted in when it has grown.

    Raises:
        ValueError: a radius outside 0..15.
    """

    def __init__(self, radius: int) -> None:
        if not 0 <= radius <= _MAX_RADIUS:
            raise ValueError(f"the radius of perceptual duplicates is {radius}; it must lie in 0..{_MAX_RADIUS} bits.")
        self.radius = radius
        self._hashes, self._size = np.empty(_MIN_TAIL, np.uint64), 0
        edges = np.linspace(0, 64, radius + 2).astype(int)
        self._shifts = edges[:-1].astype(np.uint64)
        widths = np.minimum(np.diff(edges), _BUCKET_BITS)
        self._masks = ((1 << widths) - 1).astype(np.uint64)
        self._sort()

    def __len__(self) -> int:
        return self._size

    def add(self, hashes: np.ndarray) -> None:
        """Adds int64 [n] hashes; they get the next indices."""
        needed = self._size + len(hashes)
        if needed > len(self._hashes):
            grown = np.empty(max(needed, 2 * len(self._hashes)), np.uint64)
            grown[: self._size] = self._hashes[: self._size]
            self._hashes = grown
        self._hashes[self._size : needed] = hashes.view(np.uint64)
        self._size = needed
        if self._size - self._sorted > max(_MIN_TAIL, self._sorted // 8):
            self._sort()

    def nearest(self, hashes: np.ndarray) -> np.ndarray:
        """The index of the closest added hash within the radius of each query, or -1; int64 [M] to int64 [M]."""
        found = np.empty(len(hashes), np.int64)
        tail = self._hashes[self._sorted : self._size]
        sets = (self._by_chunk, self._index, self._starts, self._shifts, self._masks, tail, self._sorted, self.radius)

        def block(first: int) -> None:
            part = slice(first, first + _BLOCK)
            _search(hashes[part].view(np.uint64), *sets, found[part])

        blocks = range(0, len(hashes), _BLOCK)
        if len(blocks) == 1:
            block(0)
        elif len(blocks):
            with ThreadPoolExecutor(available_cores()) as threads:
                list(threads.map(block, blocks))
        return found

    def _sort(self) -> None:
        """Orders all hashes by each of their chunks: [K, N] hashes and indices, [K, buckets + 1] starts."""
        hashes, chunks = self._hashes[: self._size], len(self._shifts)
        self._sorted = self._size
        self._by_chunk = np.empty((chunks, self._size), np.uint64)
        self._index = np.empty((chunks, self._size), np.int64)
        self._starts = np.zeros((chunks, int(self._masks.max()) + 2), np.int64)
        for k in range(chunks):
            bucket = ((hashes >> self._shifts[k]) & self._masks[k]).astype(np.uint16)
            self._index[k] = np.argsort(bucket, kind="stable")  # radix sort
            self._by_chunk[k] = hashes[self._index[k]]
            self._starts[k, 1:] = np.cumsum(np.bincount(bucket, minlength=self._starts.shape[1] - 1))


@cached(njit, nogil=True)
def _popcount(x):
    x -= (x >> np.uint64(1)) & np.uint64(0x5555555555555555)
    x = (x & np.uint64(0x3333333333333333)) + ((x >> np.uint64(2)) & np.uint64(0x3333333333333333))
    x = (x + (x >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return (x * np.uint64(0x0101010101010101)) >> np.uint64(56)  # LLVM knows this for what it is


@cached(njit, nogil=True)
def _search(queries, by_chunk, index, starts, shifts, masks, tail, tail_start, radius, found):
    for q in range(len(queries)):
        query, best, at = queries[q], radius + 1, -1
        for k in range(len(shifts)):
            bucket = (query >> shifts[k]) & masks[k]
            for i in range(starts[k, bucket], starts[k, bucket + np.uint64(1)]):
                distance = np.int64(_popcount(query ^ by_chunk[k, i]))
                if distance <= best and (distance < best or index[k, i] < at):
                    best, at = distance, index[k, i]
        for i in range(len(tail)):
            distance = np.int64(_popcount(query ^ tail[i]))
            if distance < best:
                best, at = distance, tail_start + i
        found[q] = at
