"""The layout of an FFCV file: header, descriptions of the fields, a row a sample, images, table of allocations.

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

_LEAST_PAGE = 1 << 23  # bytes, as FFCV's writer has it


class BetonLayout:
    """Where everything of a split lies in `file`; see `Layout`. A record is (index, mode, width, height, ptr, size).

    FFCV reads by pages of one size, a power of two, and no image may lie across a boundary of these. The size is known
    when the largest image is; so each image stays within a page of the size that it needs at least.

    Raises:
        ValueError: FFCV is not installed.
    """

    def __init__(self, file: Path, images: Sequence[ImageName], labels: np.ndarray) -> None:
        del file, images
        require_ffcv()
        from ffcv.fields import IntField, RGBImageField
        from ffcv.types import FieldDescType, HeaderType, get_metadata_type

        self._labels = labels
        self._fields = {"image": RGBImageField(), "label": IntField()}
        self._row = get_metadata_type(list(self._fields.values()))
        self._rows_start = HeaderType.itemsize + len(self._fields) * FieldDescType.itemsize
        self.start = self._rows_start + len(labels) * self._row.itemsize

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
        from ffcv.types import ALLOC_TABLE_TYPE, CURRENT_VERSION, TYPE_ID_HANDLER, FieldDescType, HeaderType

        numbers = np.fromiter(chain.from_iterable(records), np.int64).reshape(-1, 6)
        index, mode, width, height, ptr, size = numbers.T
        allocations = np.zeros(len(numbers), ALLOC_TABLE_TYPE)
        allocations["sample_id"], allocations["ptr"], allocations["size"] = np.arange(len(numbers)), ptr, size
        file.write(allocations.tobytes())

        header = np.zeros(1, HeaderType)
        header["version"], header["num_fields"], header["num_samples"] = CURRENT_VERSION, 2, len(numbers)
        header["page_size"], header["alloc_table_ptr"] = _page_size(int(size.max())), end
        descriptions = np.zeros(len(self._fields), FieldDescType)
        type_ids = {handler: type_id for type_id, handler in TYPE_ID_HANDLER.items()}
        for description, (name, field) in zip(descriptions, self._fields.items(), strict=True):
            description["type_id"] = type_ids[type(field)]
            description["name"][: len(name)] = np.frombuffer(name.encode(), np.uint8)
        rows = np.zeros(len(self._labels), self._row)  # with room for the images that are left out
        images = rows["f0"][: len(numbers)]
        images["mode"], images["width"], images["height"], images["data_ptr"] = mode, width, height, ptr
        rows["f1"][: len(numbers)] = self._labels[index]
        file.seek(0)
        file.write(header.tobytes() + descriptions.tobytes() + rows.tobytes())


def _page_size(num_bytes: int) -> int:
    return max(_LEAST_PAGE, 1 << (num_bytes - 1).bit_length())


def require_ffcv() -> None:
    """Raises ValueError, with the way out, where FFCV cannot be imported."""
    try:
        import ffcv  # noqa: F401
    except ImportError as error:
        raise ValueError(
            f"FFCV is not usable ({error}): run `make install`, or encode with --format plain, which needs no FFCV."
        ) from None
