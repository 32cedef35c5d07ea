"""An encode that is killed with SIGKILL at any instant, or finds the disk full, goes on: the same bytes in the end."""

import io
import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fastlt.data_prep.encode.check import check_encoded
from fastlt.data_prep.encode.encode import encode
from fastlt.data_prep.encode.inputs import EncodeInputs
from fastlt.data_prep.encode.options import EncodeOptions

pytestmark = pytest.mark.slow

IMAGES, SIDE = 500, 500


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """`train` and `val`: images that all differ, of some milliseconds each."""
    folder = tmp_path_factory.mktemp("killed")
    rng = np.random.default_rng(0)
    for split, number in (("train", IMAGES), ("val", 40)):
        for i in range(number):
            file = folder / split / f"class{i % 4}" / f"{i}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
            stream = io.BytesIO()
            coarse.resize((SIDE, SIDE)).save(stream, "JPEG", quality=90, progressive=i % 5 == 0)
            file.write_bytes(stream.getvalue())
    (folder / "train" / "class1" / "1.jpg").write_bytes(b"broken")
    return folder


def contents(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.iterdir()}


KINDS = [("ffcv", {"mode": "smart", "max_resolution": 300}), ("webdataset", {"max_resolution": 600}), ("plain", {})]


@pytest.mark.parametrize(("form", "options"), KINDS, ids=[form for form, _ in KINDS])
def test_killed_anywhere_it_goes_on(folder, form, options):
    storage = EncodeOptions(format=form, workers=2, skip_broken=True, **options)
    encode(folder / f"unbroken_{form}", EncodeInputs(folder / "train", folder / "val"), storage)
    words = ["--train", "train", "--val", "val", "--format", form, "--workers", 2, "--skip-broken"]
    for option, value in options.items():
        words += [f"--{option.replace('_', '-')}", value]
    fastlt = str(Path(sys.executable).with_name("fastlt"))
    command = [fastlt, "encode", form, *map(str, words)]
    partial = folder / f".{form}.partial"
    rng = random.Random(form)
    kills = 1 if form == "ffcv" else 2  # importing FFCV takes seconds each time
    seen, unfinished = [], 0

    def journaled() -> int:
        return sum(file.stat().st_size for file in partial.glob("*.journal")) if partial.exists() else 0

    def run_until(reached) -> bool:
        """Starts the command and kills it when `reached`; whether it was not ready."""
        process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True)
        while process.poll() is None and not reached():
            time.sleep(0.0005)
        process.kill()
        seen.append(process.communicate()[0])
        return not (folder / form).exists()

    for _ in range(kills):  # at a random instant after something more was written than the time before
        before, delay = journaled(), rng.uniform(0, 0.2)
        started: list[float] = []

        def reached(before=before, delay=delay, started=started) -> bool:
            if not started and journaled() > before:
                started.append(time.monotonic())
            return bool(started) and time.monotonic() - started[0] > delay

        unfinished += not (folder / form).exists() and run_until(reached)
    for last in ((partial / "label_space.json").exists, lambda: False):
        unfinished += not (folder / form).exists() and run_until(last)
    assert contents(folder / form) == contents(folder / f"unbroken_{form}")
    assert not partial.exists()
    assert unfinished
    assert any("are done" in said for said in seen)  # so it did go on
    assert check_encoded(folder / form) == IMAGES - 1 + 40


def test_only_one_at_a_time_and_only_of_the_same(folder):
    fastlt = str(Path(sys.executable).with_name("fastlt"))
    words = [fastlt, "encode", "busy", "--train", "train", "--val", "val", "--format", "webdataset", "--workers", "1"]
    first = subprocess.Popen(words, cwd=folder, stdout=subprocess.DEVNULL)
    while not (folder / ".busy.partial" / "train.journal").exists():
        assert first.poll() is None
        time.sleep(0.001)
    sources = EncodeInputs(folder / "train", folder / "val")
    with pytest.raises(ValueError, match="is in use: another process encodes"):
        encode(folder / "busy", sources, EncodeOptions(format="webdataset"))
    first.kill()
    first.wait()
    for other in (EncodeOptions(format="webdataset", quality=80), EncodeOptions(format="plain")):
        with pytest.raises(ValueError, match="with other images or settings: repeat that command to finish it"):
            encode(folder / "busy", sources, other)
    shutil.rmtree(folder / ".busy.partial")


def test_a_full_disk(folder, tmp_path):
    unshare = ["unshare", "--mount"]
    if os.geteuid() or not shutil.which("unshare") or subprocess.run([*unshare, "true"]).returncode:
        pytest.skip("needs root and unshare, to make a disk of its own")
    (tmp_path / "images").mkdir()
    (tmp_path / "disk").mkdir()
    for split in ("train", "val"):
        shutil.copytree(folder / split, tmp_path / "images" / split)
    (tmp_path / "images" / "train" / "class1" / "1.jpg").unlink()
    script = [sys.executable, str(Path(__file__).with_name("full_disk_namespace.py"))]
    words = [*unshare, *script, str(tmp_path / "images"), str(tmp_path / "disk")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)

    assert found["before"]["status"] == 1
    assert "are free on the disk of" in found["before"]["said"]
    assert "make room" in found["before"]["said"]
    assert found["before"]["files"] == []
    assert found["meanwhile"]["status"] == 1
    assert "the disk is full; " in found["meanwhile"]["said"]
    assert f"of {IMAGES - 1} images of train" in found["meanwhile"]["said"]
    assert "the same command continues from there" in found["meanwhile"]["said"]
    assert "Traceback" not in found["meanwhile"]["said"]
    assert "are done" in found["afterwards"]["said"]
    encode(
        tmp_path / "unbroken",
        EncodeInputs(tmp_path / "images" / "train", tmp_path / "images" / "val"),
        EncodeOptions(format="webdataset"),
    )
    assert contents(tmp_path / "images" / "after_full_disk") == contents(tmp_path / "unbroken")
