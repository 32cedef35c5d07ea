"""Single images of a split, as they are stored, for people to look at."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image

from fastlt.dataset import beton
from fastlt.dataset.encoded import EncodedDataset
from fastlt.dataset.images import broken_if_it_fails, decode_image, read_image


def single_images(data: EncodedDataset, split: str) -> Callable[[int], Image.Image]:
    """What reads the image at a place in the split's order, in RGB; it raises BrokenImageError where that cannot be.

    Raises:
        ValueError, OSError: the split's tables or its index cannot be read.
    """
    file = data.file(split)
    if data.format != "ffcv":
        names = data.image_names(split)
        return lambda place: read_image(names[place], data.max_pixels)
    rows, allocations = beton.read_tables(file)
    if len(rows) != sum(data.split(split).counts):
        raise ValueError(f"{file} has {len(rows):,} samples, its manifest says otherwise: encode again.")
    sizes, whole = beton.find_images(file, rows, allocations)

    def read(place: int) -> Image.Image:
        image = rows["image"][place]
        with broken_if_it_fails(f"{file}, sample {place}"), file.open("rb") as stream:
            if not whole[place]:
                raise ValueError("its table entry is damaged")
            stream.seek(int(image["data_ptr"]))
            content = stream.read(int(sizes[place]))
            if image["mode"] == beton.RAW:
                return Image.fromarray(np.frombuffer(content, np.uint8).reshape(image["height"], image["width"], 3))
            return decode_image(content, max_pixels=data.max_pixels)

    return read
