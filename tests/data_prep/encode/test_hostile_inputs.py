"""Images of strangers in class folders and data sets: refused by what they are, before they take the memory."""

import os
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from bench.inputs import hostile_images as hostile
from fastlt.dataset.encoded import EncodedDataset
from support.crawling import jpeg
from support.paths import BIN

pytestmark = pytest.mark.medium

BILEVEL = (13_500, 13_500)  # 182 megapixels in 30 kB


@pytest.fixture
def folder(tmp_path) -> Path:
    for split in ("train", "val"):
        for name in ("a", "b"):
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(2):
                (tmp_path / split / name / f"{i}.jpg").write_bytes(jpeg(i))
    return tmp_path


def encode(folder: Path, *words: object, **variables: str) -> subprocess.CompletedProcess:
    command = [str(BIN / "fastlt"), "encode", *map(str, words), "--workers", "1"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, env=os.environ | variables)


@pytest.mark.parametrize("form", ["ffcv", "webdataset", "plain"])
def test_what_no_reader_should_open_is_named_and_left_out(folder, form):
    (folder / "bin").mkdir()
    (folder / "bin" / "gs").write_text(f"#!/bin/sh\ntouch {folder}/started\n")
    (folder / "bin" / "gs").chmod(0o755)
    train = folder / "train" / "a"
    (train / "eps.jpg").write_bytes(hostile.eps_that_writes(folder / "started"))
    (train / "tiles.jpg").write_bytes(hostile.tiff_of_huge_tiles())
    path = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
    words = ["out", "--train", "train", "--val", "val", "--format", form, "--skip-broken"]
    done = encode(folder, *words, PATH=path)
    assert done.returncode == 0, done.stderr
    assert "2 broken images:" in done.stdout
    assert "tiles.jpg: it has 2,145.5 megapixels (64 x 64 in tiles that are larger)" in done.stdout
    assert "eps.jpg: cannot identify image file" in done.stdout
    assert not (folder / "started").exists()
    assert EncodedDataset.open(folder / "out").label_space.counts == (2, 2)


def test_an_image_of_a_data_set_is_no_larger_than_encode_was_told(folder):
    done = encode(folder, "out", "--train", "train", "--val", "val", "--format", "plain")
    assert done.returncode == 0, done.stderr
    Image.new("1", BILEVEL).save(folder / "val" / "b" / "1.jpg", "PNG")
    done = encode(folder, "--check", "out")
    assert done.returncode == 1
    assert "sample 3: broken image" in done.stderr
    assert "it has 182.2 megapixels (13,500 x 13,500), more than the 179" in done.stderr
    (folder / "val" / "b" / "1.jpg").write_bytes(jpeg(1))
    done = encode(folder, "large", "--train", "train", "--val", "val", "--format", "plain", "--max-megapixels", 183)
    assert done.returncode == 0, done.stderr
    assert EncodedDataset.open(folder / "large").max_pixels == 183_000_000
