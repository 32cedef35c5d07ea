"""Ten times kill -9 at a random moment, resumed on two and on three ranks: every image still comes once an epoch."""

import json
import os
import random
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.slow
TARGETS, AUXILIARIES, CAP, EPOCHS, BATCH, KILLS = (60, 30, 12, 5, 2), (20, 20, 9), 8, 25, 12, 10
TELLING = Path(__file__).with_name("train_and_tell.py")


@pytest.fixture(scope="module")
def colors(workshop) -> Path:
    """A data set in which image i has the color (i % 256, i // 256, 0), in the order of the encoded samples."""
    colors, number = workshop.folder / "colors", 0
    for kind, counts in (("train", TARGETS), ("auxiliary", AUXILIARIES)):
        for c, count in enumerate(counts):
            folder = colors / kind / f"{kind}{c}"
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = np.full((16, 16, 3), (number % 256, number // 256, 0), np.uint8)
                Image.fromarray(pixels).save(folder / f"{i:03d}.png")
                number += 1
    for c in range(len(TARGETS)):
        folder = colors / "val" / f"train{c}"
        folder.mkdir(parents=True)
        Image.new("RGB", (16, 16)).save(folder / "0.png")
    (colors / "neighbors.json").write_text(json.dumps({"train0": ["auxiliary0"]}))
    folders = [word for kind in ("train", "val", "auxiliary") for word in (f"--{kind}", colors / kind)]
    words = [*folders, "--neighbors", colors / "neighbors.json", "--format", "plain"]
    done = workshop.fastlt("encode", colors / "encoded", *words)
    assert done.returncode == 0, done.stderr
    return colors


def start(workshop, colors: Path, ranks: int, told: Path, *words: str) -> subprocess.Popen:
    told.mkdir(parents=True)
    recipe = [
        f"data.path={colors / 'encoded'}", "data.image_size=16", f"data.auxiliary_per_class={CAP}",
        f"optimizer.epochs={EPOCHS}", f"optimizer.batch_size={BATCH}", f"output={colors / 'run'}",
        "checkpoint.minutes=1e-9", "log.eval_epochs=0",
    ]  # fmt: skip
    command = workshop.train_command(*recipe, *words, ranks=ranks, script=TELLING)
    environment = os.environ | {"TOLD": str(told), "OMP_NUM_THREADS": "1"}
    with (colors / "out").open("w") as out:
        return subprocess.Popen(
            command, cwd=workshop.folder, env=environment, stdout=out, stderr=out, start_new_session=True
        )


def told_by(folder: Path, ranks: int) -> dict[int, list[tuple[int, int]]]:
    """{step: [(image, label), ...] of all ranks in order}, of the steps that all ranks have told."""
    steps: dict[int, dict[int, list[tuple[int, int]]]] = {}
    for file in folder.glob("*.jsonl"):
        for line in file.read_text().splitlines():
            try:
                told = json.loads(line)
            except json.JSONDecodeError:  # the kill came while it was written
                continue
            steps.setdefault(told["step"], {})[told["rank"]] = list(zip(told["images"], told["labels"], strict=True))
    whole = {step: parts for step, parts in steps.items() if len(parts) == ranks}
    return {step: [pair for rank in range(ranks) for pair in parts[rank]] for step, parts in whole.items()}


def test_each_epoch_has_the_right_images_whatever_happened(workshop, colors):
    rng = random.Random(5)
    taken: dict[int, list[tuple[int, int]]] = {}
    resumed_on: Counter[int] = Counter()
    for life in range(KILLS + 1):
        ranks = 2 if life in (0, 1, KILLS) else rng.choice([2, 3])
        begun = (colors / "run" / "recipe.yaml").exists()
        resumed_on[ranks] += bool(list((colors / "run" / "checkpoints").glob("step-*")))
        told = colors / "told" / str(life)
        process = start(workshop, colors, ranks, told, *["--resume"] * begun)
        deadline = time.monotonic() + 180
        while life < KILLS and len(told_by(told, ranks)) < 2:  # the first step takes long
            assert process.poll() is None, (colors / "out").read_text()
            assert time.monotonic() < deadline, (colors / "out").read_text()
            time.sleep(0.05)
        if life < KILLS:
            time.sleep(0.7 * rng.random())
            os.killpg(process.pid, signal.SIGKILL)
        assert (process.wait(timeout=300) == 0) == (life == KILLS), (colors / "out").read_text()
        again = told_by(told, ranks)
        assert not taken or min(again) <= max(taken) + 1, "steps were left out"
        taken |= again  # what was trained again counts from its last time
    assert min(resumed_on[2], resumed_on[3]) >= 1

    stream = [pair for step in sorted(taken) for pair in taken[step]]
    length = sum(TARGETS) + sum(min(count, CAP) for count in AUXILIARIES)
    assert len(stream) == -(-EPOCHS * length // BATCH) * BATCH
    label_of = np.repeat(np.arange(len(TARGETS) + len(AUXILIARIES)), TARGETS + AUXILIARIES)
    assert [label for _, label in stream] == [label_of[image] for image, _ in stream]
    drawn = []
    for epoch in range(EPOCHS):
        images = [image for image, _ in stream[epoch * length : (epoch + 1) * length]]
        assert len(set(images)) == length, "an image came twice in an epoch"
        assert set(range(sum(TARGETS))) <= set(images), "a target image is missing"
        counts = Counter(label_of[image] for image in images)
        assert [counts[len(TARGETS) + a] for a in range(len(AUXILIARIES))] == [min(n, CAP) for n in AUXILIARIES]
        drawn.append(frozenset(images))
    assert len(set(drawn)) == EPOCHS, "auxiliary images are drawn anew each epoch"
