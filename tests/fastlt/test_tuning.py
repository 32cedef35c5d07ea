"""Parameter-efficient tuning: what gets gradients, what is merged, what loads without fastlt, what is refused."""

import json
import re
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from fastlt.backbone.tuning import merged, tuned_layers
from fastlt.classifier import Classifier
from fastlt.evaluation.export import export
from fastlt.evaluation.finished_run import FinishedRun
from fastlt.label_space import LabelSpace
from fastlt.preflight import check
from fastlt.recipe import Recipe, load_recipe
from fastlt.run_folder import RunFolder
from fastlt.training.optimizer import create_optimizer

SPACE = LabelSpace.build({"a": 3, "b": 2}, {"x": 4}, {"a": ["x"]})
TUNED = [
    ("test_vit", "lora"),
    ("test_resnet", "lora"),
    ("test_efficientnet", "lora"),
    ("test_vit", "adaptformer"),
    ("test_resnet", "head"),
    ("davit_tiny", "lora"),  # reads attributes of its layers
]
ARGUMENTS = {"davit_tiny": {"depths": [1, 1, 1, 1], "embed_dims": [8, 8, 8, 8], "num_heads": [1, 1, 1, 1]}}

# As a colleague would use it, who has timm and neither fastlt nor peft.
LOGITS = """
import runpy
import sys
from pathlib import Path
import torch
sys.modules |= dict.fromkeys(("fastlt", "peft"))
for case in map(Path, sys.argv[1:]):
    sys.path[0] = str(case / "exported")
    with torch.no_grad():
        logits = runpy.run_path(str(case / "exported" / "load.py"))["model"](torch.load("images"))
    torch.save(logits, case / "logits")
"""


def recipe_of(name: str, tune: str, folder: object = "nowhere", **model: object) -> Recipe:
    optimizer = {"epochs": 1, "batch_size": 1, "blr": 1, "layer_decay": 0.5}
    return Recipe.model_validate(
        {
            "output": str(folder),
            "data": {"path": "none", "image_size": 32},
            "model": {"name": name, "tune": tune, **model},
            "optimizer": optimizer,
        }
    )


def learned(recipe: Recipe) -> Classifier:
    """As if it had been trained: what begins with zeros has none left."""
    if recipe.model.tune == "lora":
        pytest.importorskip("peft")
    torch.manual_seed(0)
    model = Classifier(recipe, SPACE)
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.1)
    return model.eval()


@pytest.mark.medium
@pytest.mark.parametrize(("name", "tune"), TUNED)
def test_what_is_trained_and_nothing_else_gets_gradients_and_moments(name, tune):
    recipe = recipe_of(name, tune, arguments=ARGUMENTS.get(name, {}))
    model = learned(recipe).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = create_optimizer(model, recipe.optimizer)
    for group in optimizer.param_groups:
        group["lr"] = 0.1
    model(torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 2, 0])).backward()
    optimizer.step()
    added = {"lora": ".lora_", "adaptformer": ".mlp.adaptformer."}.get(tune, "nothing of the backbone")
    trained = {name for name, _ in model.named_parameters() if added in name or name.startswith("head.")}
    assert {name for name, parameter in model.named_parameters() if parameter.grad is not None} == trained
    assert {name for name, value in model.state_dict().items() if not value.equal(before[name])} == trained
    assert len(trained) == 2 + {"lora": 2, "adaptformer": 4, "head": 0}[tune] * len(model.tuned_layers)
    assert len(optimizer.state) == len(trained)


def test_bottlenecks_as_lift_has_them_learn_a_norm_and_their_scale():
    model = learned(recipe_of("test_vit", "adaptformer", tune_as_lift=True, tune_rank=3, tune_scale=2)).train()
    mlp = model.backbone.blocks[0].mlp
    bottleneck = mlp.adaptformer
    with torch.no_grad():
        bottleneck.scale.fill_(2)
    x = torch.randn(2, 5, bottleneck.down.in_features)
    bottleneck.norm.weight.data.uniform_(1, 2)
    normalized = (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    normalized = normalized * bottleneck.norm.weight + bottleneck.norm.bias
    hidden = (normalized @ bottleneck.down.weight.T + bottleneck.down.bias).clamp_min(0)
    added = 2 * (hidden @ bottleneck.up.weight.T + bottleneck.up.bias)
    torch.testing.assert_close(bottleneck(x), added, rtol=1e-4, atol=1e-5)
    model(torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 2, 0])).backward()
    assert all(part.grad is not None and part.grad.any() for part in bottleneck.parameters())
    assert len(list(bottleneck.parameters())) == 7
    fresh = Classifier(recipe_of("test_vit", "adaptformer", tune_as_lift=True, tune_scale=2), SPACE)
    assert fresh.backbone.blocks[0].mlp.adaptformer.scale.tolist() == [2]


