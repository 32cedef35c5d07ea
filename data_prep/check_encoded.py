"""Reads an encoded data set again, all of it, and says what is wrong and where."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

from fastlt.data_prep.indexed_tar import index_entry, index_text
from fastlt.data_prep.storage import ImageName, Storage
from PIL import Image

from fastlt.beton_format import JPEG, RAW, read_tables
from fastlt.encoded import EncodedDataset, Split
from fastlt.images import BrokenImageError, broken_if_it_fails, decode_image, in_tar, read_image
from fastlt.loader_workers import WORKERS, end_with_parent, start_server

_SHOWN = 20  # problems that are named
_CHUNK = 64


class _Place(NamedTuple):
    """A stored image: what people call it, and where its bytes are; a width where FFCV's rows tell its size."""

    called: str
    name: ImageName
    offset: int = 0
    num_bytes: int = 0
    is_raw: bool = False
    width: int = 0
    height: int = 0


def check_encoded(path: Path, workers: int = 0) -> int:
    """Checks sizes, checksums, indexes, labels, and that every image decodes whole; returns the number of images.

    Raises:
        ValueError: names what is wrong, by file and sample.
    """
    data = EncodedDataset.open(path.absolute())
    start_server("fastlt.data_prep.check_encoded")
    problems, num_images = [], 0
    with ProcessPoolExecutor(
        Storage(workers=workers).num_workers, WORKERS, initializer=end_with_parent, initargs=(0,)
    ) as pool:
        for name, split in data.splits.items():
            file = data.file(name)
            with file.open("rb") as stream:
                if hashlib.file_digest(stream, "sha256").hexdigest() != split.sha256:
                    problems.append(f"{file} does not have the sha256 of its manifest: bytes were changed")
            places: list[_Place] = []
            try:
                for found in _FINDERS[data.format](data, name, split):
                    if isinstance(found, str):
                        problems.append(found)
                    else:
                        places.append(found)
            except Exception as error:  # readers raise many kinds on damaged files
                problems.append(f"{file} cannot be read: {str(error).rstrip('.') or type(error).__name__}")
            chunks = [places[i : i + _CHUNK] for i in range(0, len(places), _CHUNK)]
            for broken in pool.map(partial(_broken, file), chunks):
                problems += broken
            num_images += sum(split.counts)
    if problems:
        more = f"\n  and {len(problems) - _SHOWN:,} more" if len(problems) > _SHOWN else ""
        listed = "\n  ".join(problems[:_SHOWN])
        raise ValueError(f"{path} is damaged, encode again:\n  {listed}{more}")
    return num_images


def _beton_places(data: EncodedDataset, name: str, split: Split) -> Iterator[_Place | str]:
    file = data.file(name)
    labels = split.labels()
    rows, allocations = read_tables(file)
    if len(rows) != len(labels):
        yield f"{file} has {len(rows):,} samples, its manifest says {len(labels):,}"
        return
    size_of = dict(zip(allocations["ptr"].tolist(), allocations["size"].tolist(), strict=True))
    for i, (image, label) in enumerate(rows.tolist()):
        mode, width, height, ptr = image
        called = f"{file}, sample {i}"
        if label != labels[i]:
            yield f"{called}: its label is {label}, its manifest says {labels[i]}"
        if ptr not in size_of or ptr + size_of[ptr] > split.num_bytes or mode not in (JPEG, RAW):
            yield f"{called}: its place or kind is none"
        else:
            yield _Place(called, file, ptr, size_of[ptr], mode == RAW, width, height)


def _tar_places(data: EncodedDataset, name: str, split: Split) -> Iterator[_Place | str]:
    file = data.file(name)
    labels, samples = split.labels().tolist(), []
    try:
        with tarfile.open(file, "r:") as tar:
            for i, (image, cls) in enumerate(_pairs(tar)):
                called = f"{file}, sample {i}"
                content = tar.extractfile(cls)
                if content is None or (i < len(labels) and content.read() != str(labels[i]).encode()):
                    yield f"{called} ({cls.name}): its label is not {labels[i]}, as its manifest says"
                entries = [index_entry(member.name, member.offset_data, member.size) for member in (image, cls)]
                samples.append(" ".join(entries))
                yield _Place(called, in_tar(file, image.offset_data, image.size))
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
        yield image, cls


def _index_problems(index: Path, samples: Sequence[str]) -> Iterator[str]:
    """What differs between DALI's index and what the tar has."""
    expected = index_text(samples).split("\n")
    try:
        found = index.read_text(errors="replace").split("\n")
    except OSError as error:
        yield f"{index} cannot be read: {error}"
        return
    for number, (ours, theirs) in enumerate(zip_longest(expected, found), 1):
        if ours != theirs:
            yield f"{index}:{number}: it says {theirs!r}, where the tar has {ours!r}"
            return


def _plain_places(data: EncodedDataset, name: str, split: Split) -> Iterator[_Place | str]:
    file, images = data.file(name), data.image_names(name)
    if len(images) != sum(split.counts):
        yield f"{file} has {len(images):,} images, its manifest says {sum(split.counts):,}"
    for i, image in enumerate(images):
        yield _Place(f"{file}, sample {i}", image)


_FINDERS = {"ffcv": _beton_places, "webdataset": _tar_places, "plain": _plain_places}


def _broken(file: Path, places: Sequence[_Place]) -> list[str]:
    """What is wrong with these images. Runs in worker processes."""
    problems = []
    for place in places:
        try:
            if place.width:
                _check_stored(file, place)
            else:
                read_image(place.name)
        except BrokenImageError as error:
            problems.append(f"{place.called}: {str(error).rstrip('.')}")
    return problems


def _check_stored(file: Path, place: _Place) -> None:
    with broken_if_it_fails(place.name), file.open("rb") as stream:
        stream.seek(place.offset)
        content = stream.read(place.num_bytes)
        size = place.width, place.height
        if place.is_raw:
            if len(content) != 3 * place.width * place.height:
                raise ValueError(f"{len(content):,} bytes are no {size[0]} x {size[1]} pixels")
            return
        with Image.open(io.BytesIO(content)) as image:
            if image.format != "JPEG" or image.size != size:
                raise ValueError(f"it is no JPEG of {size[0]} x {size[1]} pixels")
        decode_image(content)
