"""Batches of images and labels on the device, for training and for evaluation.

Shapes: B batch, H = W image size.
"""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Generator, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fastlt.foreign import load_json
from fastlt.loaders.normalize import Normalize
from fastlt.loaders.readers import ImageReader
from fastlt.loaders.sample_keys import join_keys, split_keys
from fastlt.loaders.sampler import EpochPlan

_STATE = "loader.json"


class TrainLoader:
    """One rank's batches of the endless stream of a plan's epochs, one epoch after the other.

    The stream is cut into global batches of `batch_size * world_size` consecutive samples, of which each rank takes
    its part. So every sample comes once an epoch, ranks are equally long, and a position in the stream is all there is
    to save: any number of ranks continues there.
    """

    def __init__(
        self,
        reader: ImageReader,
        plan: EpochPlan,
        labels: np.ndarray,
        normalize: Normalize,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """`labels` are those of all samples on disk, int64 [N]; `batch_size` is one rank's.

        Raises:
            ValueError: an epoch does not fill one global batch.
        """
        if len(plan) < batch_size * world_size:
            raise ValueError(
                f"an epoch has {len(plan)} images, fewer than one batch of {batch_size} on {world_size} ranks: "
                "lower optimizer.batch_size."
            )
        self.reader, self.plan, self.labels, self.normalize = reader, plan, labels, normalize
        self.batch_size, self.rank, self.world_size = batch_size, rank, world_size
        self.position = 0

    def state_dict(self) -> dict[str, int]:
        """Position after the batches yielded so far, in samples of the stream."""
        return {"samples": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continues at a saved position when next iterated; no sample before it is read."""
        self.position = state["samples"]

    def save(self, folder: Path) -> None:
        """Writes the state into a checkpoint's folder; it is the same on every rank."""
        if self.rank == 0:
            (folder / _STATE).write_text(json.dumps(self.state_dict()))

    def load(self, folder: Path) -> None:
        """Reads it, on any number of ranks."""
        self.load_state_dict(load_json(folder / _STATE))

    def __iter__(self) -> Generator[tuple[Tensor, Tensor], None, None]:
        """Yields (images float32 [B, 3, H, W], labels int64 [B]) from the current position, without end."""
        for batch in self.normalize.feed(_labeled(self.reader, self._keys(self.position), self.labels)):
            self.position += self.batch_size * self.world_size
            yield batch

    def _keys(self, position: int) -> Iterator[np.ndarray]:
        while True:
            yield self.plan.keys(position + self.rank * self.batch_size, self.batch_size)
            position += self.batch_size * self.world_size


class EvalLoader:
    """One rank's part of a split: every sample on exactly one rank.

    Every rank yields the same number of batches, as ZeRO-3 gathers weights at each forward: where
    one is missing, its stand-in has label -1, which evaluation does not count.
    """

    def __init__(
        self,
        reader: ImageReader,
        labels: np.ndarray,
        normalize: Normalize,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.reader, self.normalize, self.batch_size, self.labels = reader, normalize, batch_size, labels
        self.indices = np.arange(len(labels))[rank::world_size]
        most = math.ceil(len(labels) / world_size)  # samples of rank 0
        self.stands_in = math.ceil(most / batch_size) > math.ceil(len(self.indices) / batch_size)
        if self.stands_in:
            self.indices = np.append(self.indices, 0)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields (images float32 [B, 3, H, W], labels int64 [B])."""
        batches = (self.indices[i : i + self.batch_size] for i in range(0, len(self.indices), self.batch_size))
        keys = (join_keys(indices) for indices in batches)
        left = len(self.indices)
        for images, labels in self.normalize.feed(_labeled(self.reader, keys, self.labels)):
            left -= len(labels)
            if left == 0 and self.stands_in:
                labels[-1] = -1
            yield images, labels


def _labeled(reader: ImageReader, batches: Iterator[np.ndarray], labels: np.ndarray) -> Iterator[tuple[Tensor, Tensor]]:
    """Pairs each batch that the reader reads with the labels [B] of its keys."""
    asked: deque[np.ndarray] = deque()

    def asking() -> Iterator[np.ndarray]:
        for keys in batches:
            asked.append(keys)
            yield keys

    for images in reader.batches(asking()):
        yield images, torch.from_numpy(labels[split_keys(asked.popleft())[1]])
