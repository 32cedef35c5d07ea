"""From uint8 images on the host to normalized float32 on the device, copied while the device computes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor


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
