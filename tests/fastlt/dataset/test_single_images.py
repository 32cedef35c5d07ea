"""Single images of a split: the same in every format, and one that is damaged is named."""

import numpy as np
import pytest

from fastlt.dataset.encoded import EncodedDataset
from fastlt.dataset.images import BrokenImageError
from fastlt.dataset.single_images import single_images

pytestmark = pytest.mark.medium


@pytest.mark.parametrize("options", [["--mode", "raw"], ["--mode", "jpg"], ["--format", "webdataset"]])
def test_those_of_every_format_are_those_of_the_files(workshop, tmp_path, monkeypatch, options):
    monkeypatch.chdir(workshop.folder)
    done = workshop.encode(str(tmp_path / "set"), *options)
    assert done.returncode == 0, done.stderr
    data, files = EncodedDataset.open(tmp_path / "set"), EncodedDataset.open(workshop.folder / "plain")
    read, expected = (single_images(of, "val") for of in (data, files))
    for place in (0, 17, sum(data.split("val").counts) - 1):
        assert np.array_equal(np.asarray(read(place)), np.asarray(expected(place)))


def test_a_damaged_one_is_named(workshop, tmp_path):
    done = workshop.encode(str(tmp_path / "set"), "--mode", "jpg")
    assert done.returncode == 0, done.stderr
    data = EncodedDataset.open(tmp_path / "set")
    content = bytearray(data.file("val").read_bytes())
    at = content.index(b"\xff\xd8\xff")
    content[at : at + 3] = bytes(3)
    data.file("val").write_bytes(content)
    read = single_images(data, "val")
    with pytest.raises(BrokenImageError, match=r"val.beton, sample 0: "):
        read(0)
    assert read(1).mode == "RGB"
