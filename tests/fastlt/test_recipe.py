"""Recipes: what they accept, what they refuse, and that all of ours can be read."""

import pytest
import yaml

from fastlt.recipe import Recipe, load_recipe
from support.paths import ROOT

RECIPES = sorted((ROOT / "configs").rglob("*.yaml"))


@pytest.mark.parametrize("file", RECIPES, ids=lambda f: str(f.relative_to(ROOT)))
def test_our_recipes_are_valid(file):
    load_recipe(file)


@pytest.mark.parametrize(("benchmark", "classes"), [("imagenet_lt", 1000), ("places_lt", 365), ("inat18", 8142)])
def test_bottlenecks_are_as_wide_and_count_as_much_as_those_of_lift(benchmark, classes):
    blocks = 12  # of a ViT-B
    recipe = load_recipe(f"{benchmark}/clip_vitb16_adaptformer")
    width = recipe.model.tune_rank
    assert recipe.model.tune_scale == 1
    assert recipe.model.tune_as_lift
    assert recipe.loss.tau == 1
    assert width <= classes / (2 * blocks) < 2 * width
    assert width.bit_count() == 1


def test_every_field_says_what_it_means():
    def fields(model):
        for name, field in model.model_fields.items():
            if hasattr(field.annotation, "model_fields"):
                yield from fields(field.annotation)
            else:
                yield f"{model.__name__}.{name}", field.description

    assert [name for name, description in fields(Recipe) if not description] == []


def test_overrides_base_and_round_trip(tmp_path):
    smoke = ROOT / "configs" / "inat18" / "dinov2_vitb14_smoke.yaml"
    recipe = load_recipe(smoke, ["optimizer.epochs=7", "augment.crop_scale=[0.3, 1]", "model.pretrained=weights.pt"])
    assert recipe.optimizer.epochs == 7
    assert recipe.augment.crop_scale == (0.3, 1.0)
    assert recipe.model.pretrained == "weights.pt"
    assert recipe.optimizer.layer_decay == 0.65, "from the base"
    recipe.save(tmp_path / "recipe.yaml")
    assert load_recipe(tmp_path / "recipe.yaml") == recipe


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        (
            "optimizer.epoch=3",
            "unknown key 'optimizer.epoch'; did you mean optimizer.epochs? (known in 'optimizer' are name",
        ),
        ("optimiser.epochs=3", "unknown key 'optimiser'; did you mean optimizer? (known are output, seed"),
        ("optimizer.epochs=many", "optimizer.epochs is 'many'; it must be a whole number."),
        ("optimizer.epochs", "not of the form key=value"),
        ("engine.zero_stage=4", "engine.zero_stage is 4; it must be 0, 1, 2 or 3."),
        ("loss.lambda_s=2", "loss.lambda_s is 2; it must be at most 1."),
        ("optimizer.head_only_epochs=99", "head_only_epochs exceeds"),
        ("model.name=[", "not valid YAML"),
        (
            "augment.crop_scale=[1, 0.1]",
            "augment.crop_scale is [1, 0.1]; it must be two numbers above 0, the smaller one",
        ),
        ("augment.crop_scale=[0.1, 2]", "must be fractions of the image, at most 1"),
        ("augment.crop_ratio=[-1, .nan]", "augment.crop_ratio cannot be [-1, nan]: Aspect ratio of the random crop"),
        ("augment.crop_scale=3", "augment.crop_scale is 3; it"),
        ("optimizer.betas=[1]", "optimizer.betas cannot be [1]: AdamW's moments (default [0.9, 0.99])."),
        (
            "model.pretrained=[1]",
            "model.pretrained cannot be [1]: true for timm's hub weights, a path for a local file",
        ),
        ("model.arguments=3", "model.arguments is 3; it must have keys of its own."),
        ("model.arguments={a: 1, a: 2}", "key 'a' stands twice"),
        ("optimizer=3", "optimizer is 3; it must have keys of its own."),
        ("data.path=true", "data.path is True; it must be a path."),
        ("seed=" + 3000 * "[", "is not valid YAML"),
        ("optimizer.blr=.inf", "optimizer.blr is inf; it must be a number"),
        ("optimizer.warmup_epochs=.inf", "it must be a number"),
        ("engine.deepspeed=3", "engine.deepspeed cannot be 3: Further DeepSpeed settings, a JSON file or a mapping"),
        ("data.image_size=99999999999", "it must be at most 8192"),
        ("seed=99999999999999999999999999", "seed is 99999999999999999999999999; it must be below 9223372036854775808"),
        ("output=", "output is None; it must be a path."),
        ("output=''", "output is ''; it names no folder."),
        ("optimizer.lr=1", "did you mean optimizer.blr (lr = blr * batch_size / 256)?"),
    ],
)
def test_mistakes_are_told_in_one_sentence(word, sentence):
    with pytest.raises(ValueError) as error:
        load_recipe(ROOT / "configs" / "demo" / "species.yaml", [word])
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)
    assert "species.yaml" not in str(error.value) or "exceeds" in sentence, "the file is not at fault"


def test_paths_as_people_write_them(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ann")
    recipe = load_recipe(RECIPES[0], ["data.path=~/birds", "output=20261125"])
    assert (str(recipe.data.path), str(recipe.output)) == ("/home/ann/birds", "20261125")
    for name in ("2026-11-25", "20261125_120000", "12:30:00", "007", "1e3x"):
        assert str(load_recipe(RECIPES[0], [f"output={name}"]).output) == name
    with pytest.raises(ValueError, match="begins with the home of nobody here"):
        load_recipe(RECIPES[0], ["output=~nobody-of-that-name/x"])
    assert load_recipe(RECIPES[0], ["optimizer.blr=1e-3", "optimizer.min_lr=.5"]).optimizer.blr == 0.001


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"base: odd.yaml", "odd.yaml is its own base."),
        (b"base: 3", "base is 3, not the name of a recipe beside it."),
        (b"base: [a]", "base is ['a'], not the name"),
        (b"seed: 1\noutput: a\nseed: 2", "key 'seed' stands twice"),
        (b"seed: " + 3000 * b"[", "is not valid YAML"),
        (b"seed: \xff\xfe", "cannot be read"),
    ],
)
def test_odd_files_are_told_in_one_sentence(tmp_path, content, sentence):
    (tmp_path / "odd.yaml").write_bytes(content)
    with pytest.raises(ValueError) as error:
        load_recipe(tmp_path / "odd.yaml")
    assert sentence in str(error.value)
    assert "odd.yaml" in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_keys_and_files(tmp_path):
    file = tmp_path / "recipe.yaml"
    with pytest.raises(ValueError, match=r"there is no recipe .*: it is neither a file nor one of ours"):
        load_recipe(file)
    file.write_text(yaml.safe_dump({"output": "x"}))
    with pytest.raises(ValueError, match="key 'data' is missing"):
        load_recipe(file)
