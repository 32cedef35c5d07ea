"""What every format has in common: the image as it is stored, and where it lies in the file of a split."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, BinaryIO, NamedTuple, Protocol

from fastlt.dataset.images import ImageName


class StoredImage(NamedTuple):
    """The bytes of one image: a JPEG, or RGB pixels [height, width, 3] if `is_raw`; none for an index of originals."""

    content: bytes
    is_raw: bool
    width: int
    height: int


class Place(NamedTuple):
    """A stored image, to be read again: what people call it, and where its bytes are.

    Attributes:
        called: file and sample, for people.
        name: the image as `read_image` takes it, or the file in which it lies from `offset` on.
        offset, num_bytes, is_raw, width, height: where the format's tables tell them (FFCV's); a width of 0 elsewhere.
    """

    called: str
    name: ImageName
    offset: int = 0
    num_bytes: int = 0
    is_raw: bool = False
    width: int = 0
    height: int = 0


class Layout(Protocol):
    """Where everything lies in the file of a split. A record is JSON.

    Attributes:
        start: bytes before the first image.
    """

    start: int

    def append(self, file: BinaryIO, end: int, index: int, image: StoredImage) -> tuple[Any, int]:
        """Writes the image of that index behind the `end` bytes that are there; returns its record and the new end."""
        ...

    def finish(self, file: BinaryIO, end: int, records: Iterable[Any]) -> None:
        """Writes all that is not images, given the records of the whole split."""
        ...
