"""One name for each open license, however a source spells it: `cc-by-sa-4.0`, `cc-by-nc`, `cc0-1.0`, `pdm`."""

from __future__ import annotations

import re
from collections.abc import Iterable

FAMILIES = ("cc0", "pdm", "cc-by", "cc-by-sa", "cc-by-nd", "cc-by-nc", "cc-by-nc-sa", "cc-by-nc-nd")

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


def allowed(families: Iterable[str] | None) -> frozenset[str]:
    """The families that a user allows; None: all of `FAMILIES`.

    Raises:
        ValueError: a family is none of `FAMILIES`, or there is none.
    """
    chosen = frozenset(FAMILIES if families is None else families)
    if unknown := sorted(chosen.difference(FAMILIES)):
        raise ValueError(f"license {unknown[0]!r} is unknown: choose from {', '.join(FAMILIES)}, or any.")
    if not chosen:
        raise ValueError(f"no license is allowed, so no image is: choose from {', '.join(FAMILIES)}.")
    return chosen
