"""A WebDataset tar with the index that DALI's reader takes (`fn.readers.webdataset`, v1.2): written, read and checked.

A sample is `N.jpg` and `N.cls`.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import BinaryIO

import numpy as np

from fastlt.dataset.images import ImageName, in_tar
from fastlt.dataset.stored import Place, StoredImage
from fastlt.dataset.tar_members import TAR_END, append_member, member_bytes

SUFFIX = ".tar"
_INDEX_VERSION = "v1.2"
_IMAGE = re.compile(r"\w+ ([0-9]{1,18}) ([0-9]{1,18}) ")  # what a line begins with: extension, place, bytes


class Layout:
    """See `stored.Layout`. A record is the sample's line of the index."""

    start = 0

    def __init__(self, file: Path, images: Sequence[ImageName], labels: np.ndarray) -> None:
        del images
        self._index, self._labels = file.with_suffix(".idx"), labels

    def append(self, file: BinaryIO, end: int, index: int, image: StoredImage) -> tuple[str, int]:
        """See `stored.Layout`."""
        parts = []
        for extension, content in (("jpg", image.content), ("cls", str(self._labels[index]).encode())):
            name = f"{index:09d}.{extension}"
            end += append_member(file, name, content)
            parts.append(_entry(name, end, len(content)))
            end += member_bytes(content)
        return " ".join(parts), end

    def finish(self, file: BinaryIO, end: int, records: Iterable[str]) -> None:
        """See `stored.Layout`."""
        file.write(TAR_END)
        self._index.write_text(_index_text(list(records)))


def image_names(file: Path) -> list[str]:
    """What `read_image` calls each sample, from the index beside the tar.

    Raises:
        ValueError: the index is missing or is none, or names places that the tar does not have.
    """
    index = file.with_suffix(".idx")
    try:
        num_bytes = file.stat().st_size
        head, *samples = _index_of(index, num_bytes).splitlines()
        if head != f"{_INDEX_VERSION} {len(samples)}":
            raise ValueError(f"it begins with {head[:80]!r}")
        return [in_tar(file.absolute(), *_spot(sample, num_bytes)) for sample in samples]
    except (OSError, ValueError) as error:
        raise ValueError(f"{index} is not the index of {file.name}: {error}; encode again.") from None


def _index_of(index: Path, num_bytes: int) -> str:
    """The index of a tar of so many bytes; raises ValueError or OSError where it cannot be that."""
    if index.exists() and not index.is_file():
        raise ValueError("it is no file")
    if index.stat().st_size > num_bytes:  # a sample takes four blocks of a tar and a line of an index
        raise ValueError("it is larger than the tar")
    return index.read_text()


def _spot(sample: str, num_bytes: int) -> tuple[int, int]:
    """Place and size of the image of a line of the index; raises ValueError where a tar of so many bytes has none."""
    found = _IMAGE.match(sample)
    offset, size = map(int, found.groups()) if found else (0, 0)
    if not size or offset + size > num_bytes:
        raise ValueError(f"the tar has no place for {sample[:80]!r}")
    return offset, size


def places(file: Path, labels: np.ndarray) -> Iterator[Place | str]:
    """The images of a split's tar, and in words what contradicts the labels [N] of its manifest, or its index.

    Raises:
        Exception: of many kinds, where the tar is damaged.
    """
    samples = []
    try:
        with tarfile.open(file, "r:") as tar:
            for i, (image, cls) in enumerate(_pairs(tar)):
                called = f"{file}, sample {i}"
                content = tar.extractfile(cls)
                label = str(labels[i]).encode() if i < len(labels) else b""
                if content is None or (label and content.read(len(label) + 1) != label):
                    yield f"{called} ({cls.name}): its label is not {labels[i]}, as its manifest says"
                entries = [_entry(member.name, member.offset_data, member.size) for member in (image, cls)]
                samples.append(" ".join(entries))
                yield Place(called, in_tar(file, image.offset_data, image.size))
    finally:
        yield from _index_problems(file.with_suffix(".idx"), samples)
    if len(samples) != len(labels):
        yield f"{file} has {len(samples):,} samples, its manifest says {len(labels):,}"


def _pairs(tar: tarfile.TarFile) -> Iterator[tuple[tarfile.TarInfo, tarfile.TarInfo]]:
    members = iter(tar)
    for image in members:
        cls = next(members, None)
        if cls is None or (image.name[:-3], image.name[-3:], cls.name[-3:]) != (cls.name[:-3], "jpg", "cls"):
            raise ValueError(f"{image.name} has no label behind it")
        if odd := next((m.name for m in (image, cls) if m.type != tarfile.REGTYPE or m.sparse or m.size < 0), ""):
            raise ValueError(f"{odd} is no plain file")  # of a negative size, the next one would be this one again
        yield image, cls


def _index_problems(index: Path, samples: Sequence[str]) -> Iterator[str]:
    """What differs between the index and what the tar has."""
    expected = _index_text(samples).split("\n")
    try:
        found = _index_of(index, index.with_suffix(SUFFIX).stat().st_size).split("\n")
    except (OSError, ValueError) as error:
        yield f"{index} cannot be read: {error}"
        return
    for number, (ours, theirs) in enumerate(zip_longest(expected, found), 1):
        if ours != theirs:
            yield f"{index}:{number}: it says {theirs!r}, where the tar has {ours!r}"
            return


def _entry(name: str, offset: int, num_bytes: int) -> str:
    """What the index says of one file of a sample: extension, place and size of its bytes, name."""
    return f"{name.partition('.')[2]} {offset} {num_bytes} {name}"


def _index_text(samples: Sequence[str]) -> str:
    """The index, given the entries of each sample."""
    return "\n".join([f"{_INDEX_VERSION} {len(samples)}", *samples]) + "\n"
