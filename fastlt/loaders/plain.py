"""Images straight from their files through timm's transforms: the definition of the recipe, and slow."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from timm.data.transforms_factory import transforms_imagenet_eval, transforms_imagenet_train
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from fastlt.dataset.encoded import EncodedDataset
from fastlt.dataset.images import read_image
from fastlt.loaders.sample_keys import split_keys
from fastlt.loaders.transform import Transform
from fastlt.loaders.workers import WORKERS, end_with_parent, start_server


class PlainImages:
    """Reads the images of a split that was encoded with `--format plain` or `--format webdataset`."""

    def __init__(self, data: EncodedDataset, split: str, transform: Transform, batch_size: int, workers: int) -> None:
        del batch_size  # that of the keys
        self._images, self._workers = _Images(data.image_names(split), transform, data.max_pixels), workers
        if workers:
            start_server(__name__)

    def batches(self, keys: Iterable[np.ndarray]) -> Iterator[Tensor]:
        """See `ImageReader`. The workers live as long as the iterator, so that none outlives its rank."""
        yield from DataLoader(
            self._images,
            batch_sampler=(list(zip(batch.tolist(), split_keys(batch)[1].tolist(), strict=True)) for batch in keys),
            num_workers=self._workers,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=end_with_parent,
            multiprocessing_context=WORKERS if self._workers else None,
        )


class _Images(Dataset):
    def __init__(self, names: list[str], transform: Transform, max_pixels: int) -> None:
        self.names, self.seed = names, transform.seed if transform.train else None
        self.max_pixels = max_pixels
        # uint8 comes out of both; normalized on the device
        if transform.train:
            self.transform = transforms_imagenet_train(
                transform.size,
                scale=transform.crop_scale,
                ratio=transform.crop_ratio,
                hflip=transform.flip,
                auto_augment=transform.rand_augment,
                color_jitter=transform.color_jitter,
                force_color_jitter=transform.color_jitter > 0,
                interpolation="bicubic",
                mean=tuple(value / 255 for value in transform.fill),  # of what RandAugment leaves empty
                use_prefetcher=True,
            )
        else:
            self.transform = transforms_imagenet_eval(
                transform.size, crop_pct=transform.crop_pct, interpolation="bicubic", use_prefetcher=True
            )

    def __getitem__(self, key_and_index: tuple[int, int]) -> Tensor:
        key, index = key_and_index
        image = read_image(self.names[index], self.max_pixels)
        if self.seed is not None:  # timm draws from three global generators: those of the worker, if there are any
            seeds = np.random.SeedSequence([self.seed, key]).generate_state(3)
            random.seed(int(seeds[0]))
            np.random.seed(seeds[1])
            torch.default_generator.manual_seed(int(seeds[2]))  # torch.manual_seed: 0.1 ms, for other devices too
        return torch.as_tensor(self.transform(image))  # [3, H, W] uint8
