"""A user's DeepSpeed settings under ours: what is completed, and what contradicts the recipe is named."""

import json

import pytest
import torch

from fastlt.recipe import Recipe, load_recipe
from fastlt.training.engine import engine_settings, lay_out_gradients


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
    settings = engine_settings(recipe(), 32)
    assert settings["zero_optimization"] == {"stage": 2}
    assert not settings["timers"]["throughput"]["enabled"], "it would wait for the GPU twice a step"


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


def test_gradients_have_the_memory_format_of_their_weights():
    """DeepSpeed's zeros, for weights without a gradient, are contiguous; AdamW on a GPU refuses such a pair."""
    weights = [torch.nn.Parameter(torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last)) for _ in range(2)]
    weights.append(torch.nn.Parameter(torch.randn(5)))
    optimizer = torch.optim.AdamW(weights)
    optimizer.register_step_pre_hook(lay_out_gradients)
    gradients = [torch.randn(weight.shape) for weight in weights]
    for weight, gradient in zip(weights, gradients, strict=True):
        weight.grad = gradient
    optimizer.step()
    for weight, gradient in zip(weights, gradients, strict=True):
        assert weight.grad.stride() == weight.stride()
        assert torch.equal(weight.grad, gradient)
