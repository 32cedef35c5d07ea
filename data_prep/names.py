"""Names of classes: how people say them, how label spaces have them, and when two mean the same class."""

from __future__ import annotations

import re
import unicodedata

_SIGNS = {"+": "plus", "#": "sharp", "&": "and", "%": "percent", "@": "at"}


def clean_title(text: str) -> str:
    """A name as people say it: no underscores, list marks, quotes or remarks in parentheses."""
    text = "".join(c if unicodedata.category(c)[0] != "C" else " " for c in text)
    text = re.sub(r"\([^()]*\)", " ", text.replace("_", " "))
    text = re.sub(r"^\s*(?:[-*\u2022]|\d+[.)])\s+", "", text)
    return " ".join(text.split()).strip(" \"'`*.,;:")


def normalized(title: str) -> str:
    """A title as a class name: lower case, no accents, words joined by underscores; empty without any letter.

    Signs that carry meaning become words, so that C, C++ and C# or A+ and A- stay apart.
    """
    title = re.sub(r"(?<=\w)-(?=\s*$)", " minus", title.replace("'", "").replace("\u2019", ""))
    decomposed = unicodedata.normalize("NFKD", "".join(_as_word(c) for c in title))
    # Latin accents only: other scripts write vowels with combining marks.
    plain = "".join(c for c in decomposed if not "\u0300" <= c <= "\u036f")
    plain = unicodedata.normalize("NFC", plain.casefold())
    return "_".join("".join(c if unicodedata.category(c)[0] in "LMN" else " " for c in plain).split())


def _as_word(c: str) -> str:
    """A sign by its name; what only separates words, and letters, as they are."""
    if c in _SIGNS:
        return f" {_SIGNS[c]} "
    if c in "\u00a9\u00ae\u2122\u00b0":  # copyright, registered, trade mark, degree
        return " "
    return f" {unicodedata.name(c, '')} " if unicodedata.category(c) in ("Sm", "Sc", "So") else c


def same_name_key(title: str) -> str:
    """Equal for titles that differ only in case, accents, spaces, hyphens, a first article or a plural ending."""
    joined = re.sub("^(?:a|an|the)_(?=.)", "", normalized(title)).replace("_", "")
    if joined.endswith("s") and not joined.endswith(("ss", "us", "is")):
        joined = joined[:-1]
    if joined.endswith("ie"):  # cherries, cookies
        return joined[:-2] + "y"
    return joined[:-1] if joined.endswith(("se", "xe", "ze", "che", "she")) else joined  # boxes, brushes


def all_keys(title: str) -> set[str]:
    """`same_name_key` of a title and of its parts: "tench, Tinca tinca", "tench (Tinca tinca)", "crane (bird)".

    One word in parentheses tells which crane it is, several are another name.
    """
    remarks = [remark for remark in re.findall(r"\(([^()]*)\)", title) if " " in remark.strip()]
    parts = [title, clean_title(title), *remarks, *title.split(",")]
    return {key for part in parts if (key := same_name_key(part))}
