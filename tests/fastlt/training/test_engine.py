"""A user's DeepSpeed settings under ours: what is completed, and what contradicts the recipe is named."""

import json

import pytest

from fastlt.recipe import Recipe, load_recipe
from fastlt.training.engine import engine_settings


def recipe(*words: str) -> Recipe:
    return load_recipe("demo/species", ["optimizer.batch_size=64", "engine.zero_stage=2", *words])


def test_a_mapping_and_a_file_are_completed(tmp_path):
    told = {
        "zero_optimization": {"overlap_comm": False, "reduce_bucket_size": 1000, "stage": 2},
        "communication_data_type": "fp32",
        "gradient_clipping": 0.0,
        "steps_per_print": 10,
    }
    (tmp_path / "ds.json").write_text(json.dumps(told))
    for word in (f"engine.deepspeed={json.dumps(told)}", f"engine.deepspeed={tmp_path / 'ds.json'}"):
        settings = engine_settings(recipe(word), micro_batch=32)
        assert settings["zero_optimization"] == told["zero_optimization"]
        assert settings["communication_data_type"] == "fp32"
        assert settings["steps_per_print"] == 10, "of what no recipe speaks, the user decides"
        assert settings["train_batch_size"] == 64
        assert settings["train_micro_batch_size_per_gpu"] == 32
    assert engine_settings(recipe(), 32)["zero_optimization"] == {"stage": 2}


@pytest.mark.parametrize(
    ("told", "sentence"),
    [
        ('{"train_batch_size": 128}', "train_batch_size=128, but optimizer.batch_size of the recipe makes it 64"),
        ('{"gradient_clipping": 1.0}', "gradient_clipping=1.0, but optimizer.clip_grad of the recipe makes it 0.0"),
        ('{"zero_optimization": {"stage": 3}}', "zero_optimization.stage=3, but engine.zero_stage of the recipe makes"),
        ('{"zero_optimization": 3}', "zero_optimization=3, where DeepSpeed takes an object"),
        ('{"bf16": {"enabled": true}}', "has 'bf16', which engine.precision of the recipe decide"),
        ('{"optimizer": {"type": "Adam"}}', "has 'optimizer', which the keys below optimizer of the recipe decide"),
        ("nowhere.json", "engine.deepspeed=nowhere.json cannot be read: .*No such file"),
    ],
)
def test_contradictions_are_named(told, sentence):
    with pytest.raises(ValueError, match=sentence):
        engine_settings(recipe(f"engine.deepspeed={told}"), 32)


def test_a_file_that_is_no_settings(tmp_path):
    for content, sentence in (("[1]", "is not a JSON object"), ("{", "cannot be read: Expecting property name")):
        (tmp_path / "ds.json").write_text(content)
        with pytest.raises(ValueError, match=sentence):
            engine_settings(recipe(f"engine.deepspeed={tmp_path / 'ds.json'}"), 32)