@pytest.mark.medium
@pytest.mark.parametrize(("name", "tune"), TUNED[:4])
def test_layer_decay_takes_an_addition_for_its_layer(name, tune):
    def scales(tune: str) -> dict[str, float]:
        recipe = recipe_of(name, tune)
        model = learned(recipe)
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        groups = create_optimizer(model, recipe.optimizer).param_groups
        return {names[id(p)]: group["lr_scale"] for group in groups for p in group["params"]}

    full, tuned = scales("full"), scales(tune)
    of_layers = {re.sub(r"\.(lora_|adaptformer\.).*", "", name): scale for name, scale in tuned.items()}
    assert len(set(of_layers.values())) > 3
    for layer, scale in of_layers.items():
        assert {scale} == {other for name, other in full.items() if name.startswith(layer)}


@pytest.mark.medium
def test_exports_give_the_same_logits_without_fastlt(tmp_path):
    pytest.importorskip("peft")
    images = torch.randn(16, 3, 32, 32)
    torch.save(images, tmp_path / "images")
    expected = {}
    for name, tune, as_lift in (*((*tuned, False) for tuned in TUNED[:4]), ("test_vit", "adaptformer", True)):
        case = tmp_path / f"{name} {tune} {as_lift}"
        recipe = recipe_of(name, tune, case / "run", tune_rank=3, tune_scale=0.7, tune_as_lift=as_lift)
        model, run = learned(recipe), RunFolder(recipe.output)
        with torch.no_grad():
            first, second = model(images)[:, :2].T
            model.head.bias[0] -= (first - second).sort().values[7:9].mean()  # half are of one class
            expected[case] = model(images)[:, :2]
        run.path.mkdir(parents=True)
        recipe.save(run.recipe)
        SPACE.save(run.label_space)
        run.save_weights(merged(model.state_dict()), "last", {"label_space": SPACE.digest(), "epoch": 1})
        files = export(FinishedRun(run.path), case / "exported")
        assert ("adaptformer.py" in {file.name for file in files}) == (tune == "adaptformer")
    command = [sys.executable, "-c", LOGITS, *map(str, expected)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for case, logits in expected.items():
        found = torch.load(case / "logits")
        assert (found - logits).abs().max() <= 1e-4 * logits.abs().max()
        assert found.argmax(1).equal(logits.argmax(1))
        assert set(found.argmax(1).tolist()) == {0, 1}


@pytest.mark.slow
def test_a_run_says_what_is_trained_and_its_saved_weights_need_no_peft(workshop):
    pytest.importorskip("peft")
    words = ["model.name=test_vit", "model.arguments={}", "optimizer.epochs=1", "model.tune=lora", "model.tune_rank=4"]
    done = workshop.train("data.path=encoded", "output=lora", *words, "optimizer.ema_decay=0.5", ranks=1)
    assert done.returncode == 0, done.stderr
    shapes = {name: tensor.shape for name, tensor in load_file(workshop.folder / "lora" / "last.safetensors").items()}
    plain = Classifier(recipe_of("test_vit", "full"), SPACE)
    assert {n: s for n, s in shapes.items() if "head" not in n} == {
        n: p.shape for n, p in plain.state_dict().items() if "head" not in n
    }
    rows = sum(shape.numel() for name, shape in shapes.items() if name.startswith("head."))
    products = sum(4 * sum(shape) for name, shape in shapes.items() if ".blocks." in name and len(shape) == 2)
    trained, parameters = rows + products, sum(shape.numel() for shape in shapes.values()) + products
    assert f"{trained:,} of {parameters / 1e6:.1f}M parameters are trained (lora, rank 4, in 24 layers)" in done.stdout
    assert "model.pretrained is false: what is not trained stays as it is drawn" in done.stdout
    seen = next(r for r in RunFolder(workshop.folder / "lora").records() if r["kind"] == "eval")
    done = workshop.fastlt("evaluate", "lora")
    assert done.returncode == 0, done.stderr
    found = json.loads((workshop.folder / "lora" / "evaluation_val.json").read_text())
    assert found["top1"] == seen["top1"]
    assert found["ece"] == pytest.approx(seen["ece"], rel=1e-4)


def test_places_are_whole_parts_of_names():
    def names(*places: str, **model: object) -> list[str]:
        return tuned_layers(recipe_of("test_vit", "lora", tune_places=places, **model).model, 32)

    parts = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    assert names("blocks.1", arguments={"depth": 11}) == [f"blocks.1.{part}" for part in parts], "blocks.10 is another"
    assert "patch_embed.proj" not in names()
    assert "patch_embed.proj" in names("proj")
    beit = recipe_of("beit_base_patch16_224", "lora", arguments={"depth": 1}).model
    assert tuned_layers(beit, 32) == [f"blocks.0.{part}" for part in ("attn.proj", "mlp.fc1", "mlp.fc2")], (
        "its attention takes the weight of qkv and never calls it"
    )


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["model.name=resnetv2_50x1_bit", "model.tune=lora"], "model.tune=lora finds no plain linear layer or"),
        (["model.name=test_resnet", "model.tune=adaptformer"], "model.tune=adaptformer finds no transformer block"),
        (["model.name=test_vit", "model.tune=lora", "model.tune_places=[qk]"], r'tune_places=\["qk"\] names no plain'),
        (
            ["model.name=test_vit", "model.tune=adaptformer", "model.tune_places=[fc1]"],
            r"names no transformer block \(attn and mlp\) of test_vit: give whole parts of names such as 'blo",
        ),
        (
            ["model.name=test_vit", "model.tune=lora", "model.tune_places=[qkv, fc3, qk]"],
            r'tune_places=\["fc3", "qk"\] names no plain',
        ),
        (["model.tune_rank=0"], "model.tune_rank is 0; it must be at least 1"),
        (["model.tune_places=qkv"], "model.tune_places is 'qkv'; it must be a list"),
        (["model.tune=half"], "model.tune is 'half'; it must be 'full', 'head', 'lora' or 'adaptformer'"),
    ],
)  # fmt: skip
def test_what_cannot_be_tuned_is_told_before_ranks_start(workshop, tmp_path, words, sentence):
    if "model.tune=lora" in words:
        pytest.importorskip("peft")
    with pytest.raises(ValueError, match=sentence):
        check(small(workshop, tmp_path, *words), False, 1)


