"""`fastlt train` as a user types it: ranks are started, shown, stopped by Ctrl-C alone, and gone on with."""

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from fastlt.run_folder import RunFolder
from support.paths import BIN


def start(workshop, out, *words: str) -> subprocess.Popen:
    command = [str(BIN / "fastlt"), "train", "recipe.yaml", "data.path=encoded", *words]
    with out.open("w") as stream:
        return subprocess.Popen(
            command, cwd=workshop.folder, stdout=stream, stderr=stream, start_new_session=True, preexec_fn=in_front
        )


def in_front() -> None:
    """As a terminal starts it: shells have what they start in the background ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def wait_for_step(run: RunFolder, process: subprocess.Popen, out, step: int) -> None:
    deadline = time.monotonic() + 120
    while not run.log.exists() or not any(r["step"] >= step for r in run.records()):
        assert process.poll() is None, out.read_text()
        assert time.monotonic() < deadline, out.read_text()
        time.sleep(0.05)


def processes_of(session: int) -> list[str]:
    listed = subprocess.run(["ps", "-eo", "sid,args"], capture_output=True, text=True, check=True).stdout
    return [line for line in listed.splitlines() if line.split()[0] == str(session)]


@pytest.mark.parametrize("ranks", [pytest.param(1, marks=pytest.mark.medium), pytest.param(2, marks=pytest.mark.slow)])
def test_ctrl_c_to_the_command_alone_ends_its_ranks_which_save(workshop, ranks):
    run, out = RunFolder(workshop.folder / f"ctrl-c-{ranks}"), workshop.folder / f"ctrl-c-{ranks}.out"
    words = [f"output={run.path.name}", "optimizer.epochs=200", "--ranks", str(ranks)]
    process = start(workshop, out, *words)
    wait_for_step(run, process, out, 3)
    os.kill(process.pid, signal.SIGINT)  # to this process, not to its group
    assert process.wait(timeout=60) == 128 + signal.SIGINT
    said = out.read_text()
    assert "fastlt: saving, then stopping" in said
    assert "saved; continue with --resume" in said
    stopped_at = max(r["step"] for r in run.records())
    assert run.all_checkpoints()[-1] == run.checkpoint(stopped_at)
    left = subprocess.run(["pgrep", "-f", f"output={run.path.name}"], capture_output=True, text=True).stdout
    assert not left.split(), "ranks train on"

    process = start(workshop, out, f"output={run.path.name}", "optimizer.epochs=3", "--resume", "--ranks", str(ranks))
    assert process.wait(timeout=120) == 0, out.read_text()
    said = out.read_text()
    assert f"resumed at step {stopped_at} (epoch " in said
    assert re.search(r"changed keys:\n  optimizer.epochs: 200 -> 3\n", said)
    assert "epoch 3/3" in said


@pytest.mark.slow
@pytest.mark.parametrize(("number", "ranks"), [(signal.SIGKILL, 1), (signal.SIGKILL, 2), (signal.SIGHUP, 2)])
def test_ranks_do_not_outlive_the_command_and_save(workshop, number, ranks):
    run, out = RunFolder(workshop.folder / f"gone-{number}-{ranks}"), workshop.folder / f"gone-{number}-{ranks}.out"
    process = start(workshop, out, f"output={run.path.name}", "optimizer.epochs=2000", "--ranks", str(ranks))
    wait_for_step(run, process, out, 3)
    os.kill(process.pid, number)
    process.wait(timeout=60)
    assert_all_end(run)
    assert run.all_checkpoints(), out.read_text()


@pytest.mark.slow
@pytest.mark.parametrize(("ranks", "seconds"), [(1, 2.0), (2, 2.0), (2, 4.0)])
def test_ctrl_c_while_it_starts(workshop, ranks, seconds):
    run, out = RunFolder(workshop.folder / f"early-{ranks}-{seconds}"), workshop.folder / f"early-{ranks}-{seconds}.out"
    process = start(workshop, out, f"output={run.path.name}", "optimizer.epochs=2000", "--ranks", str(ranks))
    time.sleep(seconds)
    os.kill(process.pid, signal.SIGINT)
    assert process.wait(timeout=30) == 128 + signal.SIGINT, out.read_text()
    assert "Traceback" not in out.read_text()
    assert_all_end(run)
    process = start(workshop, out, f"output={run.path.name}", "optimizer.epochs=1", "--ranks", str(ranks))
    assert process.wait(timeout=120) == 0, out.read_text()  # nothing that lies there is in its way


@pytest.mark.slow
def test_two_trainings_in_one_folder_are_one_too_many(workshop):
    run, out, other = RunFolder(workshop.folder / "one"), workshop.folder / "one.out", workshop.folder / "other.out"
    process = start(workshop, out, "output=one", "optimizer.epochs=2000")
    wait_for_step(run, process, out, 1)
    second = start(workshop, other, "output=one", "optimizer.epochs=2000", "--resume")
    assert second.wait(timeout=60) == 1
    assert other.read_text() == "fastlt: error: another process is training in one: wait, or set another output.\n"
    os.kill(process.pid, signal.SIGINT)
    process.wait(timeout=60)

    both = [start(workshop, file, "output=both", "optimizer.epochs=1") for file in (out, other)]
    assert sorted(process.wait(timeout=120) for process in both) == [0, 1]
    said = sorted((file.read_text() for file in (out, other)), key=len)
    assert said[0] in (
        "fastlt: error: another process is training in both: wait, or set another output.\n",
        "fastlt: error: both holds a run already: add --resume to continue it or set another output.\n",
    )


def assert_all_end(run: RunFolder) -> None:
    deadline = time.monotonic() + 60
    while subprocess.run(["pgrep", "-f", f"output={run.path.name}( |$)"], capture_output=True, text=True).stdout:
        assert time.monotonic() < deadline, "processes are left"
        time.sleep(0.2)


@pytest.mark.slow
def test_the_console_shows_where_a_run_is(workshop):
    """Without a terminal a line now and then; nothing of the launcher's or of DeepSpeed's."""
    run, out = RunFolder(workshop.folder / "shown"), workshop.folder / "shown.out"
    process = start(workshop, out, f"output={run.path.name}", "optimizer.epochs=2", "--ranks", "2")
    assert process.wait(timeout=120) == 0, out.read_text()
    lines = out.read_text().splitlines()
    assert lines[0].startswith("resnet18, ")
    assert [line.split("  ")[0] for line in lines if line.startswith("epoch")] == ["epoch 1/2", "epoch 2/2"]
    for noise in ("CUDA runtime", "shm_comm", "INFO", "WARNING", "hostfile"):
        assert noise not in out.read_text()

    os.unlink(out)
    process = start(workshop, out, "output=shown-long", "optimizer.epochs=2000", "--ranks", "1")
    deadline = time.monotonic() + 90
    shown = r"step [\d,]+/[\d,]+  loss \d+\.\d+  \d+ images/s, \d+% waiting for data  about [\d.]+ (s|min|h) left"
    while not re.search(shown, out.read_text()):
        assert time.monotonic() < deadline, out.read_text()
        time.sleep(0.2)
    process.kill()
    process.wait()


@pytest.mark.slow
def test_two_trainings_at_once_find_ports_of_their_own(workshop):
    outs = [workshop.folder / f"beside-{i}.out" for i in range(2)]
    started = [start(workshop, out, f"output={out.stem}", "optimizer.epochs=1", "--ranks", "2") for out in outs]
    for process, out in zip(started, outs, strict=True):
        assert process.wait(timeout=180) == 0, out.read_text()


@pytest.mark.slow
def test_ranks_get_the_gpus_that_the_user_may_use(workshop, monkeypatch):
    """DeepSpeed's launcher numbers them from 0 unless it is told; what ranks are given shows on a CPU, too."""
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,2,GPU-1a")
    run, out = RunFolder(workshop.folder / "visible"), workshop.folder / "visible.out"
    process = start(workshop, out, f"output={run.path.name}", "optimizer.epochs=200", "--ranks", "2")
    wait_for_step(run, process, out, 1)
    ranks = subprocess.run(["pgrep", "-f", "local_rank=.*output=visible"], capture_output=True, text=True).stdout
    given = {
        entry
        for rank in ranks.split()
        for entry in Path(f"/proc/{rank}/environ").read_text().split("\0")
        if entry.startswith("CUDA_VISIBLE_DEVICES=")
    }
    os.kill(process.pid, signal.SIGINT)
    process.wait(timeout=60)
    assert len(ranks.split()) == 2
    assert given == {"CUDA_VISIBLE_DEVICES=5,2"}

    monkeypatch.setenv("DS_ACCELERATOR", "cuda")
    process = start(workshop, out, "output=too-many", "--ranks", "4")
    assert process.wait(timeout=60) == 1
    assert out.read_text() == "fastlt: error: --ranks 4 needs 4 GPUs, but only 3 are visible.\n"


@pytest.mark.slow
def test_a_missing_gpu_is_a_sentence(workshop):
    command = [str(BIN / "fastlt"), "train", "recipe.yaml", "data.path=encoded", "output=no-gpu"]
    environment = os.environ | {"DS_ACCELERATOR": "cuda", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=workshop.folder, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "DS_ACCELERATOR=cuda asks for a GPU, but torch sees none here" in done.stderr
    assert "Traceback" not in done.stderr
