"""Class folders as they lie on people's disks, through `fastlt encode`: what is taken, and what is left out by kind."""

import json
import os
import shutil
import unicodedata
from pathlib import Path
from typing import NamedTuple

import pytest
from PIL import Image, features

from fastlt.cli import main
from fastlt.data_prep.filter.inputs import held_out_images
from fastlt.dataset.encoded import EncodedDataset

pytestmark = pytest.mark.medium

NFC, NFD = (unicodedata.normalize(form, "Grünspecht") for form in ("NFC", "NFD"))


class Done(NamedTuple):
    status: int
    out: str
    err: str


class Desk:
    """A folder with two classes in `train` and `val`, and the command."""

    def __init__(self, folder: Path, capsys) -> None:
        self.folder, self.capsys = folder, capsys
        for split in ("train", "val"):
            for name in ("cat", "dog"):
                self.draw(split, name, "0.jpg")

    def draw(self, *parts: str, form: str = "JPEG") -> Path:
        file = self.folder.joinpath(*parts)
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (200, 30, 30)).save(file, form)
        return file

    def encode(self, *words: object, train: str = "train", val: str = "val", form: str = "plain") -> Done:
        self.capsys.readouterr()
        given = ["--train", self.folder / train, "--val", self.folder / val, "--format", form]
        return Done(
            main([str(word) for word in ("encode", self.folder / "out", *given, *words)]), *self.capsys.readouterr()
        )

    def counts(self, split: str = "train") -> dict[str, int]:
        data = EncodedDataset.open(self.folder / "out")
        return dict(zip(data.label_space.names, data.splits[split].counts, strict=True))

    def refusal(self, *words: object, **options) -> str:
        done = self.encode(*words, **options)
        assert done.status == 1
        assert "Traceback" not in done.err
        assert [f.name for f in self.folder.iterdir() if "out" in f.name] == []
        return done.err


@pytest.fixture
def desk(tmp_path, capsys):
    return Desk(tmp_path, capsys)


def line_about(done: Done, folder: str) -> str:
    """The one line about a source."""
    (line,) = [line for line in done.out.splitlines() if f"/{folder}: " in line and "taken" in line]
    return line


def test_images_in_linked_folders_are_taken_and_loops_end(desk):
    desk.draw("elsewhere", "deep", "1.jpg")
    desk.draw("elsewhere", "2.jpg")
    (desk.folder / "train" / "cat" / "more").symlink_to(desk.folder / "elsewhere")
    (desk.folder / "train" / "cat" / "loop").symlink_to(desk.folder / "train")
    (desk.folder / "elsewhere" / "back").symlink_to(desk.folder / "elsewhere")
    (desk.folder / "train" / "again").symlink_to(desk.folder)
    (desk.folder / "train" / "dog" / "gone.jpg").symlink_to(desk.folder / "nothing.jpg")
    done = desk.encode()
    assert done.status == 0, done.err
    assert desk.counts() == {"cat": 3, "dog": 1}
    line = line_about(done, "train")
    assert "4 training images of 2 classes taken" in line
    assert "3 links to a folder above them" in line
    assert "1 link to nothing" in line


def test_what_systems_and_editors_leave_is_no_image(desk):
    for split in ("train", "val"):
        for name in (
            ".ipynb_checkpoints/0-checkpoint.jpg",
            "@eaDir/0.jpg/SYNOFILE_THUMB_M.jpg",
            "._0.jpg",
            ".DS_Store",
        ):
            desk.draw(split, "cat", *name.split("/"))
        desk.draw(split, "dog", "Thumbs.db")
        desk.draw(split, "__MACOSX", "cat", "0.jpg")
        desk.draw(split, ".cache", "0.jpg")
        (desk.folder / split / "cat" / "._1.jpg").write_bytes(b"\0\5\26\7\0\2\0\0Mac OS X")
    done = desk.encode()
    assert done.status == 0, done.err
    assert desk.counts() == desk.counts("val") == {"cat": 1, "dog": 1}
    assert "; skipped: 8 hidden (" in line_about(done, "train")
    assert "2 validation images of 2 classes taken; skipped: 8 hidden (" in line_about(done, "val")


