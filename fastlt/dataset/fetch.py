"""A file of a store, brought to a disk: it has its name once its checksum is right, and is `.FILE.part` until then.

Who is killed goes on where it was.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from fastlt.atomic import publish_file
from fastlt.dataset.object_store import BLOCK, ObjectStore
from fastlt.dataset.transfer import Transfer
from fastlt.ownership import open_own


def part_of(path: Path) -> Path:
    """Where a file lies until it is whole."""
    return path.with_name(f".{path.name}.part")


def fetch(store: ObjectStore, path: Path, num_bytes: int, sha256: str, transfer: Transfer) -> None:
    """Brings the file of that name into its folder.

    Args:
        store: has it.
        path: to make.
        num_bytes: of it.
        sha256: in hex; "" where nobody knows.
        transfer: is told what comes.

    Raises:
        ValueError: the store cannot be read, or the checksum is another.
        OSError: the disk is full, or fails otherwise.
    """
    part, digest = part_of(path), hashlib.sha256()
    with open_own(part, "r+b") as stream:
        there = min(stream.seek(0, os.SEEK_END), num_bytes)
        stream.truncate(there)
        stream.seek(0)
        while block := stream.read(BLOCK):
            digest.update(block)
        for block in store.blocks(path.name, there, num_bytes):
            stream.write(block)
            digest.update(block)
            transfer.add(len(block))
    if sha256 and digest.hexdigest() != sha256:
        part.unlink()
        if there:  # a machine that lost its power may leave anything in it
            transfer.add(-num_bytes)
            fetch(store, path, num_bytes, sha256, transfer)
            return
        raise ValueError(
            f"{store.url}/{path.name} has other bytes than its checksum says: it was changed, or damaged on its way. "
            "Try again; if that stays so, remove it there and upload it again."
        )
    publish_file(part, path)
