"""From an image to the bytes that are stored of it. Runs in worker processes, so it imports nothing heavy."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from fastlt.data_prep.encode.options import SMART_BYTES, EncodeOptions
from fastlt.dataset.images import (
    BrokenImageError,
    ImageName,
    TooLargeError,
    broken_if_it_fails,
    decode_image,
    decode_jpeg,
    is_upright,
    open_image,
    read_bytes,
)
from fastlt.dataset.stored import StoredImage

# Sampling factors of (luma, chroma, chroma) that TurboJPEG, FFCV's decoder, has a name for: 4:4:4, 4:2:2, 4:2:0, 4:4:0.
_SAMPLINGS = [[(w, h), (1, 1), (1, 1)] for w, h in ((1, 1), (2, 1), (2, 2), (1, 2))]
_LARGE = 500_000  # bytes; hardly any image of smaller files is too large, and headers of all would take minutes


def too_large_images(names: Sequence[ImageName], max_pixels: int) -> list[str]:
    """Which images have more pixels than that, and how many, by the headers of large files alone."""
    found = []
    for name in names:
        try:
            if os.stat(name).st_size > _LARGE:
                open_image(Path(name), max_pixels).close()
        except TooLargeError as error:
            found.append(f"{name}: {error}")
        except Exception:  # a place in a tar, or a broken image, which is told when it is read
            continue
    return found


def stored_images(names: Sequence[ImageName], options: EncodeOptions) -> list[StoredImage | str]:
    """What is stored of each image, or the sentence that says why it is broken."""
    found: list[StoredImage | str] = []
    for name in names:
        try:
            found.append(stored_image(name, options))
        except BrokenImageError as error:
            found.append(str(error))
    return found


def stored_image(name: ImageName, options: EncodeOptions) -> StoredImage:
    """What is stored of an image, which is decoded whole in any case.

    A JPEG that is upright, of three components, baseline (progressive ones decode slowly) and small enough is copied,
    if libjpeg has nothing to say against it: where Pillow goes on after a warning, the loaders do not.

    Raises:
        BrokenImageError: the image cannot be read whole, or has no place in the format.
    """
    with broken_if_it_fails(name):
        original = read_bytes(name)
        if options.format != "plain" and options.mode != "raw" and (copied := _as_it_is(original, options)):
            return copied
        image = decode_image(original, options.max_resolution, options.max_pixels)
        width, height = image.size
        if options.format == "plain":
            return StoredImage(b"", False, width, height)
        if max(width, height) > 65500:  # libjpeg's limit; FFCV's is hardly higher
            raise ValueError(f"it has {width} x {height} pixels, too many for a side: use --max-resolution")
        is_small = 3 * width * height <= SMART_BYTES
        if options.mode == "raw" or (options.mode == "smart" and is_small):
            return StoredImage(image.tobytes(), True, width, height)
        stream = io.BytesIO()
        image.info.clear()  # or Pillow would write the color profile, which nobody reads
        image.save(stream, "JPEG", quality=options.quality)
        return StoredImage(stream.getvalue(), False, width, height)


def _as_it_is(content: bytes, options: EncodeOptions) -> StoredImage | None:
    """The file itself, where it can be stored so."""
    with open_image(content, options.max_pixels) as image:
        width, height = image.size
        as_it_is = (
            image.format == "JPEG"
            and image.mode == "RGB"
            and not image.info.get("progressive")
            and [(w, h) for _, w, h, _ in getattr(image, "layer", [])] in _SAMPLINGS
            and is_upright(image)
            and max(image.size) <= (options.max_resolution or max(image.size))
            and not (options.mode == "smart" and 3 * width * height <= SMART_BYTES)
        )
    if as_it_is:
        with suppress(ValueError):
            decode_jpeg(content)  # raises where libjpeg warns
            return StoredImage(content, False, width, height)
    return None
