"""Finds names of categories in captions, many captions at a time.

A batch becomes one text, in small letters and with single spaces. An Aho-Corasick automaton finds all names in it at
once; numpy then leaves out those with a comma or the end of a caption inside, and takes the longest that overlap.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

import ahocorasick_rs
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SEPARATE = b',;:|!?()[]{}<>"\n\r\t*='
"""Between these and the next word no name goes on."""
_JOIN = b"-_/'.&+#@%$^~`\\"
_FOREIGN = "[\u2010-\u201f\u2026\u00b7\u2022\u00a0]"  # dashes, quotes, dots
_WORDS = bytes(32 if byte in _SEPARATE + _JOIN or byte < 32 else byte for byte in bytes(range(256)).lower())
"""Of ASCII, small letters; between words, spaces."""
_ENDS = np.array([byte in _SEPARATE for byte in range(256)])
_NOBODY = -1


class Found(NamedTuple):
    """Captions that name a category: `rows` int64 [M], ascending, none twice, and the `categories` int64 [M].

    `several` of these name other categories too, of which the first in the text counts.
    """

    rows: NDArray[np.int64]
    categories: NDArray[np.int64]
    several: int


class TitleMatcher:
    """Names of categories, whole words in any case, singular or plural; a name inside a longer one does not count.

    Args:
        titles: {category: how it is called}.
        others: names that are of no category; what lies inside of them does not count either.
    """

    def __init__(self, titles: Mapping[int, Iterable[str]], others: Iterable[str] = ()) -> None:
        owned = [(title, category) for category, names in titles.items() for title in names]
        owned += [(title, _NOBODY) for title in others]
        owners: dict[bytes, int] = {}
        # What is said of one as it is comes before what is a plural of another.
        for names in ([title for title, _ in owned], [_plural(title) for title, _ in owned]):
            starts, text = _joined(pa.array(names, pa.string()))
            words = text.tobytes().translate(_WORDS)
            for start, end, (_, category) in zip(starts[:-1], starts[1:], owned, strict=True):
                if pattern := words[start:end].strip():
                    owners.setdefault(b" " + pattern + b" ", category)
        self._owners = np.array([*owners.values()], np.int64)
        self._automaton = ahocorasick_rs.BytesAhoCorasick([*owners]) if owners else None

    def find(self, captions: pa.StringArray) -> Found:
        """The captions [B] that name a category."""
        nothing = np.empty(0, np.int64)
        if self._automaton is None or not len(captions):
            return Found(nothing, nothing, 0)
        starts, text = _joined(captions)
        words = text.tobytes().translate(_WORDS)
        matches = self._automaton.find_matches_as_indexes(words, overlapping=True)
        found = np.fromiter(chain.from_iterable(matches), np.int64, 3 * len(matches)).reshape(-1, 3)  # [M, 3]
        found = found[_are_whole(text, found[:, 1], found[:, 2])]
        pattern, start, end = found[np.lexsort((-found[:, 2], found[:, 1]))].T
        if not len(start):
            return Found(nothing, nothing, 0)
        before = np.concatenate([[0], np.maximum.accumulate(end)[:-1]])
        category = np.where(end > before, self._owners[pattern], _NOBODY)  # inside a longer one that began before
        start, category = start[category != _NOBODY], category[category != _NOBODY]
        rows = np.searchsorted(starts, start, side="right") - 1
        first = np.unique(rows, return_index=True)[1]
        most = int(self._owners.max()) + 1
        pairs = np.unique(rows * most + category)  # a name may come twice
        several = np.unique(pairs // most, return_counts=True)[1] > 1
        return Found(rows[first], category[first], int(several.sum()))


def _joined(texts: pa.StringArray) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """(where each of B texts begins, and where the last ends [B + 1]; all of them, a line break before and after each).

    They have single spaces inside, no dot before one, and no capitals but those of ASCII.
    """
    foreign = pc.invert(pc.string_is_ascii(texts))
    if pc.any(foreign).as_py():
        small = pc.replace_substring_regex(pc.utf8_lower(texts.filter(foreign)), _FOREIGN, " ")
        texts = pc.replace_with_mask(texts, foreign, small)
    starts = np.concatenate([[0], np.cumsum(pc.binary_length(texts).to_numpy(False) + 1, dtype=np.int64)])
    (joined,) = pc.binary_join(pa.ListArray.from_arrays([0, len(texts)], texts), "\n")
    text = np.frombuffer(b"\n%b\n" % joined.as_buffer(), np.uint8)
    space = text == ord(" ")
    gone = (space | (text == ord(".")))[:-1] & space[1:]
    gone[:-1] |= space[:-2] & gone[1:]  # before such a dot
    at = np.flatnonzero(gone)
    return starts - np.searchsorted(at, starts), np.delete(text, at) if len(at) else text


def _are_whole(text: NDArray[np.uint8], start: NDArray[np.int64], end: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which of M parts of a text, without their first and last byte, have nothing inside that separates phrases [M]."""
    lengths = end - start - 2
    at = np.cumsum(lengths) - lengths
    inside = np.arange(lengths.sum()) + np.repeat(start + 1 - at, lengths)
    return ~np.logical_or.reduceat(_ENDS[text[inside]], at) if len(at) else np.ones(0, bool)


def _plural(title: str) -> str:
    """English: foxes, cherries, otters."""
    title = title.strip()
    if title.endswith(("s", "x", "z", "ch", "sh")):
        return title + "es"
    if title.endswith("y") and title[-2:-1] not in ("", *"aeiou "):
        return title[:-1] + "ies"
    return title + "s"
