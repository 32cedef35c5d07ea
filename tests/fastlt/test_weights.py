"""`model.pretrained=FILE`: whatever trained a backbone; what does not fit is told before training starts."""

import argparse
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import yaml
from safetensors.torch import load_file, save_file
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from fastlt.backbone.create import create_backbone
from fastlt.classifier import Classifier
from fastlt.label_space import LabelSpace
from fastlt.recipe import ModelRecipe, Recipe, load_recipe
from support.workshop import RECIPE

SMALL_RESNET = yaml.safe_load(RECIPE)["model"]
SMALL_VIT = {"name": "vit_tiny_patch16_224", "arguments": {"depth": 2}}


class Hyperparameters(dict):
    """As Lightning stores its own, of a class that who reads the file need not have."""


def weights_of(model: dict, seed: int, **arguments) -> dict[str, torch.Tensor]:
    """Those of timm's backbone, drawn, as if it were trained: no tensor is as it begins."""
    made = timm.create_model(model["name"], num_classes=0, **model["arguments"], **arguments)
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.rand(weight.shape, generator=generator) + 0.5 if weight.is_floating_point() else weight
        for name, weight in made.state_dict().items()
    }


def below(prefix: str, weights: dict) -> dict:
    return {prefix + name: weight for name, weight in weights.items()}


def in_parts(weights: dict) -> dict:
    """Names as of nn.Sequential(*resnet.children())."""
    places = {"conv1": 0, "bn1": 1, "layer1": 4, "layer2": 5, "layer3": 6, "layer4": 7}
    return {f"{places[n.partition('.')[0]]}.{n.partition('.')[2]}": w for n, w in weights.items()}


def in_chunks(weights: dict) -> dict:
    """Names as DINOv2's training has them, one block a chunk."""
    return {n.replace("blocks.", f"blocks.{n.split('.')[1]}.") if "blocks." in n else n: w for n, w in weights.items()}


def loaded(model: dict, file: Path, size: int = 32, **more) -> tuple[dict[str, torch.Tensor], str]:
    recipe = Recipe(
        output="run",
        data={"path": "data", "image_size": size},
        model=model | {"pretrained": str(file)} | more,
        optimizer={"epochs": 1, "batch_size": 2, "blr": 1},
    )
    made = Classifier(recipe, LabelSpace(("a", "b"), (), (1, 1), ()))
    return made.backbone.state_dict(), "".join(getattr(made, "said", ""))


def assert_same(found: dict, right: dict) -> None:
    assert set(found) >= set(right)
    wrong = [name for name, weight in right.items() if not torch.equal(found[name], weight)]
    assert not wrong, f"{len(wrong)} of {len(right)} tensors are others, for example {wrong[0]}"


