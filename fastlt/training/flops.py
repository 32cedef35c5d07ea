"""How much a model computes and a device could: for the share of the peak that a run reaches."""

from __future__ import annotations

import torch
from torch.utils.flop_counter import FlopCounterMode

from fastlt.backbone.create import create_backbone
from fastlt.recipe import ModelRecipe

# Dense bfloat16 FLOP/s of one device, by what its name contains; vendors' data sheets.
PEAK_FLOPS = {"H200": 989e12, "H100": 989e12, "H20": 148e12, "A100": 312e12, "L40S": 362e12, "A10": 125e12}


def forward_flops(model: ModelRecipe, image_size: int, num_classes: int) -> float:
    """FLOPs of one image's way through backbone and classifier, matrix products and convolutions alone."""
    with torch.device("meta"):
        backbone = create_backbone(model.model_copy(update={"pretrained": False}), image_size).eval()
        with FlopCounterMode(display=False) as counter:
            features = backbone(torch.empty(1, 3, image_size, image_size))  # [1, D]
    return counter.get_total_flops() + 2 * features.shape[1] * num_classes


def peak_flops(device: torch.device) -> float | None:
    """Dense bfloat16 FLOP/s of the device, if it is known."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((flops for key, flops in PEAK_FLOPS.items() if key in name), None)
