"""`fastlt encode` as a user types it: what it writes, and what it refuses without leaving a trace."""

import json
import shutil

import numpy as np
import pytest

from fastlt.encoded import EncodedDataset


@pytest.fixture
def folders(workshop):
    """A copy of the species that a test may damage; afterwards nothing half-written may lie around."""
    copy = workshop.folder / "copy"
    shutil.copytree(workshop.folder / "species", copy)
    yield copy
    shutil.rmtree(copy)
    leftovers = [p.name for p in workshop.folder.iterdir() if "partial" in p.name or p.name == "refused"]
    assert leftovers == []


def encode_copy(workshop, *options, out="refused", auxiliary=True):
    words = ["--train", "copy/train", "--val", "copy/val"]
    if auxiliary:
        words += ["--auxiliary", "copy/auxiliary", "--neighbors", "copy/neighbors.json"]
    return workshop.fastlt("encode", out, *words, *options)


def refusal(workshop, *options, **keywords) -> str:
    done = encode_copy(workshop, *options, **keywords)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert not (workshop.folder / "refused").exists()
    return done.stderr


def test_both_formats_hold_the_same(workshop):
    ffcv, plain = (EncodedDataset.open(workshop.folder / name) for name in ("encoded", "plain"))
    assert ffcv.label_space == plain.label_space
    assert (ffcv.label_space.num_targets, ffcv.label_space.num_classes) == (9, 15)
    assert len(ffcv.label_space.neighbors) == 9 * 2
    assert ffcv.splits["train"].counts == list(ffcv.label_space.counts)
    assert ffcv.splits["val"].counts == [5] * 9
    np.testing.assert_array_equal(plain.split("val").labels(), np.repeat(np.arange(9), 5))


def test_missing_and_empty_folders(workshop, folders):
    assert "does not exist" in refusal(workshop, "--test", "copy/test")
    (folders / "train" / "genus99_species0").mkdir()
    assert "genus99_species0 has no image in it" in refusal(workshop)
    (folders / "train" / "genus99_species0").rmdir()
    shutil.rmtree(folders / "val" / "genus00_species0")
    assert "has no folder for class 'genus00_species0'" in refusal(workshop)


def test_unknown_neighbors(workshop, folders):
    for neighbors, sentence in (
        ({"genus00_species0": ["genus77_species0"]}, "names 'genus77_species0', which is not an auxiliary class"),
        ({"genus77_species0": []}, "names 'genus77_species0', which is not a target class"),
        (["genus00_species0"], "must be a JSON object"),
    ):
        (folders / "neighbors.json").write_text(json.dumps(neighbors))
        assert sentence in refusal(workshop)
    (folders / "neighbors.json").write_text("{")
    assert "cannot be read" in refusal(workshop)


def test_class_that_is_target_and_auxiliary(workshop, folders):
    shutil.copytree(folders / "train" / "genus00_species0", folders / "auxiliary" / "genus00_species0")
    assert "'genus00_species0' occurs twice" in refusal(workshop)


@pytest.mark.parametrize("options", [["--mode", "jpg"], ["--format", "plain"]], ids=["ffcv", "plain"])
def test_broken_images(workshop, folders, options):
    broken = sorted((folders / "train" / "genus00_species1").iterdir())[:2]
    broken[0].write_bytes(broken[0].read_bytes()[:200])
    broken[1].write_text("no image")
    said = refusal(workshop, *options)
    assert "2 broken images" in said
    assert all(str(path) in said for path in broken)
    done = encode_copy(workshop, *options, "--skip-broken", out="skipped")
    assert done.returncode == 0, done.stderr
    data = EncodedDataset.open(workshop.folder / "skipped")
    whole = EncodedDataset.open(workshop.folder / "encoded")
    assert sum(whole.label_space.counts) - sum(data.label_space.counts) == 2
    shutil.rmtree(workshop.folder / "skipped")


def test_existing_output_is_left_alone(workshop, folders):
    before = (workshop.folder / "encoded" / "manifest.json").read_bytes()
    done = encode_copy(workshop, out="encoded")
    assert done.returncode == 1
    assert "exists already" in done.stderr
    assert (workshop.folder / "encoded" / "manifest.json").read_bytes() == before


def test_truncated_and_contradicting_data_sets(workshop):
    copy = workshop.folder / "damaged"
    shutil.copytree(workshop.folder / "encoded", copy)
    with (copy / "train.beton").open("r+b") as file:
        file.truncate(1000)
    with pytest.raises(ValueError, match="has 1,000 bytes, its manifest says"):
        EncodedDataset.open(copy)
    shutil.rmtree(copy)
    shutil.copytree(workshop.folder / "encoded", copy)
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["splits"]["val"]["counts"].extend([0] * 6 + [1])
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="labels up to 15, outside its label space of 15 classes"):
        EncodedDataset.open(copy)
    shutil.rmtree(copy)


def test_without_ffcv(workshop, folders, tmp_path):
    """FFCV hidden as if it were not installed: one sentence that names the way out."""
    import os
    import subprocess
    import sys

    (tmp_path / "ffcv.py").write_text("raise ImportError('libopencv_core.so: cannot open shared object file')")
    code = "import sys; from fastlt.cli import main; sys.exit(main(sys.argv[1:]))"
    words = ["encode", "refused", "--train", "copy/train", "--val", "copy/val"]
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        cwd=workshop.folder, env=os.environ | {"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "--format plain, which needs no FFCV" in done.stderr
