"""Which images a person means by files, folders and lists of paths, one after the other and never all in memory."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import BinaryIO

from fastlt.dataset.folders import holds, is_hidden

STDIN = "-"
_LONGEST = 2**16  # bytes of a path in a list; what is longer is no list of paths


def image_names(words: Sequence[str], stdin: BinaryIO) -> Iterator[str]:
    """Every file that is meant, in order, whether or not it is an image: files, what lies below folders, and of "-"
    the paths on standard input, one a line.

    Folders are walked in the order of names, through links to folders too. Hidden files and what systems leave there
    are not meant.

    Raises:
        ValueError: what stands on standard input is no list of paths.
    """
    for word in words:
        if word != STDIN:
            yield from _below(word)
            continue
        while line := stdin.readline(_LONGEST):
            if b"\0" in line or len(line) == _LONGEST:
                raise ValueError(
                    "what is on standard input is no list of paths: give one a line, such as `find` prints."
                )
            if name := os.fsdecode(line.rstrip(b"\r\n")):
                yield from _below(name)


def _below(name: str) -> Iterator[str]:
    if os.path.isdir(name):
        yield from _walk(name, (os.path.realpath(name),))
    else:
        yield name


def _walk(folder: str, above: tuple[str, ...]) -> Iterator[str]:
    """The files below a folder; `above` has the true places of it and of all through which it was reached."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        yield folder  # whoever reads it tells why not
        return
    for entry in entries:
        if is_hidden(entry.name):
            continue
        # A link that leads nowhere, or back to itself, is no folder; `entry.is_dir` would raise.
        if not (os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir()):
            yield entry.path
            continue
        place = os.path.realpath(entry.path) if entry.is_symlink() else os.path.join(above[-1], entry.name)
        if not (entry.is_symlink() and any(holds(place, other) for other in above)):
            yield from _walk(entry.path, (*above, place))
