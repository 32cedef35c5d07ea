"""Any timm model may be the backbone, whether it has to be told the size of its images or must not be."""

import pytest
import torch
from safetensors.torch import save_file

from fastlt.backbone.create import create_backbone
from fastlt.classifier import class_embeddings
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


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ({}, "has no embeddings"),
        ({"a": torch.ones(()), "b": torch.ones(())}, "must have a vector for each class"),
        ({"a": torch.ones(4), "b": torch.ones(5)}, "all of the same size"),
        ({"a": torch.ones(4), "b": torch.tensor([1, float("nan"), 0, 0])}, "not finite, for example for 'b'"),
        ({"a": torch.ones(4)}, "no embedding of 1 of 2 classes, for example 'b'"),
    ],
)
def test_class_embeddings_that_do_not_do_are_one_sentence(tmp_path, rows, sentence):
    save_file(rows, tmp_path / "rows.safetensors")
    with pytest.raises(ValueError, match=sentence):
        class_embeddings(tmp_path / "rows.safetensors", ["a", "b"])


def test_class_embeddings_are_found_by_name_whatever_their_order(tmp_path):
    save_file({"b": torch.full((2,), 2.0), "c": torch.full((2,), 3.0), "a": torch.ones(2)}, tmp_path / "rows")
    assert class_embeddings(tmp_path / "rows", ["c", "a", "b"])[:, 0].tolist() == [3.0, 1.0, 2.0]