HEAD = {"fc.0.weight": torch.ones(4, 4), "fc.2.bias": torch.ones(4)}
RESNETS = {
    "MoCo v2": lambda q, k: {
        "epoch": 800,
        "state_dict": below("module.encoder_k.", k | HEAD)
        | below("module.encoder_q.", q | HEAD)
        | {"module.queue": torch.ones(4, 9), "module.queue_ptr": torch.zeros(1)},
        "optimizer": {"state": {0: {"momentum_buffer": torch.ones(3)}}},
    },
    "MoCo v3": lambda q, k: {
        "state_dict": below("module.momentum_encoder.", k | HEAD)
        | below("module.base_encoder.", q | HEAD)
        | {"module.predictor.0.weight": torch.ones(4)}
    },
    "Lightning": lambda q, k: {
        "state_dict": below("model.", q) | {"criterion.weight": torch.ones(3)},
        "hyper_parameters": Hyperparameters(lr=0.1),
        "callbacks": {"ModelCheckpoint": {"best_model_score": torch.tensor(1.0)}},
    },
    "SimCLR": lambda q, k: below("encoder.", q) | below("projector.", HEAD),
    "BYOL": lambda q, k: below("target_encoder.", k) | below("online_encoder.", q) | below("predictor.", HEAD),
    "lightly": lambda q, k: {"state_dict": below("backbone.", in_parts(q)) | below("backbone_momentum.", in_parts(k))},
    "timm": lambda q, k: {"state_dict": k, "state_dict_ema": below("module.", q), "best": np.float64(1)},
    "model_ema": lambda q, k: {"model": k, "model_ema": q, "args": argparse.Namespace(lr=1)},
    "torch.compile": lambda q, k: below("_orig_mod.", q),
    "DDP and torch.compile": lambda q, k: {"model": below("_orig_mod.module.", q)},
    "mmpretrain": lambda q, k: {"meta": {"time": "now"}, "state_dict": below("backbone.", q) | below("head.fc.", HEAD)},
    "VISSL": lambda q, k: {"classy": {"base_model": {"model": {"trunk": below("_feature_blocks.", q)}}}},
    "FSDP": lambda q, k: {n.replace("layer1.", "layer1._fsdp_wrapped_module."): w for n, w in q.items()},
}
VITS = {
    "DINO": lambda q, k: {
        "student": below("module.backbone.", k) | below("module.head.", HEAD),
        "teacher": below("backbone.", q) | below("head.", HEAD | {"last_layer.weight_g": torch.ones(4)}),
        "args": argparse.Namespace(arch="vit"),
        "dino_loss": {"center": torch.ones(1, 4)},
    },
    "DINOv2": lambda q, k: {"teacher": below("backbone.", in_chunks(q) | {"mask_token": torch.ones(1, 4)})},
    "MAE": lambda q, k: {
        "model": q | {"mask_token": torch.ones(1, 1, 4), "decoder_blocks.0.norm1.weight": torch.ones(4)},
        "scaler": {},
    },
    "MoCo v3": RESNETS["MoCo v3"],
}


@pytest.mark.parametrize("old_format", [False, True])
@pytest.mark.parametrize("kind", RESNETS)
def test_a_resnet_of_any_training(kind, old_format, tmp_path):
    right, other = (weights_of(SMALL_RESNET, seed) for seed in (1, 2))
    torch.save(RESNETS[kind](right, other), tmp_path / "f.tar", _use_new_zipfile_serialization=not old_format)
    found, said = loaded(SMALL_RESNET, tmp_path / "f.tar")
    assert_same(found, right)
    floats = sum(weight.is_floating_point() for weight in right.values())
    assert f"{floats} of the backbone's {floats} tensors taken from" in said


@pytest.mark.parametrize("kind", VITS)
def test_a_transformer_of_any_training(kind, tmp_path):
    right, other = (weights_of(SMALL_VIT, seed) for seed in (1, 2))
    torch.save(VITS[kind](right, other), tmp_path / "f.pth")
    found, _ = loaded(SMALL_VIT, tmp_path / "f.pth", 224)
    assert_same(found, right)


def test_what_is_left_out_is_named_by_kind(tmp_path):
    right, other = (weights_of(SMALL_RESNET, seed) for seed in (1, 2))
    torch.save(RESNETS["MoCo v2"](right, other), tmp_path / "f.pth")
    _, said = loaded(SMALL_RESNET, tmp_path / "f.pth")
    assert "(state_dict.module.encoder_q)" in said
    assert "2 of a classifier or projection head (module.encoder_q.fc.0.weight, module.encoder_q.fc.2.bias)" in said
    assert f"{len(other) + 2} of state_dict.module.encoder_k (" in said
    assert "2 other (module.queue, module.queue_ptr)" in said


def test_position_embeddings_of_another_grid_are_resampled(tmp_path):
    right = weights_of(SMALL_VIT, 1)
    torch.save({"teacher": below("backbone.", right)}, tmp_path / "f.pth")
    found, _ = loaded(SMALL_VIT, tmp_path / "f.pth", 96)
    assert found["pos_embed"].shape == (1, 1 + 6 * 6, 192)
    assert torch.equal(found["pos_embed"][:, 0], right["pos_embed"][:, 0])
    assert (found["pos_embed"] - 1).abs().max() < 1, "the file's lie around 1, those that are drawn around 0"
    assert_same(found, {name: weight for name, weight in right.items() if name != "pos_embed"})


