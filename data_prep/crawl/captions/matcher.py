"""Finds names of categories in captions, many captions at a time.

A batch becomes one text in which every word has spaces around it. An Aho-Corasick automaton finds all names in it at
once; numpy then takes the longest where names overlap.
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
_WORDS = bytes(32 if byte in _SEPARATE + _JOIN or byte < 32 else byte for byte in range(256))
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
        singular = _words(pa.array([title for title, _ in owned], pa.string()))
        plural = _words(pa.array([_plural(title) for title, _ in owned], pa.string()))
        for texts in (singular, plural):
            for text, (_, category) in zip(texts.to_pylist(), owned, strict=True):
                if pattern := text.encode().translate(_WORDS).strip():
                    owners.setdefault(b" " + pattern + b" ", category)
        self._owners = np.array([*owners.values()], np.int64)
        self._automaton = ahocorasick_rs.BytesAhoCorasick([*owners]) if owners else None

    def find(self, captions: pa.StringArray) -> Found:
        """The captions [B] that name a category."""
        nothing = np.empty(0, np.int64)
        if self._automaton is None or not len(captions):
            return Found(nothing, nothing, 0)
        offsets, text = _text(_words(captions))
        words = text.translate(_WORDS)
        matches = self._automaton.find_matches_as_indexes(words, overlapping=True)
        found = np.fromiter(chain.from_iterable(matches), np.int64, 3 * len(matches)).reshape(-1, 3)  # [M, 3]
        pattern, start, end = found[np.lexsort((-found[:, 2], found[:, 1]))].T
        # A comma inside: two phrases.
        ends = np.concatenate([[0], np.cumsum(_ENDS[np.frombuffer(text, np.uint8)], dtype=np.int32)])
        whole = ends[end - 1] == ends[start + 1]
        pattern, start, end = pattern[whole], start[whole], end[whole]
        if not len(start):
            return Found(nothing, nothing, 0)
        before = np.concatenate([[0], np.maximum.accumulate(end)[:-1]])
        category = np.where(end > before, self._owners[pattern], _NOBODY)  # inside a longer one that began before
        start, category = start[category != _NOBODY], category[category != _NOBODY]
        rows = np.searchsorted(offsets, start, side="right") - 1
        first = np.unique(rows, return_index=True)[1]
        most = int(self._owners.max()) + 1
        pairs = np.unique(rows * most + category)  # a name may come twice
        several = np.unique(pairs // most, return_counts=True)[1] > 1
        return Found(rows[first], category[first], int(several.sum()))


def _words(texts: pa.StringArray) -> pa.StringArray:
    """The texts in small letters, with single spaces inside and one at each end."""
    texts = pc.utf8_lower(texts)
    if not pc.all(pc.string_is_ascii(texts)).as_py():
        texts = pc.replace_substring_regex(texts, _FOREIGN, " ")
    for often, once in ((". ", " "), ("  ", " "), ("  ", " ")):
        texts = pc.replace_substring(texts, often, once)
    return pc.binary_join_element_wise(" ", texts, " ", "")


def _text(texts: pa.StringArray) -> tuple[NDArray[np.int64], bytes]:
    """(where each begins [B], all of them as one)."""
    _, offsets, data = texts.buffers()
    at = np.frombuffer(offsets, np.int32)[texts.offset : texts.offset + len(texts) + 1].astype(np.int64)
    return at[:-1] - at[0], data[int(at[0]) : int(at[-1])].to_pybytes() if data else b""


def _plural(title: str) -> str:
    """English: foxes, cherries, otters."""
    title = title.strip()
    if title.endswith(("s", "x", "z", "ch", "sh")):
        return title + "es"
    if title.endswith("y") and title[-2:-1] not in ("", *"aeiou "):
        return title[:-1] + "ies"
    return title + "s"
