"""Reading one image file the same way everywhere: upright, RGB, complete, or an error that names it."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageOps

EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm"})


class BrokenImageError(ValueError):
    """An image file that cannot be read whole."""


def read_image(path: Path | str) -> Image.Image:
    """The fully decoded image in RGB, rotated as its EXIF orientation says.

    Raises:
        BrokenImageError: the file is missing, truncated, too large or no image.
    """
    try:
        with Image.open(path) as image:
            return ImageOps.exif_transpose(image).convert("RGB")
    # Pillow's decoders raise many kinds on damaged bytes (SyntaxError, struct.error, ...): all mean the same here.
    except Exception as error:
        reason = str(error).replace(str(path), "the file").rstrip(".") or type(error).__name__
        raise BrokenImageError(f"broken image {path}: {reason}.") from None