def fails(model: dict, file: Path, size: int = 32, **more) -> str:
    with pytest.raises(ValueError, match=str(file)) as caught:
        loaded(model, file, size, **more)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_tensor_that_stays_unfilled_is_refused(tmp_path):
    right = weights_of(SMALL_RESNET, 1)
    for name in ("layer4.0.conv2.weight", "layer1.0.bn1.running_mean"):
        torch.save({"state_dict": {n: w for n, w in right.items() if n != name}}, tmp_path / "f.pth")
        assert name in fails(SMALL_RESNET, tmp_path / "f.pth")
    wide = right | {"layer4.0.conv2.weight": torch.ones(16, 16, 5, 5)}
    save_file(wide, tmp_path / "f.safetensors")
    said = fails(SMALL_RESNET, tmp_path / "f.safetensors")
    assert "layer4.0.conv2.weight ([16, 16, 5, 5] in the file, [16, 16, 3, 3] in the model)" in said
    assert "model.allow_missing=1" in said


def test_a_user_may_insist(tmp_path):
    right = weights_of(SMALL_RESNET, 1)
    left = {n: w for n, w in right.items() if not n.startswith("layer4.0.bn")}
    save_file(left, tmp_path / "f.safetensors")
    assert "model.allow_missing=8" in fails(SMALL_RESNET, tmp_path / "f.safetensors", allow_missing=7)
    for insists in (8, True):
        found, said = loaded(SMALL_RESNET, tmp_path / "f.safetensors", allow_missing=insists)
        assert_same(found, left)
        assert "as drawn: layer4.0.bn1.weight" in said


@pytest.mark.parametrize(
    "other",
    [
        SMALL_VIT,
        {"name": "test_efficientnet", "arguments": {}},
        SMALL_RESNET | {"arguments": SMALL_RESNET["arguments"] | {"channels": [16, 16, 16, 16]}},
        SMALL_RESNET | {"arguments": SMALL_RESNET["arguments"] | {"layers": [1, 2, 1, 1]}},  # all, and more
        SMALL_RESNET | {"name": "resnet50"},
    ],
)
def test_another_architecture_is_a_sentence(other, tmp_path):
    torch.save(weights_of(other, 1), tmp_path / "f.pth")
    assert "it is of another model: name that one" in fails(SMALL_RESNET, tmp_path / "f.pth")


class Deed:
    """Whoever unpickles this makes a file."""

    def __reduce__(self) -> tuple:
        return os.system, ("touch done",)


def test_nothing_in_a_file_is_executed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    right = weights_of(SMALL_RESNET, 1)
    for old_format in (False, True):
        torch.save({"x": Deed(), "model": right}, tmp_path / "f.pth", _use_new_zipfile_serialization=not old_format)
        assert "would have to be executed" in fails(SMALL_RESNET, tmp_path / "f.pth")
    assert not (tmp_path / "done").exists()


def test_files_that_are_cut_or_without_tensors(tmp_path):
    right = weights_of(SMALL_RESNET, 1)
    file = tmp_path / "f.pth"
    for write in (
        lambda: torch.save(right, file),
        lambda: torch.save(right, file, _use_new_zipfile_serialization=False),
        lambda: save_file(right, file),
    ):
        for keep in (0.999, 0.5, 0.01):
            write()
            with file.open("r+b") as stream:
                stream.truncate(int(keep * file.stat().st_size))
            assert "is damaged, cut short or not a file of weights" in fails(SMALL_RESNET, file)
    for content in ({"epoch": 3}, [1, 2], timm.create_model("test_resnet")):
        torch.save(content, file)
        assert "holds no tensors by name" in fails(SMALL_RESNET, file)


def test_tensors_are_read_as_what_they_stand_for(tmp_path):
    """Sparse and quantized ones have values like others."""
    right = weights_of(SMALL_RESNET, 1)
    name = next(name for name, weight in right.items() if weight.dim() == 4)
    quantized = torch.quantize_per_tensor(right[name], 0.05, 0, torch.qint8)
    for stored, value in ((right[name].to_sparse(), right[name]), (quantized, quantized.dequantize())):
        torch.save(right | {name: stored}, tmp_path / "f.pth")
        backbone = create_backbone(ModelRecipe(**SMALL_RESNET, pretrained=str(tmp_path / "f.pth")), 32)
        assert torch.equal(backbone.state_dict()[name], value)


