"""The moving average of weights: its values, and that evaluating it leaves training untouched."""

import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fastlt.training.ema import Ema

RANKS = Path(__file__).with_name("ema_ranks.py")


def test_follows_the_definition_and_steps_aside():
    torch.manual_seed(0)
    live = {"a": torch.randn(3, 4), "b": torch.randn(5)}
    average = Ema(lambda: live, decay=0.7)
    expected = {name: tensor.double() for name, tensor in live.items()}
    for step in range(1, 12):
        for name, tensor in live.items():
            tensor += torch.randn_like(tensor)
            decay = min(0.7, (1 + step) / (10 + step))
            expected[name] = decay * expected[name] + (1 - decay) * tensor
        average.update(step)
    before = {name: tensor.clone() for name, tensor in live.items()}
    with average.in_place():
        for name, tensor in live.items():
            torch.testing.assert_close(tensor.double(), expected[name], rtol=1e-5, atol=1e-6)
    assert all(live[name].equal(before[name]) for name in live)
    torch.testing.assert_close(average.tensors["a"].double(), expected["a"], rtol=1e-5, atol=1e-6)


def test_nothing_to_average_is_no_mistake():
    """As in an engine whose backbone is frozen and has no BatchNorm, where the head is split over the ranks."""
    average = Ema(dict, decay=0.9)
    average.update(1)
    with average.in_place():
        assert average.tensors == {}


@pytest.mark.medium
@pytest.mark.parametrize(("stage", "file"), [(0, "ema.safetensors"), (3, "ema-00001.safetensors")])
def test_a_checkpoint_has_what_all_ranks_know_of_batch_statistics(workshop, stage, file):
    """Each rank averages those of its own images; of these files another number of ranks reads the first alone."""
    words = ["data.path=encoded", f"output=averages{stage}", "optimizer.ema_decay=0.9", f"engine.zero_stage={stage}"]
    command = workshop.train_command(*words, script=RANKS)
    command.remove("--config")
    done = subprocess.run(command, cwd=workshop.folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    saved = load_file(workshop.folder / f"averages{stage}" / "checkpoints" / "step-000000000" / file)
    statistics = {name: tensor for name, tensor in saved.items() if "running" in name}
    assert statistics
    for name, tensor in statistics.items():
        assert (tensor == 1.5).all(), name
