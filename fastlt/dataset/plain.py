"""A plain split: a JSON list of the names of the original images; written, read and checked."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from fastlt.dataset.images import ImageName
from fastlt.dataset.stored import Place, StoredImage
from fastlt.foreign import load_json

SUFFIX = ".json"


class Layout:
    """See `stored.Layout`. A record is the image's index."""

    start = 0

    def __init__(self, file: Path, images: Sequence[ImageName], labels: np.ndarray) -> None:
        del file, labels
        self._images = images

    def append(self, file: BinaryIO, end: int, index: int, image: StoredImage) -> tuple[int, int]:
        """See `stored.Layout`."""
        del file, image
        return index, end

    def finish(self, file: BinaryIO, end: int, records: Iterable[int]) -> None:
        """See `stored.Layout`."""
        file.write(json.dumps([str(self._images[index]) for index in records]).encode())


def image_names(file: Path) -> list[str]:
    """What `read_image` calls each sample.

    Raises:
        ValueError: it is no JSON list of names.
    """
    try:
        names = load_json(file)
    except ValueError as error:
        raise ValueError(f"{file} is damaged, encode again: {error}.") from None
    if not isinstance(names, list) or not all(isinstance(name, str) and "\0" not in name for name in names):
        raise ValueError(f"{file} is damaged, encode again: it is no list of names of images.")
    return names


def places(file: Path, labels: np.ndarray) -> Iterator[Place | str]:
    """The images of a split, and in words what contradicts the labels [N] of its manifest.

    Raises:
        ValueError: as `image_names`.
    """
    images = image_names(file)
    if len(images) != len(labels):
        yield f"{file} has {len(images):,} images, its manifest says {len(labels):,}"
    for i, image in enumerate(images):
        yield Place(f"{file}, sample {i}", image)