def test_whole_numbers_are_no_weights(tmp_path):
    """As bitsandbytes leaves them, with their scales somewhere else."""
    right = weights_of(SMALL_RESNET, 1)
    name = next(name for name, weight in right.items() if weight.dim() == 4)
    save_file(right | {name: (right[name] * 100).to(torch.int8)}, tmp_path / "f.safetensors")
    assert f"and not {name} (int8 in the file, float32 in the model)" in fails(SMALL_RESNET, tmp_path / "f.safetensors")


def test_a_model_that_has_more_in_its_layers_is_another_one(tmp_path):
    """Squeeze and excitation: without its gates, the weights mean something else."""
    torch.save(weights_of({"name": "seresnet18", "arguments": {}}, 1), tmp_path / "f.pth")
    assert "but it has more such, layer1.0.se." in fails({"name": "resnet18", "arguments": {}}, tmp_path / "f.pth")


def test_a_classifier_of_several_layers_is_no_other_model(tmp_path):
    torch.save(timm.create_model("inception_next_atto").state_dict(), tmp_path / "f.pth")
    said: list[str] = []
    create_backbone(ModelRecipe(name="inception_next_atto", pretrained=str(tmp_path / "f.pth")), 224, tell=said.append)
    assert "208 of the backbone's 208 tensors taken" in said[0]
    assert "2 of a classifier or projection head (head.fc2.weight, head.fc2.bias)" in said[0]


@pytest.mark.parametrize("odd", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(odd, tmp_path):
    right = weights_of(SMALL_RESNET, 1)
    name = next(name for name, weight in right.items() if weight.dim() == 4)
    right[name][0, 0, 0, 0] = odd
    torch.save(right, tmp_path / "f.pth")
    assert f"holds NaN or infinity in {name}" in fails(SMALL_RESNET, tmp_path / "f.pth")


@pytest.mark.slow
def test_training_starts_from_them(workshop):
    """With a rate of nothing, what a run ends with is what it began with."""
    right, other = (weights_of(SMALL_RESNET, seed) for seed in (1, 2))
    torch.save(RESNETS["MoCo v2"](right, other), workshop.folder / "moco.pth.tar")
    words = ["train", "recipe.yaml", "data.path=encoded", "optimizer.epochs=1", "optimizer.blr=1e-30", "--ranks", "1"]
    learned = {name for name in right if not name.endswith(("running_mean", "running_var", "num_batches_tracked"))}
    for file, run in (("moco.pth.tar", "from_moco"), ("from_moco/last.safetensors", "from_run")):
        done = workshop.fastlt(*words, f"model.pretrained={file}", f"output={run}")
        assert done.returncode == 0, done.stdout + done.stderr
        kept = load_file(workshop.folder / run / "last.safetensors")
        found = {name.removeprefix("backbone."): weight for name, weight in kept.items()}
        assert_same(found, {name: right[name] for name in learned})
        floats = sum(weight.is_floating_point() for weight in right.values())
        assert f"weights: {floats} of the backbone's {floats} tensors taken from {file}" in done.stdout
    done = workshop.fastlt("export", "from_run")
    assert done.returncode == 0, done.stderr
    found, _ = loaded(SMALL_RESNET, workshop.folder / "from_run" / "export" / "model.safetensors")
    assert_same(found, {name: right[name] for name in learned})


@pytest.mark.medium
@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "is a Git LFS pointer"),
        (b"\n<!DOCTYPE html>\n<html><body>Sign in</body></html>", "is a web page, not weights"),
        (b"<html>", "is a web page, not weights"),
        (b'{"error": "not found"}', "is a text that begins with"),
        (b"", "is empty"),
        (None, "fills 0 of the 75 tensors of resnet18, and not"),
    ],
)
def test_what_is_no_weights_is_a_sentence_before_training(content, sentence, workshop):
    file = workshop.folder / "weights.pth"
    if content is None:
        torch.save(weights_of(SMALL_VIT, 1), file)
    else:
        file.write_bytes(content)
    words = ["recipe.yaml", "data.path=encoded", "output=not_begun", "--ranks", "1"]
    done = workshop.fastlt("train", *words, "model.pretrained=weights.pth")
    assert done.returncode == 1
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert not (workshop.folder / "not_begun" / "log.jsonl").exists()


