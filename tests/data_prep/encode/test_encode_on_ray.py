"""`fastlt encode --ray` where nodes and the driver are killed: the bytes of one machine."""

import io
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fastlt.data_prep.encode.check import check_encoded
from support.paths import BIN

IMAGES, SIDE = 600, 500


@pytest.fixture
def folder(tmp_path) -> Path:
    """`train` and `val`: images that all differ, of some milliseconds each, one of them broken."""
    rng = np.random.default_rng(0)
    for split, number in (("train", IMAGES), ("val", 40)):
        for i in range(number):
            file = tmp_path / split / f"class{i % 4}" / f"{i}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
            stream = io.BytesIO()
            coarse.resize((SIDE, SIDE)).save(stream, "JPEG", quality=90, progressive=i % 5 == 0)
            file.write_bytes(stream.getvalue())
    (tmp_path / "train" / "class1" / "1.jpg").write_bytes(b"broken")
    return tmp_path


def contents(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.iterdir()}


@pytest.mark.slow
def test_nodes_and_driver_are_killed(folder, cluster):
    words = ["--train", "train", "--val", "val", "--skip-broken", "--mode", "smart", "--max-resolution", "300"]
    alone = subprocess.run([BIN / "fastlt", "encode", "alone", *words], cwd=folder, capture_output=True, text=True)
    assert alone.returncode == 0, alone.stderr
    journal = folder / ".spread.partial" / "train.journal"

    def driver_until(longer_than: int) -> subprocess.Popen:
        command = [BIN / "fastlt", "encode", "spread", *words, "--ray", cluster.address]
        started = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        while not (journal.exists() and journal.stat().st_size > longer_than):
            assert started.poll() is None, started.communicate()
            time.sleep(0.002)
        return started

    killed = driver_until(0)
    killed.kill()
    killed.communicate()
    assert not (folder / "spread").exists()
    going_on = driver_until(journal.stat().st_size)
    cluster.remove_node(cluster.list_all_nodes()[-1], allow_graceful=False)
    said, error = going_on.communicate(timeout=600)
    assert going_on.returncode == 0, error
    assert "are done" in said
    assert contents(folder / "spread") == contents(folder / "alone")
    assert check_encoded(folder / "spread", 1) == IMAGES - 1 + 40


@pytest.mark.medium
def test_a_cluster_of_this_machine(tmp_path, folder):
    pytest.importorskip("ray")
    for name, more in (("alone", []), ("spread", ["--ray", "local"])):
        words = [name, "--train", "val", "--val", "val", "--format", "webdataset", *more]
        done = subprocess.run([BIN / "fastlt", "encode", *words], cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert contents(folder / "spread") == contents(folder / "alone")


@pytest.mark.medium
def test_a_task_that_is_done_is_not_canceled(tmp_path):
    """Ray would crash now and then, and its driver with it, which therefore is a process of its own."""
    pytest.importorskip("ray")
    program = "\n".join(
        [
            "from fastlt.data_prep.encode.on_ray import pool_on_ray",
            "with pool_on_ray('local') as pool:",
            "    found = [list(pool.map(lambda images: [1], [['a.jpg']])) for _ in range(2000)]",
            "assert found == [[[1]]] * 2000",
        ]
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_driver_that_is_stopped_says_nothing_odd(folder, sent):
    pytest.importorskip("ray")
    words = ["--train", "train", "--val", "val", "--skip-broken", "--ray", "local"]
    command = [BIN / "fastlt", "encode", "spread", *words]
    driver = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    journal = folder / ".spread.partial" / "train.journal"
    while not (journal.exists() and journal.stat().st_size):
        assert driver.poll() is None, driver.communicate()
        time.sleep(0.002)
    driver.send_signal(sent)
    _, error = driver.communicate(timeout=120)
    assert driver.returncode == 130, error
    assert "Traceback" not in error
    assert "SIGTERM" not in error
