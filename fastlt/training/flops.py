"""How much a model computes, for the share of a device's peak that a run reaches."""

from __future__ import annotations

import torch
from torch.utils.flop_counter import FlopCounterMode

from fastlt.classifier import create_backbone
from fastlt.recipe import ModelRecipe


def forward_flops(model: ModelRecipe, image_size: int, num_classes: int) -> float:
    """FLOPs of one image's way through backbone and classifier, matrix products and convolutions alone.

    Training takes three times as many; what is computed a second time to save memory does not count.
    """
    with torch.device("meta"):
        backbone = create_backbone(model.model_copy(update={"pretrained": False}), image_size).eval()
        with FlopCounterMode(display=False) as counter:
            features = backbone(torch.empty(1, 3, image_size, image_size))  # [1, D]
    return counter.get_total_flops() + 2 * features.shape[1] * num_classes
