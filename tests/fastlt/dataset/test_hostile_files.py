"""Data sets of a stranger, whose checksums are right: absurd places, counts and sizes are one sentence, soon."""

import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from fastlt.cli import main
from fastlt.data_prep.encode.encode import encode
from fastlt.data_prep.encode.inputs import EncodeInputs
from fastlt.data_prep.encode.options import EncodeOptions
from fastlt.dataset import beton
from fastlt.dataset.encoded import EncodedDataset
from fastlt.loaders.readers import open_reader
from fastlt.loaders.transform import Transform
from support.crawling import encoded, photograph


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A small data set in each format, ffcv's of pixels and of JPEGs."""
    folder = tmp_path_factory.mktemp("whole")
    for i in range(4):
        (folder / "classes" / f"{i % 2}").mkdir(parents=True, exist_ok=True)
        (folder / "classes" / f"{i % 2}" / f"{i}.jpg").write_bytes(encoded(photograph(i)))
    inputs = EncodeInputs(folder / "classes", folder / "classes")
    for name, form, mode in (("raw", "ffcv", "raw"), ("ffcv", "ffcv", "jpg"), ("webdataset",) * 2 + ("jpg",)):
        encode(folder / name, inputs, EncodeOptions(format=form, mode=mode, workers=1))
    encode(folder / "plain", inputs, EncodeOptions(format="plain", workers=1))
    return folder


