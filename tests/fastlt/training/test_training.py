"""Real training processes: killed and resumed, told to stop, diverging; on two CPU ranks through the launcher."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fastlt.run_folder import RunFolder


def calibration(run: Path) -> list[float]:
    return [r["ece"] for r in RunFolder(run).records() if r["kind"] == "eval"]


def losses(run: Path) -> dict[int, float]:
    return {r["step"]: r["loss"] for r in RunFolder(run).records() if r["kind"] == "train"}


def silenced(run: Path) -> dict[int, float | None]:
    return {r["step"]: r.get("silenced_mass") for r in RunFolder(run).records() if r["kind"] == "train"}


def start_and_wait(workshop, words: list[str], run: Path, step: int, deepspeed: bool = False) -> subprocess.Popen:
    """Starts training in a process group of its own and returns once `step` is logged."""
    command = workshop.train_command(*words, deepspeed=deepspeed)
    with (workshop.folder / f"{run.name}.out").open("w") as out:
        process = subprocess.Popen(command, cwd=workshop.folder, stdout=out, stderr=out, start_new_session=True)
    deadline = time.monotonic() + 120
    while not (run / "log.jsonl").exists() or max(losses(run), default=0) < step:
        assert process.poll() is None, (workshop.folder / f"{run.name}.out").read_text()
        assert time.monotonic() < deadline, "training did not get there in two minutes"
        time.sleep(0.02)
    return process


def wait_for_group(group: int) -> None:
    """Waits until no process of the group is left; the launcher's first one does not wait for the others."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    raise AssertionError("processes of the run are left a minute after SIGTERM")


@pytest.mark.parametrize(
    ("stage", "data", "tune"),
    [
        pytest.param(0, "encoded", "full", marks=pytest.mark.medium),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                *((1, "encoded", "full"), (2, "encoded", "full"), (3, "encoded", "full"), (3, "plain", "full")),
                *(("sharded", "encoded", "full"), ("sharded", "encoded", "lora"), ("sharded", "encoded", "head")),
                *(
                    (0, "encoded", "lora"),
                    (1, "encoded", "lora"),
                    (3, "encoded", "lora"),
                    (3, "encoded", "adaptformer"),
                ),
            )
        ),
    ],
)
def test_killed_run_continues_exactly(workshop, stage, data, tune):
    """SIGKILL in the middle of an epoch: every later loss equals that of an unbroken run, to the last bit."""
    if tune == "lora":
        pytest.importorskip("peft")
    name = f"{data}{stage}{tune}"
    recipe = [
        f"data.path={data}", "optimizer.epochs=3", "optimizer.head_only_epochs=1", "augment.mixup=0.2",
        "augment.random_erasing=0.25", "optimizer.accumulation=2", "optimizer.layer_decay=0.9",
        "loss.label_smoothing=0.1", "optimizer.ema_decay=0.9",
    ]  # fmt: skip
    if stage == "sharded":
        recipe.append("engine.shard_classes=true")
    else:
        recipe += [f"engine.zero_stage={stage}", "optimizer.clip_grad=5"]
    recipe.append(f"model.tune={tune}")
    if tune == "adaptformer":
        recipe += ["model.name=test_vit", "model.arguments={}"]
    if data == "plain":
        recipe.append("augment.rand_augment=rand-m9-mstd0.5-inc1")
    done = workshop.train(*recipe, f"output=unbroken-{name}")
    assert done.returncode == 0, done.stdout + done.stderr
    unbroken = losses(workshop.folder / f"unbroken-{name}")

    run = workshop.folder / f"killed-{name}"
    steps = len(unbroken) // 3
    words = [*recipe, f"output={run.name}", "checkpoint.minutes=1e-9"]  # at every log line, so within epochs
    process = start_and_wait(workshop, words, run, step=steps + 3)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    before = set(losses(run))
    saved = sorted(p.name for p in (run / "checkpoints").glob("step-*"))[-1]
    assert steps < int(saved.removeprefix("step-")) % len(unbroken) < 2 * steps, "it was not killed within an epoch"

    done = workshop.train(*words, "--resume")
    assert done.returncode == 0, done.stdout + done.stderr
    assert before < set(losses(run)), "it did not go on after the kill"
    assert losses(run) == unbroken
    assert silenced(run) == silenced(workshop.folder / f"unbroken-{name}")
    assert any(silenced(run).values())
    # Of the averaged weights; ranks' batch statistics are averaged at every save, which rounds.
    assert calibration(run) == pytest.approx(calibration(workshop.folder / f"unbroken-{name}"), rel=1e-5)


