"""Files and folders that appear whole or not at all: temporary name, fsync, rename.

Temporary ones are made anew under their names: what others may have put there is not written through.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from errno import ENOSPC
from pathlib import Path

from fastlt.ownership import make_own

_FULL = re.compile(r"\(os error (?:28|122)\)|PytorchStreamWriter|inline_container\.cc.* unexpected pos ")


@contextmanager
def full_disk_told(path: Path) -> Iterator[None]:
    """Raises OSError, as files do, where torch or safetensors say in their own ways that a disk is full."""
    try:
        yield
    except Exception as error:
        if isinstance(error, OSError) or not _FULL.search(str(error)):
            raise
        raise OSError(ENOSPC, os.strerror(ENOSPC), str(path)) from error


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Yields a temporary path to write; on success it becomes `path`, on an exception it is removed."""
    temporary = path.with_name(f".{path.name}.partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    make_own(temporary)
    try:
        with full_disk_told(path):
            yield temporary
        publish_file(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def publish_file(temporary: Path, path: Path) -> None:
    """Flushes a file to the disk and renames it to `path`."""
    _fsync(temporary)
    temporary.rename(path)
    _fsync(path.parent)


def write_text(path: Path, text: str) -> None:
    """Replaces `path` with `text`."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Replaces `path` with `content`."""
    with new_file(path) as temporary:
        temporary.write_bytes(content)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yields an empty temporary folder; on success it becomes `path`, on an exception it is removed.

    Raises:
        ValueError: `path` exists already.
    """
    if path.exists():
        raise ValueError(f"{path} exists already: remove it or choose another name.")
    temporary = path.with_name(f".{path.name}.partial")
    empty_folder(temporary)
    try:
        with full_disk_told(path):
            yield temporary
        publish_folder(temporary, path)
    finally:
        if temporary.exists():
            shutil.rmtree(temporary)


def empty_folder(path: Path) -> None:
    """Makes a folder in place of what is there: one that a killed process left, or a link that somebody planted."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)
    path.mkdir(parents=True)


def publish_folder(temporary: Path, path: Path) -> None:
    """Flushes everything below `temporary` to the disk and renames it to `path`."""
    for folder, _, files in os.walk(temporary):
        for name in files:
            _fsync(Path(folder, name))
        _fsync(Path(folder))
    temporary.rename(path)
    _fsync(path.parent)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