@pytest.mark.slow
def test_a_run_at_another_size_is_exported_and_goes_on(workshop, tmp_path):
    """Position embeddings of 48 px, in a model of 224: evaluated, exported to plain timm, and trained on at 64 px."""
    model = ["model.name=vit_tiny_patch16_224", "model.arguments={depth: 1}", "model.drop_path=0"]
    words = ["train", "recipe.yaml", "data.path=encoded", "optimizer.epochs=1", *model, "--ranks", "1"]
    done = workshop.fastlt(*words, "data.image_size=48", "output=at_48")
    assert done.returncode == 0, done.stdout + done.stderr
    for command in ("evaluate", "export"):
        done = workshop.fastlt(command, "at_48")
        assert done.returncode == 0, done.stderr
    image = next((workshop.folder / "species" / "val" / "genus00_species0").iterdir())
    script = [sys.executable, str(workshop.folder / "at_48" / "export" / "load.py"), str(image)]
    named = subprocess.run(script, capture_output=True, text=True)
    assert named.returncode == 0, named.stderr
    done = workshop.fastlt(*words, "data.image_size=64", "output=at_64", "model.pretrained=at_48/best.safetensors")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "18 of the backbone's 18 tensors taken from at_48/best.safetensors (backbone)" in done.stdout


@pytest.mark.medium
@pytest.mark.parametrize("name", ["levit_128", pytest.param("maxvit_tiny_tf_224", marks=pytest.mark.slow)])
def test_a_size_that_a_model_cannot_take_is_a_sentence(name, workshop):
    words = ["recipe.yaml", "data.path=encoded", "output=not_begun", "--ranks", "1", "model.arguments={}"]
    done = workshop.fastlt("train", *words, f"model.name={name}", "data.image_size=200")
    assert done.returncode == 1
    said = f"model '{name}' cannot take images of data.image_size=200; its own size is data.image_size=224"
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_allow_missing_is_a_number_or_a_word():
    assert ModelRecipe(name="x", allow_missing=True).allow_missing is True
    assert ModelRecipe(name="x", allow_missing=3).allow_missing == 3
    with pytest.raises(ValueError, match="allow_missing"):
        ModelRecipe(name="x", allow_missing=-1)


@pytest.mark.parametrize("name", ["imagenet_lt/mae_vitb16", "inat18/mae_vitb16", "places_lt/mae_vitb16"])
def test_our_recipes_from_an_mae_begin_with_all_of_it(name, tmp_path):
    """Its encoder has a norm before the mean of its tokens and none behind it; timm's hub loads all of it or none."""
    right = weights_of(SMALL_VIT, 0)
    rest = {"mask_token": torch.ones(1, 1, 8), "decoder_norm.weight": torch.ones(8)}
    torch.save({"model": right | rest | below("decoder_", right)}, tmp_path / "mae.pth")
    model = load_recipe(name).model
    small = SMALL_VIT | {"arguments": SMALL_VIT["arguments"] | model.arguments}
    found, said = loaded(small, tmp_path / "mae.pth", 224, allow_missing=model.allow_missing)
    assert_same(found, right)
    assert f"{len(right)} of the backbone's {len(right)} tensors" in said


@pytest.mark.parametrize("name", ["imagenet_lt/mae_vitb16", "inat18/mae_vitb16", "places_lt/mae_vitb16"])
def test_our_recipes_from_an_mae_show_it_pixels_as_it_knows_them(name):
    told = timm.get_pretrained_cfg(load_recipe(name).model.name)
    assert (told.mean, told.std) == (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
