"""What is to be removed: options of a person, and the candidates that they mean."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Annotated

from tyro.conf import arg

from fastlt.data_prep.catalog import Catalog
from fastlt.licenses import family, normalize
from fastlt.messages import listed
from fastlt.options import Names, OptionError

_NONE = "none"


@dataclass(frozen=True)
class Wanted:
    """What to remove: all that any of these options means. Without any, removals of before are finished, and carried
    into --encoded."""

    url: Annotated[tuple[str, ...], arg(metavar="URL [URL ...]", help_behavior_hint="")] = ()
    """Images at these URLs, or that people see on these pages."""
    author: Names = ()
    """Images whose attribution has this name in it, in whole words, in upper or lower case."""
    license: Names = ()
    """Images of these licenses: cc-by-nc for every version, cc-by-nc-4.0 for one, the words as the catalog has them for
    one that nobody knows, none for those without."""
    category: Names = ()
    """These auxiliary categories, by name or title: with all their images, and they are not searched for again."""

    def __post_init__(self) -> None:
        for name in ("url", "author", "license", "category"):
            if not all(text.strip() for text in getattr(self, name)):
                raise OptionError(f"--{name} is empty: say what to remove.")

    @property
    def is_empty(self) -> bool:
        return not (self.url or self.author or self.license or self.category)


@dataclass
class Found:
    """What is meant.

    Attributes:
        images: ids of candidates that are removed themselves, for whoever they belong to.
        of_license, of_category: ids of candidates that go for what they are.
        categories: ids of categories that go.
        attributions: {text: candidates} that --author means.
        unmet: options that mean nothing in this catalog.
    """

    images: set[int] = field(default_factory=set)
    of_license: set[int] = field(default_factory=set)
    of_category: set[int] = field(default_factory=set)
    categories: set[int] = field(default_factory=set)
    attributions: Counter[str] = field(default_factory=Counter)
    unmet: list[str] = field(default_factory=list)


def find(catalog: Catalog, wanted: Wanted) -> Found:
    """The candidates that somebody wants removed, by one pass over all of them; also what was removed already.

    Raises:
        ValueError: none of the options means anything in this catalog.
    """
    from fastlt.data_prep.crawl.addresses import parse_url  # brings aiohttp

    found, met = Found(), set()
    urls = {text: f"--url {text}" for text in wanted.url}
    urls |= {str(parsed): option for text, option in urls.items() if (parsed := parse_url(text)) is not None}
    authors = {f"--author {name}": _in_whole_words(name) for name in wanted.author}
    names = {_plain(name): f"--category {name}" for name in wanted.category}
    for row in catalog.categories():
        for name in (row["name"], row["title"]):
            if _plain(name) in names:
                met.add(names[_plain(name)])
                found.categories.add(row["id"])
    licenses: dict[str, list[str]] = {}
    for row in catalog.told_of_candidates() if not wanted.is_empty else ():
        said = row["license"]
        if said not in licenses:
            licenses[said] = [text for text in wanted.license if _is_license(text, said)]
        of_image = {urls[place] for place in (row["url"], row["page"]) if place in urls}
        if by := {option for option, name in authors.items() if name.search(_plain(row["attribution"]))}:
            found.attributions[row["attribution"]] += 1
        met |= of_image | by | {f"--license {text}" for text in licenses[said]}
        if of_image or by:
            found.images.add(row["id"])
        elif licenses[said]:
            found.of_license.add(row["id"])
        elif row["category"] in found.categories:
            found.of_category.add(row["id"])
    given = [f"--{name} {text}" for name in ("url", "author", "license", "category") for text in getattr(wanted, name)]
    found.unmet = [option for option in given if option not in met]
    if given and len(found.unmet) == len(given):
        raise ValueError(f"{catalog.path} has nothing that {listed(given)} means: nothing was removed.")
    return found


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


def _in_whole_words(name: str) -> re.Pattern[str]:
    return re.compile(rf"(?<!\w){re.escape(_plain(name))}(?!\w)")


def _is_license(text: str, said: str) -> bool:
    """Whether a license of a candidate is what a person means."""
    name, meant = normalize(said), normalize(text)
    if meant:
        return name == meant or (family(meant) == meant and family(name) == meant)
    return said == "" if _plain(text) == _NONE else not name and _plain(said) == _plain(text)
