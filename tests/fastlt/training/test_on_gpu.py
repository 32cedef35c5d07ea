"""The trainer on one GPU: every engine learns the same, what is killed goes on, and a finished run is evaluated."""

import json
import os
import signal
import subprocess
import time

import pytest
import torch

from fastlt.run_folder import RunFolder

pytest.importorskip("deepspeed")  # which a machine that cannot install anything may lack
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]
WORDS = [
    "data.path=encoded", "optimizer.epochs=3", "optimizer.head_only_epochs=1", "augment.mixup=0.2",
    "augment.random_erasing=0.25", "optimizer.accumulation=2", "optimizer.layer_decay=0.9",
    "loss.label_smoothing=0.1", "optimizer.ema_decay=0.9", "log.tensorboard=false",
]  # fmt: skip
ENGINES = {
    "stage0": [],
    "stage1": ["engine.zero_stage=1"],
    "stage2": ["engine.zero_stage=2"],
    "stage3": ["engine.zero_stage=3"],
    "sharded": ["engine.shard_classes=true"],
    "compiled": ["engine.compile=true"],
    "bfloat16": ["engine.precision=bfloat16"],
}
# A GPU adds up gradients of convolutions in an order of its own at every run.
LIKE = {"rel": 0.05}


def losses(workshop, run: str) -> list[float]:
    return [r["loss"] for r in RunFolder(workshop.folder / run).records() if r["kind"] == "train"]


@pytest.fixture(scope="module")
def unbroken(workshop) -> list[float]:
    """The losses of a run that nothing stopped."""
    done = workshop.train(*WORDS, "output=gpu-unbroken", ranks=1)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 cuda ranks" in done.stdout
    return losses(workshop, "gpu-unbroken")


@pytest.mark.parametrize("name", ENGINES)
def test_a_killed_run_goes_on(workshop, unbroken, name):
    """SIGKILL in the second epoch; all losses are those of the unbroken run, within what a GPU repeats."""
    run = f"gpu-{name}"
    words = [*WORDS, *ENGINES[name], f"output={run}", "checkpoint.minutes=1e-9"]  # saves at every log line
    command = workshop.train_command(*words, ranks=1)
    steps = len(unbroken) // 3
    with (workshop.folder / f"{run}.out").open("w") as out:
        process = subprocess.Popen(command, cwd=workshop.folder, stdout=out, stderr=out, start_new_session=True)
    deadline = time.monotonic() + 240
    log = workshop.folder / run / "log.jsonl"
    while not log.exists() or len(losses(workshop, run)) < steps + 3:
        assert process.poll() is None, (workshop.folder / f"{run}.out").read_text()
        assert time.monotonic() < deadline, "training did not get there in four minutes"
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    done = workshop.train(*words, "--resume", ranks=1)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "resumed at step" in done.stdout
    assert losses(workshop, run) == pytest.approx(unbroken, **LIKE)


def test_a_finished_run_is_evaluated_and_exported(workshop, unbroken):
    done = workshop.fastlt("evaluate", "gpu-unbroken")
    assert done.returncode == 0, done.stderr
    trained = [r["all"] for r in RunFolder(workshop.folder / "gpu-unbroken").records() if r["kind"] == "eval"]
    evaluated = json.loads((workshop.folder / "gpu-unbroken" / "evaluation_val.json").read_text())
    assert evaluated["all"] == pytest.approx(trained[-1], abs=1)
    done = workshop.fastlt("export", "gpu-unbroken")
    assert done.returncode == 0, done.stderr