def test_whatever_the_decoder_reads_is_taken_and_the_rest_is_counted_by_kind(desk):
    kinds = [("a.jfif", "JPEG"), ("b.JPE", "JPEG"), ("c.Png", "PNG"), ("d", "JPEG"), ("e 20.11.2026", "PNG")]
    kinds += [("f.webp", "WEBP"), ("g.PGM", "PPM"), ("St. Bernard", "GIF")]
    kinds += [("h.avif", "AVIF")] * features.check("avif")
    for name, form in kinds:
        desk.draw("train", "cat", name, form=form)
    for name in ("a.txt", "b.txt", "c.TXT", "logo.svg", "README"):
        (desk.folder / "train" / "dog" / name).write_text("some words")
    (desk.folder / "train" / "classes.txt").write_text("cat\ndog\n")
    desk.draw("train", "stray.jpg")
    done = desk.encode()
    assert done.status == 0, done.err
    assert desk.counts() == {"cat": 1 + len(kinds), "dog": 1}
    line = line_about(done, "train")
    assert f"{2 + len(kinds)} training images of 2 classes taken; skipped: " in line
    for kind in ("4 .txt", "1 .svg", "1 without extension (no images)", "1 image outside of class folders"):
        assert kind in line


def test_empty_class_folders_are_all_named(desk):
    for name in ("eel", "fox"):
        (desk.folder / "train" / name).mkdir()
    (desk.folder / "train" / "eel" / "a.heic").write_bytes(b"x")
    said = desk.refusal()
    assert "train/eel has no image in it (only 1 .heic), nor have 1 more: fox" in said


def test_a_class_without_validation_image_is_told_and_no_stop(desk):
    desk.draw("train", "eel", "0.jpg")
    desk.draw("train", "fox", "0.jpg")
    (desk.folder / "val" / "fox").mkdir()
    done = desk.encode()
    assert done.status == 0, done.err
    assert desk.counts("val") == {"cat": 1, "dog": 1, "eel": 0, "fox": 0}
    assert "no validation images of 2 of the 4 classes (eel, fox)" in done.out
    desk.draw("other", "cow", "0.jpg")
    shutil.rmtree(desk.folder / "out")
    assert "have class 'cow', which the training images do not have" in desk.refusal(val="other")


def test_unicode_writes_one_name_in_two_ways(desk):
    desk.draw("train", NFD, "0.jpg")
    desk.draw("val", NFC, "0.jpg")
    done = desk.encode()
    assert done.status == 0, done.err
    assert desk.counts("val") == {"cat": 1, "dog": 1, NFC: 1}
    shutil.rmtree(desk.folder / "out")
    desk.draw("train", NFC, "0.jpg")
    said = desk.refusal()
    assert r"'Gr\xfcnspecht' and 'Gru\u0308nspecht'" in said
    assert "differ only in how Unicode writes them" in said


def test_unicode_in_split_files(desk):
    desk.draw("images", NFD, f"{NFD}.jpg")
    desk.draw("images", "cat", "0.jpg")
    (desk.folder / "train.txt").write_text(f"cat/0.jpg 0\n{NFC}/{NFC}.jpg 1\n")
    done = desk.encode("--images", desk.folder / "images", train="train.txt", val="train.txt")
    assert done.status == 0, done.err
    assert desk.counts("val") == {"cat": 1, NFC: 1}


