"""The layout of a plain split: nothing but the names of the original images."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
from fastlt.data_prep.storage import ImageName
from fastlt.data_prep.stored_image import StoredImage


class PlainLayout:
    """A JSON list of image names; see `Layout`. A record is the image's index."""

    start = 0

    def __init__(self, file: Path, images: Sequence[ImageName], labels: np.ndarray) -> None:
        del file, labels
        self._images = images

    def append(self, file: BinaryIO, end: int, index: int, image: StoredImage) -> tuple[int, int]:
        """See `Layout`."""
        del file, image
        return index, end

    def finish(self, file: BinaryIO, end: int, records: Iterable[int]) -> None:
        """See `Layout`."""
        file.write(json.dumps([str(self._images[index]) for index in records]).encode())