@pytest.mark.slow
def test_saving_memory_and_compiling_change_nothing(workshop):
    """Gradient checkpointing and torch.compile: the same losses but for rounding."""
    words = ["data.path=encoded", "optimizer.epochs=1"]
    for option in ("channels_last=true", "activation_checkpointing=true", "compile=true"):
        done = workshop.train(*words, f"engine.{option}", f"output={option}")
        assert done.returncode == 0, done.stdout + done.stderr
    plain, *others = (
        losses(workshop.folder / f"{option}=true")
        for option in ("channels_last", "activation_checkpointing", "compile")
    )
    for other in others:
        assert list(other.values()) == pytest.approx(list(plain.values()), rel=1e-3)


@pytest.mark.slow
def test_sharded_classes_go_on_with_another_number_of_ranks(workshop):
    words = ["data.path=encoded", "output=resharded", "engine.shard_classes=true"]
    done = workshop.train(*words, "optimizer.epochs=2", ranks=2)
    assert done.returncode == 0, done.stdout + done.stderr
    done = workshop.train(*words[:2], "optimizer.epochs=3", "--resume", ranks=1)
    assert "was written with engine.shard_classes=true: set it so to resume." in done.stderr
    done = workshop.train(*words, "optimizer.epochs=3", "--resume", ranks=1)
    assert done.returncode == 0, done.stdout + done.stderr
    more = [*words, "optimizer.epochs=4", "--resume"]
    done = workshop.train(*more, "optimizer.name=sgd", ranks=1)
    assert "of the head: resume with the optimizer.name of its run." in done.stderr
    done = workshop.train(*more, "optimizer.ema_decay=0.9", ranks=1)  # an average that begins there
    assert done.returncode == 0, done.stdout + done.stderr
    logged = losses(workshop.folder / "resharded")
    assert sorted(logged) == list(range(1, max(logged) + 1))
    assert logged[max(logged)] < logged[1]
    done = workshop.fastlt("evaluate", "resharded")
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_sigterm_saves_and_exits(workshop):
    """As a scheduler sends it, to every process of the job; launcher and data workers get it too."""
    run = workshop.folder / "stopped"
    words = ["data.path=plain", "output=stopped", "optimizer.epochs=50", "data.workers=1"]
    process = start_and_wait(workshop, words, run, step=5, deepspeed=True)
    os.killpg(process.pid, signal.SIGTERM)
    process.wait(timeout=60)
    wait_for_group(process.pid)
    said = (workshop.folder / "stopped.out").read_text()
    assert "continue with --resume" in said
    stopped_at = max(losses(run))
    assert (run / "checkpoints" / f"step-{stopped_at:09d}").is_dir()
    assert list((run / "checkpoints").glob(".*partial")) == []


@pytest.mark.slow
def test_diverging_run_says_so(workshop):
    words = ["data.path=encoded", "output=diverging", "optimizer.name=sgd", "optimizer.blr=1e30"]
    done = workshop.train(*words, deepspeed=True)
    assert done.returncode != 0
    assert done.stderr.count("fastlt: error: the loss is ") == 1
    assert not list((workshop.folder / "diverging").glob("*.safetensors"))


