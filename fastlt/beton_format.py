"""FFCV's file format, for images and their labels: header, fields, a row a sample, images, table of allocations.

As FFCV has it in ffcv/types.py; that its reader and ours agree is tested. It is not imported here: that takes three
seconds, and leaves torch and numba with one thread.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

VERSION = 2
JPEG, RAW = 0, 1  # modes of an image
LEAST_PAGE = 1 << 23  # bytes, as FFCV's writer has it

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
    with file.open("rb") as stream:
        header = np.fromfile(stream, HEADER, 1)
        fields = np.fromfile(stream, FIELD, len(FIELDS))
        if len(fields) < len(FIELDS) or header["version"][0] != VERSION or (fields["name"] != FIELDS["name"]).any():
            raise ValueError(f"{file} has no header of an FFCV file with an image and a label: encode again.")
        number = int(header["num_samples"][0])
        rows = np.fromfile(stream, ROW, number)
        stream.seek(int(header["alloc_table"][0]))
        allocations = np.fromfile(stream, ALLOCATION, number)
    if len(rows) < number or len(allocations) < number:
        raise ValueError(f"{file} is cut off: encode again.")
    return rows, allocations
