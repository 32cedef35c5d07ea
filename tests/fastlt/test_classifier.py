"""Any timm model may be the backbone, whether it has to be told the size of its images or must not be."""

import pytest
import torch

from fastlt.backbone.create import create_backbone
from fastlt.recipe import ModelRecipe


@pytest.mark.parametrize(
    ("name", "sized"),
    [
        ("resnet18", False),
        ("efficientvit_b0", False),  # "vit" in its name
        ("shvit_s1", False),
        ("vit_tiny_patch16_224", True),
        ("deit_tiny_patch16_224", True),
        ("swin_tiny_patch4_window7_224", True),
        ("mixer_s16_224", True),
    ],
)
def test_backbones_of_any_image_size(name, sized):
    backbone = create_backbone(ModelRecipe(name=name), 96).eval()
    with torch.inference_mode():
        assert backbone(torch.zeros(1, 3, 96, 96)).ndim == 2
        if sized:
            with pytest.raises(AssertionError):
                backbone(torch.zeros(1, 3, 64, 64))