@pytest.mark.slow
def test_nothing_is_chosen_by_the_test_split(workshop):
    folders = ["--train", "species/train", "--test", "species/val"]
    assert workshop.fastlt("encode", "untuned", *folders, "--format", "plain").returncode == 0
    done = workshop.train("data.path=untuned", "output=untuned-run", "data.auxiliary=false", ranks=1)
    assert done.returncode == 0, done.stderr
    assert "warning: untuned has no validation split" in done.stdout
    assert not (workshop.folder / "untuned-run" / "best.safetensors").exists()
    done = workshop.fastlt("evaluate", "untuned-run")
    assert "last weights (epoch 2), test, 45 images" in done.stdout


@pytest.mark.slow
def test_pairs_and_validation_images_that_are_not_there_are_told(workshop):
    folder = workshop.folder / "lacking"
    shutil.copytree(workshop.folder / "species", folder)
    (folder / "neighbors.json").write_text("{}")
    for image in (folder / "val" / "genus00_species0").iterdir():
        image.unlink()
    words = ["--train", folder / "train", "--val", folder / "val", "--auxiliary", folder / "auxiliary"]
    done = workshop.fastlt("encode", "lacking/encoded", *words, "--neighbors", folder / "neighbors.json")
    assert done.returncode == 0, done.stderr
    told = "has no neighbor pairs, so no auxiliary class is silenced for a target"
    for lambda_s in (0.1, 1):
        done = workshop.fastlt(
            *("train", "recipe.yaml", "data.path=lacking/encoded", f"output=lacking/{lambda_s}"),
            *(f"loss.lambda_s={lambda_s}", "optimizer.epochs=1"),
        )
        assert done.returncode == 0, done.stderr
        assert (told in done.stdout) == (lambda_s < 1)
        assert "(1 of 9 classes have no image)" in done.stdout


@pytest.mark.slow
def test_one_process_without_launcher(workshop):
    launch = workshop.train_command("data.path=encoded", "output=alone", "optimizer.epochs=1")
    command = [launch[0], *launch[3:]]
    done = subprocess.run(command, cwd=workshop.folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert (workshop.folder / "alone" / "last.safetensors").is_file()


@pytest.mark.slow
def test_a_second_training_at_the_same_port(workshop):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        rank = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        command = [sys.executable, *workshop.train_command("data.path=encoded", "output=refused", ranks=1)[3:]]
        how = {"cwd": workshop.folder, "capture_output": True, "text": True, "timeout": 300}
        done = subprocess.run(command, env=os.environ | rank, **how)
    assert done.returncode == 1
    assert f"fastlt: error: port {port}, at which the ranks meet, is in use" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (workshop.folder / "refused").exists()


@pytest.mark.slow
def test_wrong_recipes_end_with_one_sentence(workshop, trained):
    """Each of these is told before anything is trained or written."""
    cases = {
        ("optimizer.epoch=3",): "unknown key 'optimizer.epoch'; did you mean optimizer.epochs?",
        ("data.path=species",): "is not an encoded data set",
        ("output=trained",): "holds a run already: add --resume",
        ("output=nowhere", "--resume"): "holds no run to resume",
        ("output=trained", "--resume", "data.auxiliary=false"): "belongs to another label space",
        ("output=trained", "--resume", "model.name=resnet26"): "does not fit the model of this command",
        ("model.name=resnet99",): "timm has no such model; did you mean resnet",
        ("optimizer.batch_size=15", "optimizer.accumulation=2"): "is not divisible by 1 ranks x 2 accumulation steps",
        ("optimizer.batch_size=2048",): "fewer than one batch",
        ("augment.rand_augment=rand-m9",): "take those, or data.loader=plain",
        ("model.class_embeddings=e",): "set model.cosine_scale",
        (
            "engine.shard_classes=true",
            "engine.zero_stage=1",
        ): "engine.shard_classes cannot be combined with engine.zero_stage",
    }
    for words, sentence in cases.items():
        new_output = [] if any(w.startswith("output") for w in words) else ["output=refused"]
        done = workshop.train("data.path=encoded", *new_output, *words, ranks=1)
        assert done.returncode != 0, words
        assert done.stderr.count("fastlt: error:") == 1, done.stderr
        assert sentence in done.stderr
        assert "Traceback" not in done.stderr
        assert not (workshop.folder / "refused").exists()
