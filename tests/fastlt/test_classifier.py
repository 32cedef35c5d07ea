"""Any timm model may be the backbone, whether it has to be told the size of its images or must not be."""

import pytest
import torch
from safetensors.torch import save_file

from fastlt.backbone.create import create_backbone, unseen_pixels
from fastlt.classifier import class_embeddings
from fastlt.dataset.encoded import EncodedDataset
from fastlt.preflight import check
from fastlt.recipe import ModelRecipe, load_recipe


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


def test_class_embeddings_are_checked_before_ranks_start(workshop, tmp_path):
    file = tmp_path / "rows.safetensors"
    words = ["model.name=test_vit", "model.arguments={}", "model.cosine_scale=25", f"model.class_embeddings={file}"]
    words += [f"data.path={workshop.folder / 'encoded'}", f"output={tmp_path / 'run'}"]
    recipe = load_recipe(workshop.folder / "recipe.yaml", words)
    names = EncodedDataset.open(recipe.data.path).label_space.names
    with pytest.raises(ValueError, match=r"rows\.safetensors cannot be read \(No such file"):
        check(recipe, False, 1)
    file.mkdir()
    with pytest.raises(ValueError, match=r"cannot be read \(it is a folder\): it must be safetensors"):
        check(recipe, False, 1)
    file.rmdir()
    for rows, size, sentence in (
        (names, 7, "has embeddings of 7 numbers, but test_vit gives 64 features"),
        (names[1:], 64, f"has no embedding of 1 of {len(names)} classes, for example '{names[0]}'"),
    ):
        save_file({name: torch.ones(size) for name in rows}, file)
        with pytest.raises(ValueError, match=sentence):
            check(recipe, False, 1)
    save_file({name: torch.ones(64) for name in names}, file)
    check(recipe, False, 1)
    targets = EncodedDataset.open(recipe.data.path).label_space.target_names
    save_file({name: torch.ones(64) for name in targets}, file)
    check(load_recipe(workshop.folder / "recipe.yaml", [*words, "data.auxiliary=false"]), False, 1)


@pytest.mark.parametrize(("side", "unseen"), [(40, 0), (36, 4)])
def test_edges_that_patches_leave_out_are_counted(side, unseen):
    model = ModelRecipe(name="vit_tiny_patch16_224", pretrained=False, arguments={"patch_size": 8, "depth": 1})
    backbone = create_backbone(model, side).eval()
    images = torch.rand(1, 3, side, side)
    changed = images.clone()
    changed[..., side - unseen :, :] += 1
    changed[..., side - unseen :] += 1
    assert unseen_pixels(backbone, side) == unseen
    assert torch.equal(backbone(images), backbone(changed))