def seal(folder: Path) -> None:
    """Has the manifest say the bytes and checksums of what is there now."""
    manifest = json.loads((folder / "manifest.json").read_text())
    for split in manifest["splits"].values():
        content = (folder / split["file"]).read_bytes()
        split |= {"num_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def refused(folder: Path, capsys) -> tuple[str, str]:
    """What `fastlt encode --check` says, and what the loader says."""
    assert main(["encode", "--check", str(folder), "--workers", "1"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("fastlt: error: ")
    with pytest.raises(ValueError) as caught:
        load(folder)
    assert "\n" not in str(caught.value)
    return said, str(caught.value)


def load(folder: Path) -> None:
    reader = open_reader(EncodedDataset.open(folder), "val", Transform(8, train=False), 4, 0, open_with(folder))
    list(reader.batches([np.arange(4, dtype=np.uint64)]))


def open_with(folder: Path) -> str:
    return "plain" if folder.name in ("webdataset", "plain") else "ffcv"


def image(table: str, field: str, value: object):
    """Has one number of the second sample of a table be another."""

    def change(header, rows, allocations):
        {"rows": rows["image"], "labels": rows, "allocations": allocations}[table][field][1] = value

    return change


def header(field: str, value: int):
    def change(header, rows, allocations):
        header[field] = value

    return change


def at_the_end_of_numbers(header, rows, allocations):
    rows["image"]["data_ptr"][1] = allocations["ptr"][1] = 2**64 - 8
    allocations["size"][1] = 100  # their sum is 92, as 64 bits have it


ENTRY = "sample 1: its table entry is damaged"
BETONS = {
    "a place of its own": (image("rows", "data_ptr", 77), ENTRY),
    "a place behind all": (image("rows", "data_ptr", 2**63), ENTRY),
    "a sum that passes 64 bits": (at_the_end_of_numbers, ENTRY),
    "no bytes": (image("allocations", "size", 0), ENTRY),
    "more bytes than there are": (image("allocations", "size", 2**64 - 1), ENTRY),
    "no width": (image("rows", "width", 0), ENTRY),
    "no height": (image("rows", "height", 0), ENTRY),
    "another mode": (image("rows", "mode", 7), ENTRY),
    "another label": (image("labels", "label", 99), "label"),
    "a label below zero": (image("labels", "label", -1), "label"),
    "an absurd count": (header("num_samples", 2**63 - 1), "is cut off"),
    "a count of memory": (header("num_samples", 2**33), "is cut off"),
    "a table elsewhere": (header("alloc_table", 2**64 - 1), "is cut off"),
    "no images": (header("num_samples", 0), ""),
}


@pytest.mark.parametrize("mode", ["raw", "ffcv"])
@pytest.mark.parametrize("case", BETONS)
def test_tables_of_a_beton(whole, tmp_path, capsys, mode, case):
    folder = shutil.copytree(whole / mode, tmp_path / mode)
    change, said = BETONS[case]
    file = folder / "val.beton"
    content = bytearray(file.read_bytes())
    head = np.frombuffer(content, beton.HEADER, 1)
    rows = np.frombuffer(content, beton.ROW, 4, beton.ROWS_START)
    change(head, rows, np.frombuffer(content, beton.ALLOCATION, 4, int(head["alloc_table"][0])))
    file.write_bytes(content)
    seal(folder)
    checked, loaded = refused(folder, capsys)
    assert said in checked
    assert said in loaded
    assert str(file) in checked
    assert str(file) in loaded


def test_pixels_that_do_not_fill_an_image(whole, tmp_path, capsys):
    folder = shutil.copytree(whole / "raw", tmp_path / "raw")
    content = bytearray((folder / "val.beton").read_bytes())
    np.frombuffer(content, beton.ROW, 4, beton.ROWS_START)["image"]["width"][1] += 1
    (folder / "val.beton").write_bytes(content)
    seal(folder)
    assert ENTRY in refused(folder, capsys)[1]


INDEXES = {
    "below zero": "jpg -512 100 x.jpg cls 4096 1 x.cls",
    "behind the end": "jpg 999999999 100 x.jpg cls 4096 1 x.cls",
    "longer than the tar": "jpg 512 99999999999 x.jpg cls 4096 1 x.cls",
    "absurd": f"jpg {10**25} 1 x.jpg cls 4096 1 x.cls",
    "a number that takes long": f"jpg {'9' * 4000} 1 x.jpg cls 4096 1 x.cls",
    "empty": "jpg 512 0 x.jpg cls 4096 1 x.cls",
    "no number": "jpg one 1 x.jpg cls 4096 1 x.cls",
    "nothing": "",
}


@pytest.mark.parametrize("case", INDEXES)
def test_places_of_an_index(whole, tmp_path, capsys, case):
    folder = shutil.copytree(whole / "webdataset", tmp_path / "webdataset")
    index = folder / "val.idx"
    lines = index.read_text().split("\n")
    lines[2] = INDEXES[case]
    index.write_text("\n".join(lines))
    checked, loaded = refused(folder, capsys)
    assert f"{index}:3" in checked
    assert f"{index} is not the index of val.tar: the tar has no place for" in loaded


def test_an_index_of_other_lengths(whole, tmp_path, capsys):
    folder = shutil.copytree(whole / "webdataset", tmp_path / "webdataset")
    index = folder / "val.idx"
    lines = index.read_text().split("\n")
    for content, said in (
        ("v1.2 1\n" + lines[1], "is not that of its manifest"),
        ("v1.2 999999999999\n" + lines[1], "it begins with"),
        ("\n".join(lines) + "\n" * 10**6, "it is larger than the tar"),
    ):
        index.write_text(content)
        assert said in refused(folder, capsys)[1]


def test_a_tar_that_leads_back_into_itself_ends(whole, tmp_path, capsys):
    """A negative size has the next file of the tar be the same one again, for ever."""
    folder = shutil.copytree(whole / "webdataset", tmp_path / "webdataset")
    content = bytearray((folder / "val.tar").read_bytes())
    content[124:136] = (-1024).to_bytes(12, "big", signed=True)
    content[148:156] = b" " * 8
    content[148:156] = b"%06o\0 " % sum(content[:512])
    (folder / "val.tar").write_bytes(content)
    seal(folder)
    assert main(["encode", "--check", str(folder), "--workers", "1"]) == 1
    assert f"{folder / 'val.tar'} cannot be read" in capsys.readouterr().err


MANIFESTS = {
    "a file elsewhere": ({"file": "../raw/val.beton"}, "is no name of a file of this folder"),
    "a file of the machine": ({"file": "/etc/passwd"}, "is no name of a file of this folder"),
    "no name": ({"file": 7}, "is no name of a file of this folder"),
    "absurd counts": ({"counts": [10**15, 1]}, "cannot have 1e+15 images"),
    "counts of no machine": ({"counts": [10**25, 1]}, "cannot have 1e+25 images"),
    "counts below zero": ({"counts": [6, -2]}, "has counts or bytes that are no numbers of anything"),
    "half a count": ({"counts": [2.5, 1.5]}, "has counts or bytes that are no numbers of anything"),
    "words": ({"counts": ["2", "2"]}, "has counts or bytes that are no numbers of anything"),
    "no images": ({"counts": []}, "cannot have 0 images"),
    "truth": ({"counts": [True, True]}, "has counts or bytes that are no numbers of anything"),
}


@pytest.mark.parametrize("case", MANIFESTS)
def test_counts_and_files_of_a_manifest(whole, tmp_path, capsys, case):
    folder = shutil.copytree(whole / "raw", tmp_path / "data")
    manifest = json.loads((folder / "manifest.json").read_text())
    fields, said = MANIFESTS[case]
    manifest["splits"]["val"] |= fields
    (folder / "manifest.json").write_text(json.dumps(manifest))
    checked, loaded = refused(folder, capsys)
    assert said in checked
    assert said in loaded


PLAIN = {
    "an object": '{"a": 1, "b": 2}',
    "no names": "[1, 2, 3, 4]",
    "deep": "[" * 100_000,
    "a zero": '["a\\u0000", "b", "c", "d"]',
    "too few": '["a.jpg"]',
}


@pytest.mark.parametrize("case", PLAIN)
def test_names_of_a_plain_split(whole, tmp_path, capsys, case):
    folder = shutil.copytree(whole / "plain", tmp_path / "plain")
    (folder / "val.json").write_text(PLAIN[case])
    seal(folder)
    for said in refused(folder, capsys):
        assert str(folder / "val.json") in said


def test_what_is_no_file(whole, tmp_path, capsys):
    """A pipe would be waited for."""
    folder = shutil.copytree(whole / "webdataset", tmp_path / "webdataset")
    (folder / "val.idx").unlink()
    os.mkfifo(folder / "val.idx")
    assert "val.idx is not the index of val.tar: it is no file" in refused(folder, capsys)[1]
    for name in ("label_space.json", "manifest.json"):
        (folder / name).unlink()
        os.mkfifo(folder / name)
        assert "it is no file" in refused(folder, capsys)[1]
