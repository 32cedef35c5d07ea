"""Open licenses: one name for each, however a source spells it (`cc-by-sa-4.0`, `cc0-1.0`, `pdm`), and what it permits.

A license that has no name here permits nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple


class Permits(NamedTuple):
    """What a license permits.

    Attributes:
        commercial: use for money (no NC in it).
        changed_copies: passing on what was changed (no ND in it). Images of a data set are made smaller and are
            compressed again; whether that is a derivative is disputed, and here it counts as one.
        asks_for_credit: whoever passes an image on names its author.
    """

    commercial: bool
    changed_copies: bool
    asks_for_credit: bool


FAMILIES = {
    "cc0": Permits(True, True, False),
    "pdm": Permits(True, True, False),
    "cc-by": Permits(True, True, True),
    "cc-by-sa": Permits(True, True, True),
    "cc-by-nd": Permits(True, False, True),
    "cc-by-nc": Permits(False, True, True),
    "cc-by-nc-sa": Permits(False, True, True),
    "cc-by-nc-nd": Permits(False, False, True),
}
ANY = "any"
# Words that narrow a choice of licenses.
USES = {
    "commercial": frozenset(name for name, permits in FAMILIES.items() if permits.commercial),
    "redistributable": frozenset(name for name, permits in FAMILIES.items() if permits.changed_copies),
}

# Versions that Hugging Face has a name for, which is ours.
_ON_THE_HUB = {
    "cc0": ("1.0",),
    "cc-by": ("2.0", "2.5", "3.0", "4.0"),
    "cc-by-sa": ("3.0", "4.0"),
    "cc-by-nd": ("4.0",),
    "cc-by-nc": ("2.0", "3.0", "4.0"),
    "cc-by-nc-sa": ("2.0", "3.0", "4.0"),
    "cc-by-nc-nd": ("3.0", "4.0"),
}

# With a jurisdiction, a language and the like after it, and nothing that would be another license.
_CC_URL = re.compile(
    r"(?:https?://)?(?:www\.)?creativecommons\.org/(?:licenses|publicdomain)/([a-z-]+)(?:/([\d.]+))?"
    r"(?:/[a-z]{2,3})?(?:/(?:deed|legalcode)[\w.-]*)?/?(?:[?#]\S*)?"
)
_SPDX_URL = re.compile(r"(?:https?://)?spdx\.org/licenses/([a-z0-9.-]+?)(?:\.html)?")
_BY = re.compile(
    r"(?:cc-)?(by(?:-(?:nc|nd|sa))*)(?:-v?(\d)(?:[.-](\d))?(?:[,-]\d\.\d)*(?!-(?:nc|nd|sa)\b)(?:-[a-z]{2,13})?)?"
)
_ZERO = re.compile(r"cc-?(?:0|zero)(?:-1[.-]0)?(?:-universal)?")
_PUBLIC_DOMAIN = re.compile(r"(?:cc-)?(?:pdm?|public-?domain)(?:-mark)?(?:-1[.-]0)?|cc-mark(?:-1[.-]0)?|pd-(?!not\b).+")
_IN_WORDS = (
    (re.compile(r"[\u2010-\u2015\u2212]"), "-"),  # hyphens and dashes of all kinds
    (re.compile(r"creative commons"), "cc"),
    (re.compile(r"attribution"), "by"),
    (re.compile(r"non-?commercial"), "nc"),
    (re.compile(r"share-?alike"), "sa"),
    (re.compile(r"no-?deriv(?:atives|ative works|s)?"), "nd"),
)
_AFTER_A_NAME = re.compile(r"[^()]*\((cc[ _-][^()]*)\)")  # "Some One (cc-by-sa)"


def normalize(text: str, version: str = "") -> str:
    """The name of the Creative Commons license or public-domain mark that `text` says, or "" where it says none.

    Understands codes with and without `cc-` ("by-nc", "CC_BY_4_0"), names ("CC BY-SA 3.0 de", "Public domain") and
    the licenses' URLs. A country is left out, as is a version that nobody says.

    Args:
        text: what the source says.
        version: where the source says it separately.
    """
    text = " ".join(text.split()).lower()
    if url := _CC_URL.fullmatch(text):
        text, version = f"cc-{url[1]}", url[2] or ""
    elif url := _SPDX_URL.fullmatch(text):
        text = url[1]
    else:
        for words, code in _IN_WORDS:
            text = words.sub(code, text)
    if named := _AFTER_A_NAME.fullmatch(text):
        text = named[1]
    code = re.sub(r"[\s_]+", "-", text)
    if _ZERO.fullmatch(code):
        return "cc0-1.0"
    if _PUBLIC_DOMAIN.fullmatch(code):
        return "pdm"
    by = _BY.fullmatch(code)
    if not by:
        return ""
    # Older licenses say nd-nc where newer ones say nc-nd.
    name = "-".join(["cc", "by", *sorted(set(by[1].split("-")[1:]), key=["nc", "nd", "sa"].index)])
    if name not in FAMILIES:
        return ""
    version = f"{by[2]}.{by[3] or 0}" if by[2] else version
    return f"{name}-{version}" if version else name


def family(license: str) -> str:
    """A normalized license without its version."""
    return re.sub(r"-[\d.]+$", "", license)


def permits(license: str) -> Permits | None:
    """What a license permits, as anybody spells it; None where nobody knows."""
    return FAMILIES.get(family(normalize(license)))


def name_on_the_hub(license: str) -> str:
    """What the head of a card on Hugging Face calls a license, "other" where it has no name for it."""
    name = normalize(license)
    version = name.rpartition("-")[2]
    return name if version in _ON_THE_HUB.get(family(name), ()) else "other"


def chosen(words: Sequence[str]) -> frozenset[str] | None:
    """The families that a user means by names of `FAMILIES` and words of `USES`, which narrow them; None: any license.

    Raises:
        ValueError: a word that is neither, or nothing is left.
    """
    names = [word for word in words if word not in USES]
    uses = [USES[word] for word in words if word in USES]
    if unknown := sorted({*names}.difference(FAMILIES, {ANY})):
        raise ValueError(f"license {unknown[0]!r} is unknown: choose from {', '.join([*FAMILIES, *USES])}, or {ANY}.")
    if not uses and (ANY in names or not names):
        return None
    left = frozenset(FAMILIES if ANY in names or not names else names).intersection(*uses)
    if not left:
        raise ValueError(f"no license is left by {' '.join(words)}: each of the words narrows what the others allow.")
    return left


def counted(licenses: Mapping[str, int]) -> tuple[dict[str, int], dict[str, int]]:
    """Numbers by license as anybody spells it, to (those by its name, those by the words that nobody knows)."""
    known: dict[str, int] = {}
    unknown: dict[str, int] = {}
    for said, number in licenses.items():
        name = normalize(said)
        into, key = (known, name) if name else (unknown, said)
        into[key] = into.get(key, 0) + number
    by_number = [dict(sorted(found.items(), key=lambda item: (-item[1], item[0]))) for found in (known, unknown)]
    return by_number[0], by_number[1]


def allowed(families: Iterable[str] | None) -> frozenset[str]:
    """The families that a user allows; None: all of `FAMILIES`.

    Raises:
        ValueError: a family is none of `FAMILIES`, or there is none.
    """
    found = frozenset(FAMILIES if families is None else families)
    if unknown := sorted(found.difference(FAMILIES)):
        raise ValueError(f"license {unknown[0]!r} is unknown: choose from {', '.join(FAMILIES)}, or any.")
    if not found:
        raise ValueError(f"no license is allowed, so no image is: choose from {', '.join(FAMILIES)}.")
    return found
