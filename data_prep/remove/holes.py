"""Overwriting samples of a shard where they lie: all others stay at their places, which catalogs and data sets know.

A sample's files become one, `removed/KEY`, of zeros. It has no extension, so that readers of WebDataset pass over it,
and the tar stays whole.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from fastlt.ownership import open_own

_BLOCK = tarfile.BLOCKSIZE
_FOLDER = "removed/"
_PIECE = bytes(1 << 20)


def erase_samples(shard: Path, offsets: Sequence[int]) -> None:
    """Overwrites samples; those that are overwritten already, in part or whole, once more.

    Args:
        shard: an uncompressed tar.
        offsets: of the bytes of each sample's first file.

    Raises:
        ValueError: the shard is missing, or has no sample there.
    """
    if not shard.is_file():
        raise ValueError(f"the shard {shard} is missing: it moves together with its catalog.")
    before = shard.stat()
    with open_own(shard, "r+b") as file:
        for offset in offsets:
            try:
                _erase(file, offset - _BLOCK)
            except tarfile.HeaderError as error:
                raise ValueError(f"{shard} is damaged: it has no image at byte {offset:,} ({error}).") from None
        file.flush()
        os.fsync(file.fileno())
    os.utime(shard, ns=(before.st_atime_ns, before.st_mtime_ns))  # it still says when its images were fetched


def _erase(file: BinaryIO, start: int) -> None:
    name, end = _file_at(file, start)
    if not name.startswith(_FOLDER):
        key, name = name.partition(".")[0], f"{_FOLDER}{name.partition('.')[0]}"
        last = os.fstat(file.fileno()).st_size
        while end < last:
            try:
                other, next_end = _file_at(file, end)
            except tarfile.HeaderError:  # the end of the tar, or of what was committed of it
                break
            if other.partition(".")[0] != key:
                break
            end = next_end
    info = tarfile.TarInfo(name)
    info.size, info.mode = end - start - _BLOCK, 0o644
    # The head first: from then on the tar has one file here, whatever of it is zero.
    file.seek(start)
    file.write(info.tobuf(tarfile.USTAR_FORMAT))
    file.flush()
    left = info.size
    while left:
        left -= file.write(_PIECE[:left])


def _file_at(file: BinaryIO, start: int) -> tuple[str, int]:
    """Name of the file whose head begins there, and where the next one does."""
    file.seek(start)
    info = tarfile.TarInfo.frombuf(file.read(_BLOCK), "utf-8", "surrogateescape")
    if info.type != tarfile.REGTYPE or info.size < 0:
        raise tarfile.HeaderError("what lies there is no plain file")
    return info.name, start + _BLOCK + info.size + -info.size % _BLOCK
