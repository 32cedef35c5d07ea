"""Lists of photos and observations that are left out, by number or UUID."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from fastlt.messages import one_line

_ID = re.compile(
    r"(?:https?://\S+/photos/)?(\d+)(?:[/?]\S*)?|(?:https?://\S+/)?([0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12})"
)
_OF_AN_OBSERVATION = re.compile(r"https?://\S+/observations/\d+")


def read_excluded(files: Iterable[Path]) -> frozenset[str]:
    """The ids in text files, one on a line: numbers of photos, UUIDs of photos or observations, or pages of these.

    Raises:
        ValueError: a line is something else.
    """
    found = set()
    for file in files:
        try:
            with file.open(encoding="utf-8-sig") as lines:
                for number, line in enumerate(lines, 1):
                    if text := line.strip().lower():
                        found.add(_id(text, f"line {number:,} of {file}"))
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"{file} cannot be read: {one_line(error)}.") from None
    return frozenset(found)


def _id(text: str, where: str) -> str:
    if _OF_AN_OBSERVATION.match(text):
        raise ValueError(
            f"{where} is an observation's number, which the dump does not have: give its UUID, or its photos' numbers."
        )
    match = _ID.fullmatch(text)
    if not match:
        raise ValueError(
            f"{where} is {one_line(text)!r}: give a photo's number, or the UUID of a photo or observation."
        )
    return match[1] or match[2]
