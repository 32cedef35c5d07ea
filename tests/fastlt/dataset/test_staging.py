"""`data.stage_to`: a copy on the node's own disk, made once by whoever comes first, whole or not at all."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fastlt.dataset.staging import staged
from fastlt.run_folder import RunFolder
from support.paths import ROOT

STAGE = """
import sys
from pathlib import Path
from fastlt.dataset.staging import staged
print(staged(Path(sys.argv[1]), Path(sys.argv[2])).path)
"""


def same_files(a: Path, b: Path) -> bool:
    names = sorted(file.name for file in a.iterdir())
    assert names == sorted(file.name for file in b.iterdir())
    return all((a / name).read_bytes() == (b / name).read_bytes() for name in names)


@pytest.fixture
def stage(tmp_path) -> Path:
    return tmp_path / "disk" / "fastlt"


def test_ranks_of_a_node_share_one_copy(workshop, stage):
    words = [sys.executable, "-c", STAGE, str(workshop.folder / "encoded"), str(stage)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    started = [subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment) for _ in range(3)]
    copies = {Path(process.communicate()[0].splitlines()[-1]) for process in started}
    assert not any(process.returncode for process in started)
    assert [path for path in stage.iterdir() if path.is_dir()] == list(copies)
    assert same_files(workshop.folder / "encoded", copies.pop())


def test_a_copy_that_was_cut_off_is_gone_on_with(workshop, stage):
    place = workshop.folder / "encoded"
    copy = staged(place, stage).path
    half = copy.with_name(f".{copy.name}.partial")
    copy.rename(half)  # as a process leaves it that is killed
    (half / "train.beton").write_bytes(b"half")
    assert staged(place, stage).path == copy
    assert same_files(place, copy)
    assert not half.exists()


def test_another_encode_gets_another_copy(workshop, stage, tmp_path):
    again = shutil.copytree(workshop.folder / "encoded", tmp_path / "encoded")
    manifest = json.loads((again / "manifest.json").read_text())
    manifest["settings"]["inputs"] = "others"
    (again / "manifest.json").write_text(json.dumps(manifest))
    copies = {staged(path, stage).path for path in (workshop.folder / "encoded", again)}
    assert len(copies) == 2


def test_what_cannot_be_staged_is_one_sentence(workshop, stage, tmp_path):
    with pytest.raises(ValueError, match="only names its images"):
        staged(workshop.folder / "plain", stage)

    copy = staged(workshop.folder / "encoded", stage).path
    os.truncate(copy / "val.beton", 10)
    with pytest.raises(ValueError, match="is damaged; remove it"):
        staged(workshop.folder / "encoded", stage)

    large = shutil.copytree(workshop.folder / "encoded", tmp_path / "large")
    manifest = json.loads((large / "manifest.json").read_text())
    manifest["splits"]["val"]["num_bytes"] = 2**43
    (large / "manifest.json").write_text(json.dumps(manifest))
    os.truncate(large / "val.beton", 2**43)  # has holes
    done = workshop.fastlt("train", "recipe.yaml", f"data.path={large}", f"data.stage_to={stage}", "output=too-large")
    assert done.returncode == 1
    assert "has room for" in done.stderr
    assert "8.8 TB" in done.stderr


@pytest.mark.slow
def test_a_run_reads_the_copy_and_learns_the_same(workshop, stage):
    losses = []
    for name, more in (("unstaged", []), ("staged", [f"data.stage_to={stage}"])):
        done = workshop.train("data.path=encoded", "optimizer.epochs=1", f"output={name}", *more, ranks=1)
        assert done.returncode == 0, done.stdout + done.stderr
        assert (f"images are read from {stage}" in done.stdout) == (name == "staged")
        losses.append([r["loss"] for r in RunFolder(workshop.folder / name).records() if r["kind"] == "train"])
    assert losses[0] == losses[1]
