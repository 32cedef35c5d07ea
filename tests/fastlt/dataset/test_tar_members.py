"""Heads of files in tars are those that tarfile writes, whatever the name and size."""

import io
import tarfile

import pytest

from fastlt.dataset.tar_members import TAR_END, append_member

NAMES = ["a", "000000001.jpg", "some/folder/x.json", "a" * 100, "b" * 99 + "/" + "c" * 60, "Ährenmaus.jpg"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [0, 1, 511, 512, 70_000])
def test_as_tarfile_writes_it(name, size):
    content, ours, theirs = bytes(i % 251 for i in range(size)), io.BytesIO(), io.BytesIO()
    before = append_member(ours, name, content)
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o644
    with tarfile.open(fileobj=theirs, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        tar.addfile(info, io.BytesIO(content))
    assert ours.getvalue() + TAR_END == theirs.getvalue()[: len(ours.getvalue()) + len(TAR_END)]
    assert ours.getvalue()[before : before + size] == content