def test_lora_without_peft_is_told_before_ranks_start(workshop, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)  # as if it were not installed
    recipe = small(workshop, tmp_path, "model.name=test_vit", "model.tune=lora")
    with pytest.raises(ValueError, match=re.escape("model.tune=lora needs peft: pip install 'fastlt[lora]'.")):
        check(recipe, False, 1)
    with pytest.raises(ValueError, match="needs peft"):
        Classifier(recipe, SPACE)


def test_a_checkpoint_goes_on_with_what_it_has_trained(workshop, tmp_path):
    words = ["model.name=test_vit", "model.tune=adaptformer"]
    before = small(workshop, tmp_path, *words)
    RunFolder(before.output).checkpoint(1).mkdir(parents=True)
    before.save(RunFolder(before.output).recipe)
    check(before, True, 1)
    with pytest.raises(ValueError, match=r"begun with model\.tune_rank=8, not 4: resume with the same"):
        check(small(workshop, tmp_path, *words, "model.tune_rank=4"), True, 1)


def small(workshop, tmp_path, *words: str) -> Recipe:
    data = [f"data.path={workshop.folder / 'encoded'}", f"output={tmp_path / 'run'}", "model.arguments={}"]
    return load_recipe(workshop.folder / "recipe.yaml", [*data, *words])