@pytest.mark.parametrize("form", ["ffcv", "plain"])
def test_names_of_files_that_are_not_utf8_work_to_the_end(desk, form):
    try:
        name = os.fsdecode(b"Gr\xfcn.jpg")
        desk.draw("train", "cat", name)
    except OSError as error:
        pytest.skip(f"this disk has no such names: {error}")
    (desk.folder / "train" / "cat" / os.fsdecode(b"\xfc.jpg")).write_text("no image")
    assert desk.encode("--skip-broken", form=form).status == 0
    assert desk.counts() == {"cat": 2, "dog": 1}
    assert main(["encode", str(desk.folder / "out"), "--check"]) == 0
    shutil.rmtree(desk.folder / "out")
    (desk.folder / "train.txt").write_bytes(b"cat/0.jpg 0\ncat/Gr\xfcn.jpg 0\n")
    images = ["--images", desk.folder / "train"]
    done = desk.encode(*images, train="train.txt", val="train.txt", form=form)
    assert done.status == 0, done.err
    assert desk.counts() == {"cat": 2}


def test_a_class_whose_name_is_not_utf8_is_refused_before_anything_is_encoded(desk):
    try:
        desk.draw("train", os.fsdecode(b"Gr\xfcnspecht"), "0.jpg")
    except OSError as error:
        pytest.skip(f"this disk has no such names: {error}")
    said = desk.refusal(form="ffcv")
    assert r"has a class 'Gr\udcfcnspecht' whose name is not UTF-8: rename it" in said
    assert "convmv" in said


def test_a_folder_one_level_too_high(desk):
    assert f"did you mean {desk.folder / 'train'}?" in desk.refusal(train=".")
    assert f"did you mean {desk.folder / 'val'}?" in desk.refusal(val=".")
    desk.draw("archive", "data", "Training", "cat", "0.jpg")
    assert f"did you mean {desk.folder / 'archive' / 'data' / 'Training'}?" in desk.refusal(train="archive")
    assert "has no class folder in it, but 1 image:" in desk.refusal(train="train/cat")


def test_a_class_may_be_called_train(desk):
    for split in ("train", "val"):
        desk.draw(split, "train", "steam", "0.jpg")
    done = desk.encode()
    assert done.status == 0, done.err
    assert desk.counts() == {"cat": 1, "dog": 1, "train": 1}


def test_too_large_images_are_told_before_anything_is_encoded_with_the_option_that_allows_them(desk):
    """Two levels, so that neither file nor test takes long; decoded it has half a gigabyte."""
    scan = desk.folder / "train" / "cat" / "scan.png"
    Image.effect_noise((1500, 1500), 90).convert("1").resize((13_500, 13_500)).save(scan)
    assert scan.stat().st_size > 500_000
    said = desk.refusal(form="ffcv")
    assert "--max-megapixels" in said
    assert "scan.png: it has 182.2 megapixels (13,500 x 13,500)" in said
    done = desk.encode("--max-megapixels", 183, "--max-resolution", 64, "--workers", 1, form="ffcv")
    assert done.status == 0, done.err
    assert desk.counts() == {"cat": 2, "dog": 1}


def test_small_files_with_many_pixels_are_broken_images(desk):
    Image.new("1", (13_500, 13_500)).save(desk.folder / "train" / "cat" / "scan.png")
    done = desk.encode("--skip-broken", "--workers", 1)
    assert done.status == 0, done.err
    assert "182.2 megapixels" in done.out
    assert desk.counts() == {"cat": 1, "dog": 1}


def test_encoding_says_where_no_neighbor_pair_is(desk):
    desk.draw("auxiliary", "lynx", "0.jpg")
    (desk.folder / "neighbors.json").write_text(json.dumps({"cat": []}))
    more = ["--auxiliary", desk.folder / "auxiliary", "--neighbors", desk.folder / "neighbors.json"]
    done = desk.encode(*more)
    assert done.status == 0, done.err
    assert "there are no neighbor pairs, so nothing is silenced" in done.out


def test_held_out_images_are_those_that_encode_takes(desk):
    """Filter's guarantee: whatever could be evaluated on is compared with."""
    desk.draw("val", "cat", "a.jfif")
    found = held_out_images(desk.folder / "val", "val", None, [])
    assert [file.name for file in found] == ["0.jpg", "a.jfif", "0.jpg"]
