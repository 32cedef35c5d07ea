"""Batches of images and labels on the device; behind them FFCV or plain folders, which nobody else knows about.

Shapes: B batch, H = W image size.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from fastlt.encoded import EncodedDataset
from fastlt.epoch_plan import EpochPlan, sample_keys

Backend = Literal["auto", "ffcv", "plain"]


@dataclass(frozen=True)
class Transform:
    """What happens to one image on the host.

    Attributes:
        size: H = W in pixels.
        train: random crop and flip; otherwise a center crop.
        crop_scale, crop_ratio: area and aspect ratio of the random crop, as fractions.
        flip: probability of a horizontal flip.
        rand_augment: timm's description, for example "rand-m9-mstd0.5-inc1"; None for none.
        crop_fraction: side of the center crop over the shorter side of the image.
        seed: with the sample's key it determines every random choice.
    """

    size: int
    train: bool
    crop_scale: tuple[float, float] = (0.08, 1.0)
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    rand_augment: str | None = None
    crop_fraction: float = 0.875
    seed: int = 0


class ImageSource(Protocol):
    """A backend: reads the images of given samples."""

    def batches(self, keys: np.ndarray) -> Iterator[Tensor]:
        """Yields uint8 [B, 3, H, W] on the host for uint64 keys [N] in order; the last batch may be shorter.

        A yielded tensor is valid until the next but one is asked for.
        """
        ...


def open_source(
    data: EncodedDataset, split: str, transform: Transform, batch_size: int, workers: int, backend: Backend = "auto"
) -> ImageSource:
    """The image source that fits the data set.

    Raises:
        ValueError: the backend does not fit the data set, or FFCV is missing.
    """
    fitting = "ffcv" if data.format == "ffcv" else "plain"
    wanted = fitting if backend == "auto" else backend
    if wanted != fitting:
        raise ValueError(f"{data.path} was encoded with --format {data.format}; the {wanted} loader cannot read it.")
    if wanted == "ffcv":
        if find_spec("ffcv") is None:
            raise ValueError(
                f"{data.path} needs FFCV, which is not installed: run `make install`, "
                "or encode again with --format plain."
            )
        from fastlt.loaders.ffcv_images import FFCVImages  # here, as FFCV is optional

        return FFCVImages(data, split, transform, batch_size, workers)
    from fastlt.loaders.plain_images import PlainImages

    return PlainImages(data, split, transform, batch_size, workers)


@dataclass
class Normalize:
    """uint8 images on the host to normalized float32 on the device.

    Attributes:
        mean, std: per channel, of images scaled to 0..1.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    device: torch.device

    def __post_init__(self) -> None:
        self._mean = torch.tensor(self.mean, device=self.device).mul(255).view(1, 3, 1, 1)
        self._scale = torch.tensor(self.std, device=self.device).mul(255).reciprocal().view(1, 3, 1, 1)

    def __call__(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] uint8 to float32, channels last."""
        images = images.to(self.device, non_blocking=True).float()
        return images.sub_(self._mean).mul_(self._scale).contiguous(memory_format=torch.channels_last)


class TrainLoader:
    """One rank's batches of the epochs of a plan.

    An epoch is cut into global batches of `batch_size * world_size` consecutive samples, of which
    each rank takes its part; what does not fill a global batch is left out and drawn anew next time.
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
        self._epoch, self._position = 0, 0

    def __len__(self) -> int:
        """Batches of an epoch."""
        return len(self.plan) // (self.batch_size * self.world_size)

    def set_epoch(self, epoch: int) -> None:
        """Goes to the start of an epoch."""
        self._epoch, self._position = epoch, 0

    def state_dict(self) -> dict[str, int]:
        """Position after the batches yielded so far, in samples of the global order: fits any number of ranks."""
        return {"epoch": self._epoch, "samples": self._position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continues at a saved position; no sample before it is read."""
        self._epoch, self._position = state["epoch"], state["samples"]

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields (images float32 [B, 3, H, W], labels int64 [B]) from the current position to the epoch's end."""
        stride = self.batch_size * self.world_size
        order = self.plan.order(self._epoch)[self._position :]
        steps = order[: len(order) // stride * stride].reshape(-1, self.world_size, self.batch_size)
        mine = steps[:, self.rank].reshape(-1)
        for batch in _labeled(self.source, mine, self.labels[mine], self._epoch, self.normalize):
            self._position += stride
            yield batch


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
        self.source, self.normalize = source, normalize
        self.indices = np.arange(len(labels))[rank::world_size]
        self.labels = labels[self.indices]
        longest = -(-len(labels) // world_size)
        if -(-longest // batch_size) > -(-len(self.indices) // batch_size):
            self.indices = np.append(self.indices, 0)
            self.labels = np.append(self.labels, -1)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields (images float32 [B, 3, H, W], labels int64 [B])."""
        yield from _labeled(self.source, self.indices, self.labels, 0, self.normalize)


def _labeled(
    source: ImageSource, indices: np.ndarray, labels: np.ndarray, epoch: int, normalize: Normalize
) -> Iterator[tuple[Tensor, Tensor]]:
    start = 0
    for images in source.batches(sample_keys(indices, epoch)):
        batch = torch.from_numpy(labels[start : start + len(images)])
        start += len(images)
        yield normalize(images), batch.to(normalize.device, non_blocking=True)
