"""From bytes of the web to a clean JPEG: bounded, decoded whole, upright, RGB, resized, hashed.

Runs in the crawler's worker processes, so it imports nothing heavy.
"""

from __future__ import annotations

import hashlib
import math
import warnings
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image

from fastlt.data_prep.crawl import reasons
from fastlt.data_prep.crawl.cage import Cage
from fastlt.data_prep.crawl.options import ImageOptions
from fastlt.data_prep.perceptual.hash import perceptual_hash, shrink
from fastlt.dataset.images import UnsupportedColorsError, decode_pixels, decoded_at_once, open_image

_PIXELS_OF_A_BYTE = 1000  # at most; honest images have a tenth of it
_SILENT = ("WEBP", "AVIF")  # formats whose decoders, when memory is lacking, say only that they failed


class UnusableImageError(ValueError):
    """Bytes that give no image; the message is the reason that the catalog keeps."""


@dataclass(frozen=True)
class Prepared:
    """A clean image: its JPEG bytes and size, and what identifies the original."""

    jpeg: bytes
    width: int
    height: int
    sha256: bytes
    hash: int


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
    cv2.setNumThreads(1)  # there is a process for each core
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, about odd metadata
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
    try:
        image = open_image(data, max_pixels=None)  # our own limit has its own reason
    except Exception:  # Pillow's readers raise many kinds
        raise UnusableImageError("not an image") from None
    width, height = image.size
    if width * height > max_pixels:
        raise UnusableImageError(reasons.TOO_MANY_PIXELS)
    if decoded_at_once(image) > max_pixels:
        raise UnusableImageError(reasons.TOO_LARGE_TO_DECODE)
    if min(width, height) < options.min_side:
        raise UnusableImageError(reasons.TOO_SMALL)
    if cage:
        # A few bytes that promise a hundred megapixels are not worth twice the memory.
        cage.opened(width * height, image.format in _SILENT and len(data) * _PIXELS_OF_A_BYTE > width * height)
    if _is_animated(image):
        raise UnusableImageError("animated")
    scale = min(1.0, options.size / min(width, height)) if options.size else 1.0
    try:
        return decode_pixels(image, data, (math.ceil(width * scale), math.ceil(height * scale)))
    except UnsupportedColorsError:
        raise UnusableImageError("unsupported colors") from None
    except Exception as error:
        silent = cage and image.format in _SILENT and cage.may_lack_memory(width * height)
        too_large = silent or isinstance(error, MemoryError) or "out of memory" in str(error).lower()
        raise UnusableImageError(reasons.TOO_LARGE_TO_DECODE if too_large else "damaged image") from None
