"""`fastlt encode --check`: whatever byte of a data set was changed, it says where."""

from pathlib import Path

import pytest
from ffcv.reader import Reader
from PIL import Image

from fastlt.cli import main
from fastlt.data_prep.encode.check import check_encoded
from fastlt.data_prep.encode.encode import encode as encode_sources
from fastlt.data_prep.encode.inputs import EncodeInputs
from fastlt.data_prep.encode.options import EncodeOptions
from fastlt.dataset.encoded import EncodedDataset

DAMAGES = {
    ("ffcv", "train.beton", 5): "sha256",
    ("ffcv", "train.beton", "middle"): "sha256",
    ("ffcv", "val.beton", "label"): r"val\.beton, sample 0: its label is 1, its manifest says 0",
    ("webdataset", "train.tar", "middle"): "sha256",
    ("webdataset", "train.tar", "jpeg"): r"train\.tar, sample 0: broken image",
    ("webdataset", "val.idx", 9): r"val\.idx:\d+: it says",
    ("webdataset", "val.idx", "short"): r"val\.idx:\d+: it says",
    ("plain", "train.json", "middle"): "sha256",
    ("plain", "manifest.json", 30): "manifest",
    ("ffcv", "train.beton", "short"): "bytes, its manifest says",
    ("webdataset", "train.tar", "short"): "bytes, its manifest says",
}


@pytest.fixture(scope="module")
def checked(tmp_path_factory):
    """A small data set in each format."""
    folder = tmp_path_factory.mktemp("checked")
    for split in ("train", "val"):
        for name in ("a", "b"):
            (folder / split / name).mkdir(parents=True)
            for i in range(3):
                image = Image.radial_gradient("L").resize((60 + i, 50)).convert("RGB")
                image.save(folder / split / name / f"{i}.jpg")
    for form in ("ffcv", "webdataset", "plain"):
        inputs = EncodeInputs(folder / "train", folder / "val")
        encode_sources(folder / form, inputs, EncodeOptions(format=form, workers=1))
        assert check_encoded(folder / form, workers=1) == 12
    return folder


@pytest.mark.parametrize(("form", "name", "damage"), DAMAGES)
def test_check_finds_what_was_damaged(checked, form, name, damage):
    file = checked / form / name
    whole = file.read_bytes()
    content = bytearray(whole)
    if damage == "short":
        del content[-10:]
    elif damage == "label":
        reader = Reader(str(file))
        first = len(content) - reader.alloc_table.nbytes - reader.alloc_table["size"].sum() - reader.metadata.nbytes
        content[first + reader.metadata.dtype.fields["f1"][1]] ^= 1
    elif damage == "jpeg":
        content[512] ^= 1
    else:
        content[len(content) // 2 if damage == "middle" else damage] ^= 1
    try:
        file.write_bytes(content)
        with pytest.raises(ValueError, match=DAMAGES[form, name, damage]) as caught:
            check_encoded(checked / form, workers=1)
        assert str(file) in str(caught.value)
    finally:
        file.write_bytes(whole)


def test_check_as_a_user_types_it(workshop, checked, capsys):
    assert "all 12 images are whole" in workshop.fastlt("encode", "--check", checked / "plain").stdout
    names = EncodedDataset.open(checked / "plain").image_names("val")
    Path(names[4]).rename(Path(names[4]).with_suffix(".gone"))
    status = main(["encode", "--check", str(checked / "plain")])
    Path(names[4]).with_suffix(".gone").rename(names[4])
    assert status == 1
    assert "val.json, sample 4: broken image" in capsys.readouterr().err
    assert main(["encode", "--check", str(checked / "train")]) == 1
    assert "is not an encoded data set" in capsys.readouterr().err
