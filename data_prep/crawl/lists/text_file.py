"""The text in a file, packed or not, in whichever encoding it is."""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, cast

_PACKED = ((b"\x1f\x8b", gzip.open), (b"BZh", bz2.open), (b"\xfd7zXZ", lzma.open))
_NO_UTF_8 = re.compile(r"[\udc80-\udcff]")  # a byte that is left as it is
_MAX_LINE = 2**26  # characters; polygons and captions are long
_OLD = "not in UTF-8, read as Windows-1252"


def unpacked(file: Path) -> IO[bytes]:
    """The bytes of a file, without gzip, bzip2 or xz around them."""
    with file.open("rb") as stream:
        start = stream.read(8)
    for mark, opener in _PACKED:
        if start.startswith(mark):
            return cast(IO[bytes], opener(file, "rb"))
    return file.open("rb")


def suffixes(file: Path) -> set[str]:
    """All of a name's, in lower case."""
    return {suffix.lower() for suffix in file.suffixes}


def encoding_of(start: bytes) -> str:
    """By the first bytes of a text."""
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    for encoding, high in (("utf-16-le", start[1::2]), ("utf-16-be", start[::2])):  # without its mark
        if high.count(0) > len(high) / 3:
            return encoding
    return "utf-8-sig"


def text_lines(file: Path, encoding: str) -> IO[str]:
    """The lines of a file; bytes that are no UTF-8 are left as they are, for `as_unicode`."""
    lines = _Lines(unpacked(file), encoding=encoding, errors=_errors(encoding))
    lines.file = file
    return lines


class LongLineError(ValueError):
    """A line that does not end."""


class _Lines(io.TextIOWrapper):
    """A text whose lines end: one that does not, such as a gigabyte of zeros in a megabyte of gzip, is no list."""

    file: Path

    def __next__(self) -> str:  # type: ignore[override]  # typeshed takes it from IOBase
        line = self.readline(_MAX_LINE)
        if not line:
            raise StopIteration
        if len(line) == _MAX_LINE:
            raise LongLineError(f"{self.file} has a line of more than {_MAX_LINE:,} characters: it is no list.")
        return line


def decoded(content: bytes, encoding: str) -> str:
    """All of a text at once, as `text_lines` has it."""
    return content.decode(encoding, _errors(encoding))


def _errors(encoding: str) -> str:
    return "surrogateescape" if encoding == "utf-8-sig" else "replace"


def as_unicode(lines: Iterable[str], tell: Callable[[str, int], None]) -> Iterator[str]:
    """The lines; those that are no UTF-8, which `tell` counts, read as what they most often are: an old program's."""
    for number, line in enumerate(lines, 1):
        if line.isascii() or not _NO_UTF_8.search(line):
            yield line
            continue
        tell(_OLD, number)
        yield line.encode("utf-8", "surrogateescape").decode("utf-8", "windows-1252")


def _as_windows_1252(error: UnicodeError) -> tuple[str, int]:
    """What is no UTF-8 is most often somebody's name from an old program."""
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return error.object[error.start : error.end].decode("cp1252", "replace"), error.end


codecs.register_error("windows-1252", _as_windows_1252)
