"""FFCV's file: header, fields, a row a sample, images, table of allocations; written, read and checked here.

The format is that of ffcv/types.py; that FFCV's reader and loader read our files, and we its, is tested. FFCV is not
imported: that takes three seconds, and leaves torch and numba with one thread. Its own writer has to begin anew when it
is killed, and waits forever for a process of its that died.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import BinaryIO

import numpy as np

from fastlt.dataset.images import ImageName
from fastlt.dataset.stored import Place, StoredImage

SUFFIX = ".beton"
VERSION = 2
JPEG, RAW = 0, 1  # modes of an image
_MIN_PAGE = 1 << 23  # bytes, as FFCV's writer has it

HEADER = np.dtype(
    [("version", "<u2"), ("num_fields", "<u2"), ("page_size", "<u4"), ("num_samples", "<u8"), ("alloc_table", "<u8")],
    align=True,
)
FIELD = np.dtype([("type_id", "u1"), ("name", "S16"), ("arguments", "u1", 1024)], align=True)
IMAGE = np.dtype([("mode", "u1"), ("width", "<u2"), ("height", "<u2"), ("data_ptr", "<u8")])
ROW = np.dtype([("image", IMAGE), ("label", "<i8")], align=True)
ALLOCATION = np.dtype([("sample_id", "<u8"), ("ptr", "<u8"), ("size", "<u8")])

FIELDS = np.array([(2, b"image", 0), (1, b"label", 0)], FIELD)
ROWS_START = HEADER.itemsize + FIELDS.nbytes


def read_tables(file: Path) -> tuple[np.ndarray, np.ndarray]:
    """(the rows, of ROW [N], and the allocations, of ALLOCATION [N]) of a file.

    Raises:
        ValueError: it is cut off, or is none that `fastlt encode` writes.
    """
    num_bytes = file.stat().st_size
    with file.open("rb") as stream:
        header = np.fromfile(stream, HEADER, 1)
        fields = np.fromfile(stream, FIELD, len(FIELDS))
        if len(fields) < len(FIELDS) or header["version"][0] != VERSION or (fields["name"] != FIELDS["name"]).any():
            raise ValueError(f"{file} has no header of an FFCV file with an image and a label: encode again.")
        number, table = (int(header[name][0]) for name in ("num_samples", "alloc_table"))
        if ROWS_START + number * ROW.itemsize > num_bytes or table + number * ALLOCATION.itemsize > num_bytes:
            raise ValueError(f"{file} is cut off: encode again.")  # before memory is taken for so many
        rows = np.fromfile(stream, ROW, number)
        stream.seek(table)
        allocations = np.fromfile(stream, ALLOCATION, number)
    return rows, allocations


def find_images(file: Path, rows: np.ndarray, allocations: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(bytes that each image takes, int64 [N], and whether its row says what can be, bool [N]).

    An image has a place of the table of allocations that ends before the file does, and pixels; raw ones fill it.
    """
    images, starts = rows["image"], allocations["ptr"]
    order = np.argsort(starts, kind="stable")  # fast on what is in order already
    at = order[np.minimum(np.searchsorted(starts, images["data_ptr"], sorter=order), len(order) - 1)]
    sizes, room = allocations["size"][at], np.uint64(file.stat().st_size)
    pixels = images["width"].astype(np.uint64) * images["height"]
    fits = (sizes <= room) & (starts[at] <= room - np.minimum(sizes, room))  # no sum, which could pass 64 bits
    is_raw = images["mode"] == RAW
    can_be = np.where(is_raw, sizes == 3 * pixels, (images["mode"] == JPEG) & (sizes > 0)) & (pixels > 0)
    return sizes.astype(np.int64), (starts[at] == images["data_ptr"]) & fits & can_be


class Layout:
    """See `stored.Layout`. A record is (index, mode, width, height, ptr, size).

    FFCV reads by pages of one size, a power of two, and no image may lie across a boundary of these. The size is known
    when the largest image is; so each image stays within a page of the size that it needs at least.
    """

    def __init__(self, file: Path, images: Sequence[ImageName], labels: np.ndarray) -> None:
        del file, images
        self._labels = labels
        self.start = ROWS_START + len(labels) * ROW.itemsize

    def append(self, file: BinaryIO, end: int, index: int, image: StoredImage) -> tuple[list[int], int]:
        """See `stored.Layout`."""
        size = len(image.content)
        page = _page_size(size)
        padding = -end % page if end // page != (end + size - 1) // page else 0
        file.write(bytes(padding))
        file.write(image.content)
        ptr = end + padding
        return [index, int(image.is_raw), image.width, image.height, ptr, size], ptr + size

    def finish(self, file: BinaryIO, end: int, records: Iterable[list[int]]) -> None:
        """See `stored.Layout`."""
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
    return max(_MIN_PAGE, 1 << (num_bytes - 1).bit_length())


def places(file: Path, labels: np.ndarray) -> Iterator[Place | str]:
    """The images of a split's file, and in words what contradicts the labels [N] of its manifest.

    Raises:
        ValueError: as `read_tables`.
    """
    rows, allocations = read_tables(file)
    if len(rows) != len(labels):
        yield f"{file} has {len(rows):,} samples, its manifest says {len(labels):,}"
        return
    sizes, whole = find_images(file, rows, allocations)
    for i, (image, label) in enumerate(rows.tolist()):
        mode, width, height, ptr = image
        called = f"{file}, sample {i}"
        if label != labels[i]:
            yield f"{called}: its label is {label}, its manifest says {labels[i]}"
        if whole[i]:
            yield Place(called, file, ptr, int(sizes[i]), mode == RAW, width, height)
        else:
            yield f"{called}: its table entry is damaged"
