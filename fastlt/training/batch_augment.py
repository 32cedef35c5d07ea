"""Augmentation of whole batches on the device: random erasing, mixup, cutmix.

Shapes: B batch.
"""

from __future__ import annotations

import numpy as np
import torch
from timm.data.mixup import rand_bbox
from timm.data.random_erasing import RandomErasing
from torch import Tensor

from fastlt.recipe import AugmentRecipe


class BatchAugment:
    """Erases and mixes a batch; its randomness is the caller's global generators, seeded per step."""

    def __init__(self, recipe: AugmentRecipe, device: torch.device) -> None:
        self.mixup, self.cutmix = recipe.mixup, recipe.cutmix
        self.erase = RandomErasing(recipe.random_erasing, mode="pixel", device=device)

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor | None, float | None]:
        """(images, labels, second labels, weight of the first ones) of images [B, 3, H, W] and labels [B].

        Image i is mixed with image B - 1 - i, as in timm; without mixing the last two are None.
        """
        if self.erase.probability > 0:
            images = self.erase(images)
        if not (self.mixup or self.cutmix):
            return images, labels, None, None
        if self.cutmix and (not self.mixup or np.random.rand() < 0.5):
            mu = np.random.beta(self.cutmix, self.cutmix)
            top, bottom, left, right = rand_bbox(images.shape, mu)
            mixed = images.clone()
            mixed[:, :, top:bottom, left:right] = images.flip(0)[:, :, top:bottom, left:right]
            mu = 1 - (bottom - top) * (right - left) / (images.shape[-2] * images.shape[-1])
        else:
            mu = np.random.beta(self.mixup, self.mixup)
            mixed = images * mu + images.flip(0) * (1 - mu)
        return mixed, labels, labels.flip(0), float(mu)
