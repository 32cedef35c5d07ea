"""Small files that make a decoder take gigabytes or minutes, or start a program, if it lets them."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

from PIL import Image

# A TIFF's tags and types, as far as they are needed.
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _SAMPLES = 256, 257, 258, 259, 262, 277
_TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS, _TILE_BYTES = 322, 323, 324, 325
_LONG, _DEFLATE, _GRAY = 4, 8, 1


def huge_webp(width: int = 10_000, height: int = 10_000) -> bytes:
    """A lossless WebP of 46 bytes, all of one color: every code of it has one symbol, and so no bits."""
    bits = [*_bits(0x2F, 8), *_bits(width - 1, 14), *_bits(height - 1, 14), 0, 0, 0, 0]  # no alpha, version 0
    bits += [0, 0, 0]  # no transform, no color cache, no meta codes
    bits += 5 * [1, 0, 0, 0]  # a simple code of one symbol, of one bit, 0
    data = b"".join(
        sum(bit << i for i, bit in enumerate(bits[at : at + 8])).to_bytes(1, "little") for at in range(0, len(bits), 8)
    )
    data = data.ljust(26, b"\0")
    chunk = b"VP8L" + struct.pack("<I", len(data)) + data
    return b"RIFF" + struct.pack("<I", 4 + len(chunk)) + b"WEBP" + chunk


def _bits(value: int, number: int) -> list[int]:
    return [value >> i & 1 for i in range(number)]


def tiff_of_huge_tiles(side: int = 46_320) -> bytes:
    """A gray TIFF of 64 x 64 pixels, which lie in the corner of one tile of that side."""
    tile = zlib.compress(bytes(4096))
    tags = {_WIDTH: 64, _HEIGHT: 64, _BITS: 8, _COMPRESSION: _DEFLATE, _PHOTOMETRIC: _GRAY, _SAMPLES: 1}
    tags |= {_TILE_WIDTH: side, _TILE_HEIGHT: side, _TILE_OFFSETS: 8, _TILE_BYTES: len(tile)}
    entries = b"".join(struct.pack("<HHII", tag, _LONG, 1, value) for tag, value in tags.items())
    directory = struct.pack("<H", len(tags)) + entries + bytes(4)
    return b"II*\0" + struct.pack("<I", 8 + len(tile)) + tile + directory


def jpeg_of_many_scans(scans: int = 16_000, side: int = 1024) -> bytes:
    """A progressive JPEG whose last scan comes again and again; a decoder goes over the whole image each time."""
    stream = io.BytesIO()
    Image.new("L", (side, side), 90).save(stream, "JPEG", progressive=True)
    content = stream.getvalue()
    last = content.rindex(b"\xff\xda")
    table = content.rfind(b"\xff\xc4", 0, last)  # its Huffman table
    return content[:-2] + content[table:-2] * scans + content[-2:]


def png(width: int, height: int, data: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of 8-bit RGB that says it is that large, with the compressed data and chunks before them."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", data), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in parts
    )


def huge_png(width: int = 60_000, height: int = 60_000) -> bytes:
    """A PNG of a kilobyte that says it has that many pixels."""
    return png(width, height, zlib.compress(bytes(1000)))


def text_bomb(kind: bytes = b"zTXt", megabytes: int = 500) -> bytes:
    """A small PNG with a text or a color profile that unpacks to so much."""
    packer = zlib.compressobj(9)
    packed = b"".join(packer.compress(bytes(2**20)) for _ in range(megabytes)) + packer.flush()
    return png(64, 64, zlib.compress(bytes(64 * 193)), (kind, b"a\0\0" + packed))


def gif_of_comments(megabytes: float = 10) -> bytes:
    """A GIF of a few pixels with that much comment, in blocks of a byte."""
    stream = io.BytesIO()
    Image.new("P", (64, 64)).save(stream, "GIF")
    content = stream.getvalue()
    image = content.index(b",")
    return content[:image] + b"!\xfe" + b"\1a" * int(megabytes * 2**19) + b"\0" + content[image:]


def eps_that_writes(file: Path) -> bytes:
    """An EPS that has Ghostscript write a file."""
    return (
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\n"
        + f"({file}) (w) file (here) writestring\nshowpage\n%%EOF\n".encode()
    )
