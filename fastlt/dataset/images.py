"""The one decoder: any image file to upright 8-bit RGB, whole, or an error that names it.

Crawler, filter, encoder and loaders all read images here, so that a picture means the same to each of them. An image
is named by its path, or by `SHARD.tar#OFFSET+BYTES` where it lies inside an uncompressed tar.

What a file holds becomes RGB thus:

| in the file | becomes |
| --- | --- |
| 8-bit gray, 1 bit, palette | Pillow's RGB |
| 16-bit gray (PNG, TIFF, PPM) | scaled, so that white stays white |
| gray of 32 bits or floats | refused: it has no white that all agree on |
| 16-bit color | its upper 8 bits, as Pillow reads it |
| transparent: RGBA, LA, PA, a transparent color | laid on white |
| CMYK, YCbCr | converted without a color profile, as Pillow does |
| LAB | refused, as Pillow does not convert it |
| EXIF orientation | turned and mirrored upright |
| several frames | the first one |

Only the formats of `FORMATS` are opened, whatever a file is called.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import simplejpeg
from PIL import Image, ImageOps, features

ImageName = Path | str
"""What `read_image` reads: a path, or a place inside a tar."""
_EXTENSIONS_OF = {  # Pillow's names of formats; what their files are called
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".mpo"),
    "PNG": (".png", ".apng"),
    "WEBP": (".webp",),
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "AVIF": (".avif", ".avifs"),
}
FORMATS = tuple(name for name in _EXTENSIONS_OF if name != "AVIF" or features.check("avif"))
EXTENSIONS = frozenset(extension for name in FORMATS for extension in _EXTENSIONS_OF[name])
_ORIENTATION = 274  # EXIF tag
_JPEG_BEGINS, _SCANS = b"\xff\xd8", b"\xda"
_MOST_SEGMENTS = 100  # of a JPEG that is told without Pillow
_NOT_PLAIN = (b"Exif", b"Orientation", b"MPF\0")  # what may turn it (the second in XMP), and several pictures
_TILE_SIDES = (322, 323)  # TIFF tags
_AT_ONCE = 2**23  # pixels that are made RGB at once, so that no large image is in memory four times
_IN_TAR = re.compile(r"(.+\.tar)#(\d+)\+(\d+)")

MAX_PIXELS = 179_000_000  # width x height, where nobody says otherwise: what Pillow refuses as a bomb
# Pillow's own limit cannot be told to let one file pass: `open_image` has ours.
Image.MAX_IMAGE_PIXELS = None


class BrokenImageError(ValueError):
    """An image that cannot be read whole."""


class TooLargeError(ValueError):
    """More pixels than are allowed."""


class UnsupportedColorsError(ValueError):
    """Colors that do not say which RGB they mean."""


def in_tar(shard: Path, offset: int, num_bytes: int) -> str:
    """The name of an image inside a tar."""
    return f"{shard}#{offset}+{num_bytes}"


def file_of(name: ImageName) -> Path:
    """The file that an image is, or lies in."""
    inside = _IN_TAR.fullmatch(str(name))
    return Path(inside[1] if inside else name)


def read_bytes(name: ImageName) -> bytes:
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


def read_image(name: ImageName, max_pixels: int | None = MAX_PIXELS) -> Image.Image:
    """The whole image of that name in RGB, upright.

    Args:
        name: of a file, or of an image inside a tar.
        max_pixels: see `open_image`.

    Raises:
        BrokenImageError: the image is missing, truncated or no image.
    """
    with broken_if_it_fails(name):
        return decode_image(read_bytes(name), max_pixels=max_pixels)


def read_pixels(name: ImageName) -> np.ndarray:
    """As `read_image`: uint8 [H, W, 3], which may be read-only.

    Raises:
        BrokenImageError: as `read_image`.
    """
    with broken_if_it_fails(name):
        content = read_bytes(name)
        with open_image(content) as opened:
            return decode_pixels(opened, content)


def decode_image(content: bytes, longest: int | None = None, max_pixels: int | None = MAX_PIXELS) -> Image.Image:
    """As `read_image`, from the bytes of the file, shrunk to `longest` pixels on its longer side where it is larger.

    Raises:
        TooLargeError: as `open_image`.
        Exception: of many kinds, Pillow's; see `broken_if_it_fails`.
    """
    with open_image(content, max_pixels) as opened:
        if opened.format == "JPEG" and longest and longest < max(opened.size):
            _shrink(opened, longest)  # first, because a JPEG decodes to a half, a quarter or an eighth for less
            _make_upright(opened)
            image = _rgb(opened, opened.format)
        else:
            image = Image.fromarray(decode_pixels(opened, content))
        _shrink(image, longest)
        return image


def open_image(content: bytes | Path, max_pixels: int | None = MAX_PIXELS) -> Image.Image:
    """The image with format, size and mode, its pixels not yet decoded.

    Args:
        content: the file, or its bytes.
        max_pixels: width x height above which it is refused, before it can fill the memory; None allows all.

    Raises:
        TooLargeError: it has more pixels than that.
        Exception: of many kinds, Pillow's, where it is none of `FORMATS`.
    """
    image = Image.open(io.BytesIO(content) if isinstance(content, bytes) else content, formats=FORMATS)
    num_pixels = decoded_at_once(image)
    if max_pixels and num_pixels > max_pixels:
        image.close()
        width, height = image.size
        what = "" if num_pixels == width * height else " in tiles that are larger"
        raise TooLargeError(
            f"it has {num_pixels / 1e6:,.1f} megapixels ({width:,} x {height:,}{what}), more than the "
            f"{max_pixels / 1e6:g} that encode's --max-megapixels allows"
        )
    return image


def decoded_at_once(opened: Image.Image) -> int:
    """The pixels that a decoder makes of an image at once: all of it, or a tile of a TIFF, which may be larger."""
    width, height = opened.size
    tags = getattr(opened, "tag_v2", {}) if opened.format == "TIFF" else {}
    sides = [tags.get(tag, 0) for tag in _TILE_SIDES]
    return max(width * height, math.prod(sides)) if all(isinstance(side, int) for side in sides) else width * height


def is_image(file: Path) -> bool:
    """Whether a file begins as one of `FORMATS` does, whatever it is called."""
    with suppress(Exception), open_image(file, max_pixels=None):
        return True
    return False


def decode_pixels(opened: Image.Image, content: bytes, at_least: tuple[int, int] | None = None) -> np.ndarray:
    """All of an opened image, upright, as RGB pixels uint8 [H, W, 3].

    Args:
        opened: by `open_image`, and not decoded yet.
        content: the same file.
        at_least: width and height; a JPEG may come smaller than it is, but not than this.

    Raises:
        UnsupportedColorsError: gray of 32 bits.
        Exception: of many kinds, Pillow's, where it is damaged.
    """
    if opened.format == "JPEG":
        size = opened.size
        if at_least:  # to a half, a quarter or an eighth, for less; every byte is still read
            opened.draft(None, at_least)
        if opened.mode == "RGB" and opened.size == size and is_upright(opened):
            # In three quarters of the time; Pillow forgives damage that does no harm.
            with suppress(ValueError):
                return decode_jpeg(content)
    _make_upright(opened)
    width, height = opened.size
    rows = max(_AT_ONCE // width, 1)
    if rows >= height:
        return np.asarray(_rgb(opened, opened.format))
    pixels = np.empty((height, width, 3), np.uint8)
    for top in range(0, height, rows):
        strip = opened.crop((0, top, width, min(top + rows, height)))
        pixels[top : top + rows] = np.asarray(_rgb(strip, opened.format))
    return pixels


def plain_jpeg_size(content: bytes) -> tuple[int, int] | None:
    """Width and height of a JPEG that `decode_jpeg` alone makes what it has to be, if it is sound; None of all others.

    It says so without Pillow, which takes as long to open a small JPEG as it takes to decode it.
    """
    head = content[: _before_scans(content)]
    if not head or any(word in head for word in _NOT_PLAIN):
        return None
    try:
        height, width, colors, _ = simplejpeg.decode_jpeg_header(content)
    except ValueError:
        return None
    return (width, height) if colors == "YCbCr" else None


def _before_scans(content: bytes) -> int:
    """How many bytes of a JPEG come before its pixels; 0 of what is not one segment after the other from the start."""
    at = len(_JPEG_BEGINS) if content.startswith(_JPEG_BEGINS) else len(content)
    for _ in range(_MOST_SEGMENTS):
        if content[at : at + 1] != b"\xff":
            break
        if content[at + 1 : at + 2] == _SCANS:
            return at
        at += 2 + int.from_bytes(content[at + 2 : at + 4], "big")
    return 0


def decode_jpeg(content: bytes | np.ndarray) -> np.ndarray:
    """All of a JPEG as RGB, uint8 [H, W, 3], as it is stored: the pixels that Pillow finds, in less time.

    Raises:
        ValueError: it is damaged in any way.
    """
    return simplejpeg.decode_jpeg(content, fastdct=False, fastupsample=False, strict=True)


def is_upright(opened: Image.Image) -> bool:
    """Whether an image is shown as it is stored, by its EXIF."""
    return opened.getexif().get(_ORIENTATION, 1) == 1


@contextmanager
def broken_if_it_fails(name: ImageName) -> Iterator[None]:
    """Turns whatever fails inside into a BrokenImageError about the image of that name."""
    try:
        yield
    # Pillow's decoders raise many kinds on damaged bytes (SyntaxError, struct.error, ...): all mean the same here.
    except Exception as error:
        reason = re.sub(r"<_io.BytesIO[^>]*>", "the file", str(error)).replace(str(name), "the file").rstrip(".")
        raise BrokenImageError(f"broken image {name}: {reason or type(error).__name__}.") from None


def _make_upright(opened: Image.Image) -> None:
    opened.load()
    ImageOps.exif_transpose(opened, in_place=True)


def _shrink(image: Image.Image, longest: int | None) -> None:
    if longest:
        image.thumbnail((longest, longest), Image.Resampling.BICUBIC)  # antialiased, and never enlarges


def _rgb(image: Image.Image, format: str | None) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    # Pillow opens 16-bit gray as "I;16" of either byte order, but a PPM's, scaled to 16 bits, as "I".
    if image.mode.startswith("I;16") or (image.mode == "I" and format == "PPM"):
        pixels = np.asarray(image).astype(np.uint32)
        return Image.fromarray(((pixels * 255 + 32767) // 65535).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise UnsupportedColorsError("32-bit gray has no white that all agree on: save it with 8 or 16 bits")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")
