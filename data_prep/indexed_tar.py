"""The layout of a WebDataset tar, with the index that DALI's reader takes (`fn.readers.webdataset`, index v1.2)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
from fastlt.data_prep.storage import ImageName
from fastlt.data_prep.stored_image import StoredImage
from fastlt.data_prep.tar_members import TAR_END, append_member, member_bytes

INDEX_VERSION = "v1.2"


class TarLayout:
    """A sample is `N.jpg` and `N.cls`; see `Layout`. A record is the sample's line of the index."""

    start = 0

    def __init__(self, file: Path, images: Sequence[ImageName], labels: np.ndarray) -> None:
        del images
        self._index, self._labels = file.with_suffix(".idx"), labels

    def append(self, file: BinaryIO, end: int, index: int, image: StoredImage) -> tuple[str, int]:
        """See `Layout`."""
        parts = []
        for extension, content in (("jpg", image.content), ("cls", str(self._labels[index]).encode())):
            name = f"{index:09d}.{extension}"
            end += append_member(file, name, content)
            parts.append(index_entry(name, end, len(content)))
            end += member_bytes(content)
        return " ".join(parts), end

    def finish(self, file: BinaryIO, end: int, records: Iterable[str]) -> None:
        """See `Layout`."""
        file.write(TAR_END)
        self._index.write_text(index_text(list(records)))


def index_entry(name: str, offset: int, num_bytes: int) -> str:
    """What the index says of one file of a sample: extension, place and size of its bytes, name."""
    return f"{name.partition('.')[2]} {offset} {num_bytes} {name}"


def index_text(samples: Sequence[str]) -> str:
    """The index, given the entries of each sample."""
    return "\n".join([f"{INDEX_VERSION} {len(samples)}", *samples]) + "\n"
