"""From bytes of the web to a clean JPEG: sniffed, bounded, decoded whole, upright, RGB, resized, hashed.

Runs in the crawler's worker processes, so it imports nothing heavy.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import math
import warnings
from dataclasses import dataclass

import cv2
import numpy as np
import simplejpeg
from PIL import Image, ImageOps

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
_ORIENTATION = 274  # EXIF tag
cv2.setNumThreads(1)  # there is a process for each core
Image.MAX_IMAGE_PIXELS = None  # our own limit is checked before anything is decoded


class UnusableImageError(ValueError):
    """Bytes that give no image; the message is the reason that the catalog keeps."""


@dataclass(frozen=True)
class PixelOptions:
    """What becomes of an image.

    Attributes:
        size: shorter side in pixels above which an image is shrunk; None keeps every size.
        quality: JPEG quality, 1..100.
        max_pixels: width x height above which an image is dropped undecoded.
        min_side: shorter side in pixels below which an image is dropped.
    """

    size: int | None = 256
    quality: int = 90
    max_pixels: int = 100_000_000
    min_side: int = 32

    def __post_init__(self) -> None:
        if not 1 <= self.quality <= 100:
            raise ValueError(f"JPEG quality is {self.quality}; it must lie in 1..100.")
        if self.size is not None and self.size < 1:
            raise ValueError(f"the shorter side is {self.size} px; give at least 1, or 0 to keep every size.")


@dataclass(frozen=True)
class Prepared:
    """A clean image: its JPEG bytes and size, and what identifies the original."""

    jpeg: bytes
    width: int
    height: int
    sha256: bytes
    hash: int


def prepare(data: bytes, options: PixelOptions) -> Prepared:
    """Decodes the whole image and makes the JPEG that is kept.

    Raises:
        UnusableImageError: the bytes are no image of `FORMATS`, are damaged, too large, too small or animated.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, about odd metadata
        pixels = _shrink(_decode(data, options), options.size)
    coded, jpeg = cv2.imencode(
        ".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, options.quality]
    )
    if not coded:
        raise UnusableImageError("cannot be written as JPEG")
    height, width = pixels.shape[:2]
    return Prepared(jpeg.tobytes(), width, height, hashlib.sha256(data).digest(), perceptual_hash(pixels))


def perceptual_hash(pixels: np.ndarray) -> int:
    """The "pHash" of an RGB or gray image, uint8 [H, W, 3] or [H, W], as a signed 64-bit integer (SQLite's kind).

    Signs of the 64 lowest frequencies of a 32 x 32 gray image relative to their median
    (Zauner, Implementation and Benchmarking of Perceptual Image Hash Functions, 2010).
    """
    gray = _shrink(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY) if pixels.ndim == 3 else pixels, 128)
    # By way of 128 px: area averaging is fast where it is by a whole number.
    small = cv2.resize(cv2.resize(gray, (128, 128)), (32, 32), interpolation=cv2.INTER_AREA)
    waves = cv2.dct(small.astype(np.float32))[:8, :8]
    bits = waves > np.median(waves)
    return int(np.packbits(bits).view(">i8")[0])


def _decode(data: bytes, options: PixelOptions) -> np.ndarray:
    """RGB pixels, uint8 [H, W, 3], at most a power of two too large."""
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Exception:  # Pillow's readers raise many kinds
        raise UnusableImageError("not an image") from None
    width, height = image.size
    if width * height > options.max_pixels:
        raise UnusableImageError("too many pixels")
    if min(width, height) < options.min_side:
        raise UnusableImageError("too small")
    if image.format in ("GIF", "PNG", "WEBP") and getattr(image, "is_animated", False):  # JPEG: several views
        raise UnusableImageError("animated")
    try:
        upright = image.getexif().get(_ORIENTATION, 1) == 1
        if image.format == "JPEG":
            scale = min(1.0, options.size / min(width, height)) if options.size else 1.0
            # JPEG decodes to a half, a quarter or an eighth for free; every byte is still read.
            image.draft(None, (math.ceil(width * scale), math.ceil(height * scale)))
            if upright and image.mode == "RGB" and image.size == (width, height):
                with contextlib.suppress(ValueError):  # strict, where Pillow forgives what does no harm
                    return simplejpeg.decode_jpeg(data, strict=True)
        return np.asarray(_rgb(image if upright else ImageOps.exif_transpose(image)))
    except Exception as error:
        raise UnusableImageError("out of memory" if isinstance(error, MemoryError) else "damaged image") from None


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I;16", "I;16B", "I;16L", "I"):  # Pillow would clip 16 bits to 8
        return Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        ground = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(ground, image).convert("RGB")
    return image.convert("RGB")


def _shrink(pixels: np.ndarray, size: int | None) -> np.ndarray:
    """Shorter side to `size`, never enlarged: whole-number area averaging, then bilinear by less than a half.

    Fractional area averaging takes eight times as long; against a Lanczos filter this is within 1.3 dB of it.
    """
    height, width = pixels.shape[:2]
    if not size or min(height, width) <= size:
        return pixels
    scale = size / min(height, width)
    new = (round(width * scale), round(height * scale))
    factor = int(1 / scale)
    if factor > 1:
        height, width = height // factor * factor, width // factor * factor
        between = (width // factor, height // factor)
        pixels = cv2.resize(pixels[:height, :width], between, interpolation=cv2.INTER_AREA)
    return pixels if pixels.shape[:2] == new[::-1] else cv2.resize(pixels, new, interpolation=cv2.INTER_LINEAR)
