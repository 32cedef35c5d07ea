"""Whose files are whose, and files of ours in folders that others write to too: opened as files, through no link."""

from __future__ import annotations

import errno
import os
import pwd
import stat
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, BinaryIO, Literal, TextIO, overload


def stranger(path: Path) -> str:
    """The owner of a file or folder that is neither ours nor root's; "" where it is."""
    owner = path.lstat().st_uid
    if owner in (0, os.geteuid()) or owner == _our_number(path if path.is_dir() else path.parent):
        return ""
    with suppress(KeyError):
        return pwd.getpwuid(owner).pw_name
    return f"user {owner}"


def _our_number(folder: Path) -> int:
    """As whom the file system of a folder knows us: those of networks map users."""
    try:
        with tempfile.TemporaryFile(dir=folder) as made:
            return os.fstat(made.fileno()).st_uid
    except OSError:
        return os.geteuid()


def others_can_write(folder: Path) -> bool:
    """Whether anybody else may put files into a folder, or has made it."""
    if stranger(folder):
        return True
    return bool(folder.stat().st_mode & stat.S_IWOTH)


@overload
def open_own(path: Path, mode: Literal["r+b", "ab"]) -> BinaryIO: ...


@overload
def open_own(path: Path, mode: Literal["a", "a+"]) -> TextIO: ...


def open_own(path: Path, mode: str) -> IO[Any]:
    """`open` of a file of ours, made where it is missing; never of what a link there points to.

    Raises:
        ValueError: there is a link, a folder, a pipe.
    """
    return open(path, mode, opener=_own)


def make_own(path: Path) -> None:
    """An empty file, in place of what is there: a file that a killed process left, or a link that somebody planted."""
    path.unlink(missing_ok=True)
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666))


def _own(path: str, flags: int) -> int:
    no_file = f"{path} is no file, where fastlt keeps one of its own: see who put it there, and remove it."
    try:
        # A pipe that nobody reads would be waited for.
        descriptor = os.open(path, flags | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
            raise ValueError(no_file) from None
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ValueError(no_file)
    return descriptor
