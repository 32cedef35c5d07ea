"""Images straight from their files through timm's transforms: the definition of the recipe, and slow."""

from __future__ import annotations

import json
import random
import signal
from collections.abc import Iterator

import numpy as np
import torch
from timm.data import create_transform
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from fastlt.encoded import EncodedDataset
from fastlt.images import read_image
from fastlt.loaders import Transform


class PlainImages:
    """Reads the images of a split that was encoded with `--format plain`."""

    def __init__(self, data: EncodedDataset, split: str, transform: Transform, batch_size: int, workers: int) -> None:
        paths = json.loads(data.file(split).read_text())
        self._batches = _KeyBatches(batch_size)
        self._loader: DataLoader = DataLoader(
            _Images(paths, transform),
            batch_sampler=self._batches,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=_ignore_terminate,
        )

    def batches(self, keys: np.ndarray) -> Iterator[Tensor]:
        """See `ImageSource`."""
        self._batches.keys = keys
        yield from self._loader


class _KeyBatches(Sampler):
    """Hands the current epoch's sample keys to the workers, which so need no word about the epoch."""

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size
        self.keys = np.empty(0, np.uint64)

    def __iter__(self) -> Iterator[list[int]]:
        for start in range(0, len(self.keys), self.batch_size):
            yield self.keys[start : start + self.batch_size].tolist()

    def __len__(self) -> int:
        return -(-len(self.keys) // self.batch_size)


class _Images(Dataset):
    def __init__(self, paths: list[str], transform: Transform) -> None:
        self.paths, self.seed = paths, transform.seed
        self.transform = create_transform(
            transform.size,
            is_training=transform.train,
            use_prefetcher=True,  # uint8 out; normalized on the device
            scale=transform.crop_scale,
            ratio=transform.crop_ratio,
            hflip=transform.flip,
            auto_augment=transform.rand_augment,
            color_jitter=0.0,
            interpolation="bicubic",
            crop_pct=transform.crop_fraction,
        )

    def __getitem__(self, key: int) -> Tensor:
        image = read_image(self.paths[key & ((1 << 40) - 1)])
        # timm draws from three global generators; here they belong to this sample alone.
        states = random.getstate(), np.random.get_state(), torch.get_rng_state()
        seeds = np.random.SeedSequence([self.seed, key]).generate_state(3)
        random.seed(int(seeds[0]))
        np.random.seed(seeds[1])
        torch.manual_seed(int(seeds[2]))
        pixels = torch.as_tensor(self.transform(image))  # [3, H, W] uint8
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
        return pixels


def _ignore_terminate(worker: int) -> None:
    """Launchers send SIGTERM to the whole process tree; the rank must live on to save, and so must its workers."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
