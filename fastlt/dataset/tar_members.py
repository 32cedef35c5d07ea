"""Appending files to an uncompressed tar, with places known."""

from __future__ import annotations

import tarfile
from typing import BinaryIO

TAR_END = bytes(2 * tarfile.BLOCKSIZE)


def append_member(tar: BinaryIO, name: str, content: bytes) -> int:
    """Writes one file of an uncompressed tar at the end of what is there; returns the number of bytes before it."""
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(content), 0o644
    head = info.tobuf(tarfile.USTAR_FORMAT)
    tar.write(head)
    tar.write(content)
    tar.write(bytes(-len(content) % tarfile.BLOCKSIZE))
    return len(head)


def member_bytes(content: bytes) -> int:
    """What `append_member` writes behind the head."""
    return len(content) + -len(content) % tarfile.BLOCKSIZE
