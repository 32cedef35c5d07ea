"""From bytes of the web to a clean JPEG: bounded, decoded whole, upright, RGB, resized, hashed.

Runs in the crawler's worker processes, so it imports nothing heavy.
"""

from __future__ import annotations

import hashlib
import math
from contextlib import suppress

import cv2
import numpy as np
from PIL import Image

from fastlt.data_prep.crawl import reasons
from fastlt.data_prep.crawl.cage import Cage
from fastlt.data_prep.crawl.image_options import ImageOptions
from fastlt.data_prep.crawl.prepared import Prepared, UnusableImageError
from fastlt.data_prep.perceptual.hash import perceptual_hash, shrink
from fastlt.dataset.images import (
    UnsupportedColorsError,
    decode_jpeg,
    decode_pixels,
    decoded_at_once,
    open_image,
    plain_jpeg_size,
)

_PIXELS_OF_A_BYTE = 1000  # at most; honest images have a tenth of it
_SILENT = ("WEBP", "AVIF")  # formats whose decoders, when memory is lacking, say only that they failed


def prepare(data: bytes, options: ImageOptions, max_pixels: int, cage: Cage | None = None) -> Prepared:
    """Decodes the whole image and makes the JPEG that is kept.

    Args:
        data: the file.
        options: what becomes of it.
        max_pixels: width x height above which an image is dropped undecoded.
        cage: what this process is in, if it is.

    Raises:
        UnusableImageError: the bytes are no image, are damaged, too large, too small or animated.
    """
    pixels = shrink(_decode(data, options, max_pixels, cage), options.size)
    coded, jpeg = cv2.imencode(
        ".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, options.quality]
    )
    if not coded:
        raise UnusableImageError("cannot be written as JPEG")
    height, width = pixels.shape[:2]
    return Prepared(jpeg.tobytes(), width, height, hashlib.sha256(data).digest(), perceptual_hash(pixels))


def _is_animated(image: Image.Image) -> bool:
    if image.format not in ("GIF", "PNG", "WEBP"):  # JPEG: several views
        return False
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception:  # GIF looks for a second picture
        raise UnusableImageError("damaged image") from None


def _decode(data: bytes, options: ImageOptions, max_pixels: int, cage: Cage | None) -> np.ndarray:
    """RGB pixels, uint8 [H, W, 3], at most a power of two too large."""
    plain = plain_jpeg_size(data)
    if plain:  # most of what there is
        at_least = _wanted(plain, plain[0] * plain[1], options, max_pixels)
        if cage:
            cage.opened(plain[0] * plain[1])
        if min(plain[0] // at_least[0], plain[1] // at_least[1]) < 2:
            with suppress(ValueError):  # Pillow forgives damage that does no harm
                return decode_jpeg(data)
    try:
        image = open_image(data, max_pixels=None)  # our own limit has its own reason
    except Exception:  # Pillow's readers raise many kinds
        raise UnusableImageError("not an image") from None
    width, height = image.size
    at_least = _wanted(image.size, decoded_at_once(image), options, max_pixels)
    if cage and not plain:
        # A few bytes that promise a hundred megapixels are not worth twice the memory.
        cage.opened(width * height, image.format in _SILENT and len(data) * _PIXELS_OF_A_BYTE > width * height)
    if _is_animated(image):
        raise UnusableImageError("animated")
    try:
        return decode_pixels(image, data, at_least)
    except UnsupportedColorsError:
        raise UnusableImageError("unsupported colors") from None
    except Exception as error:
        silent = cage and image.format in _SILENT and cage.may_lack_memory(width * height)
        too_large = silent or isinstance(error, MemoryError) or "out of memory" in str(error).lower()
        raise UnusableImageError(reasons.TOO_LARGE_TO_DECODE if too_large else "damaged image") from None


def _wanted(size: tuple[int, int], at_once: int, options: ImageOptions, max_pixels: int) -> tuple[int, int]:
    """Width and height that an image of such a size has to have when it is decoded, at least.

    Raises:
        UnusableImageError: it is too large, as are the pixels that are decoded at once, or too small.
    """
    width, height = size
    if width * height > max_pixels:
        raise UnusableImageError(reasons.TOO_MANY_PIXELS)
    if at_once > max_pixels:
        raise UnusableImageError(reasons.TOO_LARGE_TO_DECODE)
    if min(width, height) < options.min_side:
        raise UnusableImageError(reasons.TOO_SMALL)
    scale = min(1.0, options.size / min(width, height)) if options.size else 1.0
    return math.ceil(width * scale), math.ceil(height * scale)
