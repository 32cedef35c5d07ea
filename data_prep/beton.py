"""The writing of an FFCV file, image by image.

FFCV's own writer has to begin anew when it is killed, and waits forever for a process of its that died.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import BinaryIO

import numpy as np
from fastlt.data_prep.storage import ImageName
from fastlt.data_prep.stored_image import StoredImage

from fastlt.beton_format import ALLOCATION, FIELDS, HEADER, LEAST_PAGE, ROW, ROWS_START, VERSION


class BetonLayout:
    """Where everything of a split lies in `file`; see `Layout`. A record is (index, mode, width, height, ptr, size).

    FFCV reads by pages of one size, a power of two, and no image may lie across a boundary of these. The size is known
    when the largest image is; so each image stays within a page of the size that it needs at least.
    """

    def __init__(self, file: Path, images: Sequence[ImageName], labels: np.ndarray) -> None:
        del file, images
        self._labels = labels
        self.start = ROWS_START + len(labels) * ROW.itemsize

    def append(self, file: BinaryIO, end: int, index: int, image: StoredImage) -> tuple[list[int], int]:
        """See `Layout`."""
        size = len(image.content)
        page = _page_size(size)
        padding = -end % page if end // page != (end + size - 1) // page else 0
        file.write(bytes(padding))
        file.write(image.content)
        ptr = end + padding
        return [index, int(image.is_raw), image.width, image.height, ptr, size], ptr + size

    def finish(self, file: BinaryIO, end: int, records: Iterable[list[int]]) -> None:
        """See `Layout`."""
        numbers = np.fromiter(chain.from_iterable(records), np.int64).reshape(-1, 6)
        index, mode, width, height, ptr, size = numbers.T
        allocations = np.zeros(len(numbers), ALLOCATION)
        allocations["sample_id"], allocations["ptr"], allocations["size"] = np.arange(len(numbers)), ptr, size
        file.write(allocations.tobytes())

        header = np.array([(VERSION, len(FIELDS), _page_size(int(size.max())), len(numbers), end)], HEADER)
        rows = np.zeros(len(self._labels), ROW)  # with room for the images that are left out
        images = rows["image"][: len(numbers)]
        images["mode"], images["width"], images["height"], images["data_ptr"] = mode, width, height, ptr
        rows["label"][: len(numbers)] = self._labels[index]
        file.seek(0)
        file.write(header.tobytes() + FIELDS.tobytes() + rows.tobytes())


def _page_size(num_bytes: int) -> int:
    return max(LEAST_PAGE, 1 << (num_bytes - 1).bit_length())
