"""Small pictures for the page, made here of whatever lies in shards and data sets: what a browser gets is a JPEG."""

from __future__ import annotations

import csv
import io
import threading
from collections.abc import Callable, Collection
from contextlib import suppress
from functools import partial
from pathlib import Path

from PIL import Image

from fastlt.data_prep.inputs.images import read_class_images
from fastlt.dataset.images import BrokenImageError, broken_if_it_fails, decode_image, read_image

_SIDE = 192  # pixels; sharp at twice the size on the page
_SMALL = 12_000  # bytes of a JPEG that is sent as it is
_OF_A_TARGET = 6


def thumbnail(place: tuple[Path, int, int]) -> bytes:
    """The image at (shard, offset, bytes) as a small JPEG.

    Raises:
        BrokenImageError: it cannot be read.
    """
    shard, offset, num_bytes = place
    with broken_if_it_fails(f"{shard}#{offset}"), shard.open("rb") as file:
        file.seek(offset)
        content = file.read(num_bytes)
        if len(content) <= _SMALL and content.startswith(b"\xff\xd8\xff"):
            return content
        return _jpeg(decode_image(content, longest=_SIDE))


def _jpeg(image: Image.Image) -> bytes:
    image.thumbnail((_SIDE, _SIDE))
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=80)
    return stream.getvalue()


class TargetPictures:
    """Pictures of the target classes, if it was said where they are; that is looked up when the first one is wanted.

    Args:
        source: class folders, a split file, or an encoded data set; None for nothing.
        root: the folder that the paths of a split file are relative to.
    """

    def __init__(self, source: Path | None, root: Path | None) -> None:
        self._source, self._root = source, root
        self._found: dict[str, list[Callable[[], Image.Image]]] | None = None
        self._lock = threading.Lock()
        self.why_not = "" if source else "no pictures of the targets: --train says where they are"

    def number(self, target: str) -> int:
        """How many there are of a target class."""
        return len(self._all().get(target, ()))

    def picture(self, target: str, number: int) -> bytes | None:
        """One of them as a JPEG; None where there is none that can be read."""
        readers = self._all().get(target, [])
        if not 0 <= number < len(readers):
            return None
        try:
            return _jpeg(readers[number]())
        except (BrokenImageError, OSError):
            return None

    def _all(self) -> dict[str, list[Callable[[], Image.Image]]]:
        with self._lock:
            if self._found is None:
                self._found = {}
                if self._source:
                    try:
                        self._found = self._read(self._source)
                    except (ValueError, OSError) as error:
                        self.why_not = f"no pictures of the targets: {error}"
            return self._found

    def _read(self, source: Path) -> dict[str, list[Callable[[], Image.Image]]]:
        if (source / "manifest.json").is_file():
            return _of_encoded(source)
        classes = read_class_images(source, "training images", self._root)
        return {
            name: [partial(read_image, image) for image in images[:_OF_A_TARGET]] for name, images in classes.items()
        }


def _of_encoded(folder: Path) -> dict[str, list[Callable[[], Image.Image]]]:
    from fastlt.dataset.encoded import EncodedDataset
    from fastlt.dataset.single_images import single_images

    data = EncodedDataset.open(folder)
    read = single_images(data, "train")
    found: dict[str, list[Callable[[], Image.Image]]] = {}
    start = 0
    for name, number in zip(data.label_space.names, data.split("train").counts, strict=False):
        found[name] = [partial(read, place) for place in range(start, start + min(number, _OF_A_TARGET))]
        start += number
    return {name: found[name] for name in data.label_space.target_names}


def repeated_by(report: Path, images: Collection[int]) -> dict[int, list[str]]:
    """{image: [what it repeats]} of those of which filter's table says so, by one reading of it."""
    found, wanted = {}, {str(image): image for image in images}
    with suppress(OSError, csv.Error, UnicodeDecodeError), report.open(newline="") as file:
        for row in csv.DictReader(file):
            image, like = wanted.get(row.get("image") or ""), row.get("like")
            if image is not None and like and (row.get("reason") or "").startswith("near-duplicate"):
                found[image] = [like]
    return found
