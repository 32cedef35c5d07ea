"""What an encode will take of time and disk, from a few dozen of its images."""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from fastlt.data_prep.encode.options import EncodeOptions
from fastlt.data_prep.encode.stored_image import stored_images
from fastlt.dataset.images import ImageName
from fastlt.dataset.stored import StoredImage
from fastlt.messages import in_bytes, in_time

_TRIED = 48
_EXTRA_BYTES = {"ffcv": 64, "webdataset": 2048}  # of an image: its rows in tables, or the heads of its two files


def announce(images: Sequence[ImageName], options: EncodeOptions, folder: Path, processes: int, cores: int) -> None:
    """Prints how long so many processes will take on so many cores, and how much of the disk that `folder` lies on.

    Raises:
        ValueError: they will not fit.
    """
    tried = random.Random(0).sample(images, min(_TRIED, len(images)))
    start = time.monotonic()
    found = [image for image in stored_images(tried, options) if isinstance(image, StoredImage)]
    seconds = (time.monotonic() - start) / max(len(tried), 1)
    took = in_time(seconds * len(images) / min(processes, cores))
    if options.format == "plain":
        print(f"about {took} on {processes} processes", flush=True)
        return
    extra = _EXTRA_BYTES[options.format]
    needed = len(images) * sum(len(image.content) + extra for image in found) / max(len(found), 1)
    free = shutil.disk_usage(folder).free
    sizes = f"about {in_bytes(needed)}, and {in_bytes(free)} are free on the disk of {folder.parent.absolute()}"
    if needed > free:
        raise ValueError(f"the {len(images):,} images take {sizes}: make room, or shrink them with --max-resolution.")
    print(f"{sizes}; about {took} on {processes} processes", flush=True)
