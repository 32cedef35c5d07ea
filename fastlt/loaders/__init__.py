"""Batches of images and labels on the device; behind them FFCV, DALI or plain folders, which nobody else knows about.

Shapes: B batch, H = W image size.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator
from importlib.util import find_spec
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from fastlt.encoded import EncodedDataset
from fastlt.epoch_plan import EpochPlan, sample_keys, split_keys
from fastlt.loaders import compiled_cache
from fastlt.loaders.transform import Transform

compiled_cache.keep_apart()
Backend = Literal["auto", "ffcv", "dali", "plain"]
_READS: dict[str, tuple[Backend, ...]] = {"ffcv": ("ffcv",), "webdataset": ("dali", "plain"), "plain": ("plain",)}


class ImageSource(Protocol):
    """A backend: reads the images of given samples."""

    def batches(self, keys: Iterable[np.ndarray]) -> Iterator[Tensor]:
        """For each batch of uint64 keys [B], uint8 [B, 3, H, W] on the host or the device, in order.

        `keys` may be endless, and is read some batches ahead. No B exceeds the batch size of the source.
        A yielded tensor is valid until the next but one is asked for.

        Raises:
            ValueError: an image cannot be read; names it.
        """
        ...


def open_source(
    data: EncodedDataset,
    split: str,
    transform: Transform,
    batch_size: int,
    workers: int,
    backend: Backend = "auto",
    device: torch.device | None = None,
) -> ImageSource:
    """The image source that fits the data set; `device` is where DALI may decode, None for the host.

    Raises:
        ValueError: the backend does not fit the data set, or is not installed.
    """
    fitting = _READS[data.format]
    wanted = backend
    if backend == "auto":
        wanted = next(b for b in fitting if is_installed(b))
    if wanted not in fitting:
        raise ValueError(f"{data.path} was encoded with --format {data.format}; the {wanted} loader cannot read it.")
    try:  # imported here, as both are optional
        if wanted == "ffcv":
            from fastlt.loaders.ffcv_images import FFCVImages

            return FFCVImages(data, split, transform, batch_size, workers)
        if wanted == "dali":
            from fastlt.loaders.dali_images import DALIImages

            return DALIImages(data, split, transform, batch_size, workers, device)
    except ImportError as error:
        how = {"ffcv": "make install", "dali": "pip install -e .[dali]"}[wanted]
        raise ValueError(
            f"the {wanted} loader cannot be used here ({error}): `{how}`, or encode {data.path} again with "
            "--format plain."
        ) from None
    from fastlt.loaders.plain_images import PlainImages

    return PlainImages(data, split, transform, batch_size, workers)


def is_installed(backend: Backend) -> bool:
    """Whether what the backend needs can be found."""
    if backend != "dali":
        return True
    try:
        return find_spec("nvidia.dali") is not None
    except ModuleNotFoundError:  # not even a package `nvidia`
        return False


class Normalize:
    """uint8 images to normalized float32 on the device.

    On a GPU the copy runs beside the computation, on a stream of its own.

    Attributes:
        mean, std: per channel, of images scaled to 0..1.
    """

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> None:
        self.mean, self.std, self.device = mean, std, device
        self._mean = torch.tensor(mean, device=device).mul(255).view(1, 3, 1, 1)
        self._scale = torch.tensor(std, device=device).mul(255).reciprocal().view(1, 3, 1, 1)
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def __call__(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] uint8 to float32, channels last."""
        images = images.to(self.device, non_blocking=True).float().contiguous(memory_format=torch.channels_last)
        # As large as an image, for three channels alone do not vectorize in channels-last memory.
        mean, scale = (
            values.expand(1, *images.shape[1:]).contiguous(memory_format=torch.channels_last)
            for values in (self._mean, self._scale)
        )
        return images.sub_(mean).mul_(scale)

    def feed(self, batches: Iterable[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
        """(uint8 images, labels) on the host to (normalized images, labels) on the device.

        On a GPU the next batch is on its way while the caller computes with this one.
        """
        if self._stream is None:
            for images, labels in batches:
                yield self(images), labels
            return
        compute = torch.cuda.current_stream(self.device)
        on_its_way: tuple[Tensor, Tensor, torch.cuda.Event] | None = None
        for images, labels in batches:
            if on_its_way:  # the memory it comes from is written again when the next but one is read
                on_its_way[2].synchronize()
            with torch.cuda.stream(self._stream):
                images = images.to(self.device, non_blocking=True, copy=True)
                labels = labels.pin_memory().to(self.device, non_blocking=True)
                copied = torch.cuda.Event()
                copied.record()
            if on_its_way:
                yield self._arrived(*on_its_way, compute)
            on_its_way = images, labels, copied
        if on_its_way:
            yield self._arrived(*on_its_way, compute)

    def _arrived(
        self, images: Tensor, labels: Tensor, copied: torch.cuda.Event, compute: torch.cuda.Stream
    ) -> tuple[Tensor, Tensor]:
        compute.wait_event(copied)
        images.record_stream(compute)
        labels.record_stream(compute)
        return self(images), labels


class TrainLoader:
    """One rank's batches of the endless stream of a plan's epochs, one epoch after the other.

    The stream is cut into global batches of `batch_size * world_size` consecutive samples, of which each rank takes
    its part. So every sample comes once an epoch, ranks are equally long, and a position in the stream is all there is
    to save: any number of ranks continues there.
    """

    def __init__(
        self,
        source: ImageSource,
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
        self.source, self.plan, self.labels, self.normalize = source, plan, labels, normalize
        self.batch_size, self.rank, self.world_size = batch_size, rank, world_size
        self.position = 0

    def state_dict(self) -> dict[str, int]:
        """Position after the batches yielded so far, in samples of the stream."""
        return {"samples": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continues at a saved position when next iterated; no sample before it is read."""
        self.position = state["samples"]

    def __iter__(self) -> Generator[tuple[Tensor, Tensor], None, None]:
        """Yields (images float32 [B, 3, H, W], labels int64 [B]) from the current position, without end."""
        for batch in self.normalize.feed(_labeled(self.source, self._keys(self.position), self.labels)):
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
        source: ImageSource,
        labels: np.ndarray,
        normalize: Normalize,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.source, self.normalize, self.batch_size, self.labels = source, normalize, batch_size, labels
        self.indices = np.arange(len(labels))[rank::world_size]
        self.stands_in = -(-len(labels) // world_size) % batch_size == 1 and len(self.indices) % batch_size == 0
        if self.stands_in:
            self.indices = np.append(self.indices, 0)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields (images float32 [B, 3, H, W], labels int64 [B])."""
        batches = (self.indices[i : i + self.batch_size] for i in range(0, len(self.indices), self.batch_size))
        keys = (sample_keys(indices) for indices in batches)
        left = len(self.indices)
        for images, labels in self.normalize.feed(_labeled(self.source, keys, self.labels)):
            left -= len(labels)
            if left == 0 and self.stands_in:
                labels[-1] = -1
            yield images, labels


def _labeled(source: ImageSource, batches: Iterator[np.ndarray], labels: np.ndarray) -> Iterator[tuple[Tensor, Tensor]]:
    """Pairs each batch that the source reads with the labels [B] of its keys."""
    asked: deque[np.ndarray] = deque()

    def asking() -> Iterator[np.ndarray]:
        for keys in batches:
            asked.append(keys)
            yield keys

    for images in source.batches(asking()):
        yield images, torch.from_numpy(labels[split_keys(asked.popleft())[1].astype(np.int64)])
