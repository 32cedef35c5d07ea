"""What ZeRO split over some ranks, loaded on another number of them: every value is where it was."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from support.paths import ROOT
from support.workshop import RECIPE

pytestmark = pytest.mark.slow
LAUNCH = ROOT / "tests" / "support" / "launch.py"
SCRIPT = Path(__file__).with_name("reshard_ranks.py")


def on_ranks(number: int, *words: object) -> subprocess.CompletedProcess:
    command = [sys.executable, str(LAUNCH), str(number), str(SCRIPT), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=600)


@pytest.mark.parametrize(
    ("stage", "wrote", "go_on", "keys"),
    [
        (1, 2, 3, ["optimizer.layer_decay=0.9"]),
        (2, 3, 2, ["optimizer.name=sgd", "optimizer.momentum=0.9"]),
        (2, 2, 1, ["model.tune=lora", "model.tune_rank=2"]),
        (3, 2, 3, ["optimizer.layer_decay=0.9"]),
        (3, 3, 2, ["optimizer.name=sgd", "optimizer.momentum=0.9"]),
        (3, 2, 1, ["model.tune=lora", "model.tune_rank=2"]),
    ],
)
def test_every_value_is_where_it_was(tmp_path, stage, wrote, go_on, keys):
    """Optimizers, groups of their own rates, frozen weights, averages; on more and on fewer ranks, down to one."""
    if "model.tune=lora" in keys:
        pytest.importorskip("peft")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE)
    words = [tmp_path / "run", recipe, f"engine.zero_stage={stage}", "optimizer.batch_size=12", *keys]
    done = on_ranks(wrote, *words)
    assert done.returncode == 0, done.stderr
    done = on_ranks(go_on, *words)
    assert done.returncode == 0, done.stderr
    assert f"tensors are on {go_on} ranks as {wrote} had them" in done.stdout


def test_a_form_that_only_as_many_ranks_can_read(tmp_path):
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    elastic = 'engine.deepspeed={"zero_optimization": {"elastic_checkpoint": true}}'
    words = [tmp_path / "run", tmp_path / "recipe.yaml", "engine.zero_stage=1", "optimizer.batch_size=12", elastic]
    done = on_ranks(2, *words)
    assert done.returncode == 0, done.stderr
    done = on_ranks(1, *words)
    assert done.returncode == 1
    told = "ValueError: .*holds optimizer state of 2 ranks in a form that only as many can read, .*: resume on 2 ranks"
    assert re.search(told, done.stderr), done.stderr
