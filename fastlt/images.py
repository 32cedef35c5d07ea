"""Reading one image the same way everywhere: upright, RGB, complete, or an error that names it.

An image is named by its path, or by `SHARD.tar#OFFSET+BYTES` where it lies inside an uncompressed tar.
"""

from __future__ import annotations

import io
import re
from pathlib import Path

from PIL import Image, ImageOps

EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm"})
_IN_TAR = re.compile(r"(.+\.tar)#(\d+)\+(\d+)")


class BrokenImageError(ValueError):
    """An image that cannot be read whole."""


def in_tar(shard: Path, offset: int, num_bytes: int) -> str:
    """The name of an image inside a tar."""
    return f"{shard}#{offset}+{num_bytes}"


def read_bytes(name: Path | str) -> bytes:
    """The file that an image is named by, as it lies on disk.

    Raises:
        OSError: it is not there.
    """
    inside = _IN_TAR.fullmatch(str(name))
    if not inside:
        return Path(name).read_bytes()
    with open(inside[1], "rb") as shard:
        shard.seek(int(inside[2]))
        return shard.read(int(inside[3]))


def read_image(name: Path | str) -> Image.Image:
    """The fully decoded image in RGB, rotated as its EXIF orientation says.

    Raises:
        BrokenImageError: the image is missing, truncated, too large or no image.
    """
    try:
        with Image.open(io.BytesIO(read_bytes(name))) as image:
            return ImageOps.exif_transpose(image).convert("RGB")
    # Pillow's decoders raise many kinds on damaged bytes (SyntaxError, struct.error, ...): all mean the same here.
    except Exception as error:
        reason = re.sub(r"<_io.BytesIO[^>]*>", "the file", str(error)).replace(str(name), "the file").rstrip(".")
        raise BrokenImageError(f"broken image {name}: {reason or type(error).__name__}.") from None
