"""Reads an encoded data set again, all of it, and says what is wrong and where."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from fastlt.data_prep.encode.options import EncodeOptions
from fastlt.dataset.encoded import FORMATS, EncodedDataset
from fastlt.dataset.images import BrokenImageError, broken_if_it_fails, decode_image, open_image, read_image
from fastlt.dataset.stored import Place
from fastlt.loaders.workers import process_pool

_SHOWN = 20  # problems that are named
_CHUNK = 64


def check_encoded(path: Path, workers: int = 0) -> int:
    """Checks sizes, checksums, indexes, labels, and that every image decodes whole; returns the number of images.

    Raises:
        ValueError: names what is wrong, by file and sample.
    """
    data = EncodedDataset.open(path.absolute())
    problems, num_images = [], 0
    with process_pool("fastlt.data_prep.encode.check", EncodeOptions(workers=workers).num_workers) as pool:
        for name, split in data.splits.items():
            file = data.file(name)
            with file.open("rb") as stream:
                if hashlib.file_digest(stream, "sha256").hexdigest() != split.sha256:
                    problems.append(f"{file} does not have the sha256 of its manifest: bytes were changed")
            places: list[Place] = []
            try:
                for found in FORMATS[data.format].places(file, split.labels()):
                    if isinstance(found, str):
                        problems.append(found)
                    else:
                        places.append(found)
            except Exception as error:  # readers raise many kinds on damaged files
                problems.append(f"{file} cannot be read: {str(error).rstrip('.') or type(error).__name__}")
            chunks = [places[i : i + _CHUNK] for i in range(0, len(places), _CHUNK)]
            for broken in pool.map(partial(_broken, file, data.max_pixels), chunks):
                problems += broken
            num_images += sum(split.counts)
    if problems:
        more = f"\n  and {len(problems) - _SHOWN:,} more" if len(problems) > _SHOWN else ""
        listed = "\n  ".join(problems[:_SHOWN])
        raise ValueError(f"{path} is damaged, encode again:\n  {listed}{more}")
    return num_images


def _broken(file: Path, max_pixels: int, places: Sequence[Place]) -> list[str]:
    """What is wrong with these images. Runs in worker processes."""
    problems = []
    for place in places:
        try:
            if place.width:
                _check_stored(file, max_pixels, place)
            else:
                read_image(place.name, max_pixels)
        except BrokenImageError as error:
            problems.append(f"{place.called}: {str(error).rstrip('.')}")
    return problems


def _check_stored(file: Path, max_pixels: int, place: Place) -> None:
    with broken_if_it_fails(place.name), file.open("rb") as stream:
        stream.seek(place.offset)
        content = stream.read(place.num_bytes)
        size = place.width, place.height
        if place.is_raw:
            if len(content) != 3 * place.width * place.height:
                raise ValueError(f"{len(content):,} bytes are not {size[0]} x {size[1]} pixels")
            return
        with open_image(content, max_pixels) as image:
            if image.format != "JPEG" or image.size != size:
                raise ValueError(f"it is not a JPEG of {size[0]} x {size[1]} pixels")
        decode_image(content, max_pixels=max_pixels)
