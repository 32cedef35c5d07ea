"""Names of classes: how people say them, how label spaces have them, and when two mean the same class."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence, Set

from fastlt.foreign import require_class_name

_PLAIN = re.compile("[A-Za-z0-9_ ]*")
_SIGNS = {"+": "plus", "#": "sharp", "&": "and", "%": "percent", "@": "at"}


def clean_title(text: str) -> str:
    """A name as people say it: no underscores, list marks, quotes or remarks in parentheses."""
    if not text.isprintable():
        text = "".join(c if unicodedata.category(c)[0] != "C" else " " for c in text)
    text = re.sub(r"\([^()]*\)", " ", text.replace("_", " "))
    text = re.sub(r"^\s*(?:[-*\u2022]|\d+[.)])\s+", "", text)
    return " ".join(text.split()).strip(" \"'`*.,;:")


def normalized(title: str) -> str:
    """A title as a class name: lower case, no accents, words joined by underscores; empty without any letter.

    Signs that carry meaning become words, so that C, C++ and C# or A+ and A- stay apart.
    """
    if _PLAIN.fullmatch(title):  # as scientific names are, of which there are many
        return "_".join(title.lower().replace("_", " ").split())
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
    if c in "\u00a9\u00ae\u2122\u00b0\u00d7":  # copyright, registered, trade mark, degree; of hybrids
        return " "
    return f" {unicodedata.name(c, '')} " if unicodedata.category(c) in ("Sm", "Sc", "So") else c


def same_name_key(title: str) -> str:
    """Equal for titles that differ only in case, accents, spaces, hyphens, a first article or a plural ending.

    A hybrid's cross may be a letter: Acer × freemanii, Acer x freemanii.
    """
    joined = re.sub("^(?:a|an|the)_(?=.)", "", normalized(title.replace(" x ", " "))).replace("_", "")
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


def class_name(name: str, where: str) -> str:
    """A class's name as label spaces have it: in the one form (NFC) of those in which Unicode writes the same letters.

    Args:
        name: as a folder or a file has it.
        where: the folder or file, for messages.

    Raises:
        ValueError: the name is no text: a folder's that is not UTF-8, or half a character of a JSON file; or it has
            control characters.
    """
    if any("\ud800" <= c <= "\udfff" for c in name):
        shown = name.encode(errors="backslashreplace").decode()
        raise ValueError(
            f"{where} has a class '{shown}' whose name is not UTF-8: rename it; "
            "`convmv -f latin1 -t utf8 -r --notest FOLDER` renames all below a folder."
        )
    try:
        require_class_name(name)
    except ValueError as error:
        raise ValueError(f"{where}: {error}: rename it.") from None
    return unicodedata.normalize("NFC", name)


_KINGDOMS = frozenset({"Animalia", "Archaea", "Bacteria", "Chromista", "Fungi", "Plantae", "Protozoa", "Viruses"})
_WNID = r"n\d{8}"
_NUMBER = r"(\d+)[-_. ]+(?=[^\W\d_])"


def plain_names(names: Sequence[str]) -> list[str]:
    """The names without what data sets write before them: numbers, WordNet's ids, the ranks above a species.

    001.Black_footed_Albatross, n02085620-Chihuahua, 00000_Animalia_..._Lumbricus_terrestris. A number that could
    belong to the name (8_ball, 12_gauge_shotgun) goes only where all the names are numbered.
    """
    numbers = sorted(int(found[1]) for name in names if (found := re.match(_NUMBER, name)))
    are_numbered = len(names) > 1 and numbers in (list(range(len(names))), list(range(1, len(names) + 1)))
    return [_plain_name(re.sub(f"^{_NUMBER}", "", name) if are_numbered else name) for name in names]


def _plain_name(name: str) -> str:
    text = re.sub(rf"^{_WNID}[-_. ]+(?=\w)|(?<=\w)[-_. ]+{_WNID}$", "", name)
    text = re.sub(r"^(?:\d+\.|0\d+[-_ ])\s*(?=[^\W\d_])", "", text)
    ranks = text.split("_")
    return "_".join(ranks[5:]) if len(ranks) > 6 and ranks[0] in _KINGDOMS else text


def names_by_folder(folders: Set[tuple[int, str]]) -> dict[int, str] | None:
    """The class of each label from (label, folder) pairs: the last folder's name, or as many of the last as tell the
    classes apart (`apartment/outdoor`); None where a class has several folders, or shares one."""
    parts = {(label, tuple(part for part in folder.split("/") if part not in ("", "."))) for label, folder in folders}
    labels = {label for label, _ in parts}
    for depth in range(1, max((len(found) for _, found in parts), default=0) + 1):
        pairs = {(label, "/".join(found[-depth:])) for label, found in parts}
        if len(pairs) == len(labels) == len({name for _, name in pairs}) and all(name for _, name in pairs):
            return dict(pairs)
    return None
