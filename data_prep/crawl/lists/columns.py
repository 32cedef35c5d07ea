"""Which column of a list is what: by the names that published lists use, then by what the columns hold.

Where that leaves a choice, people are asked.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

from fastlt.data_prep.crawl.lists.cells import as_text, is_url, looks_like_image, one_line
from fastlt.data_prep.crawl.lists.tables import Table
from fastlt.data_prep.crawl.sources.licenses import normalize

_OPEN_DATA, _OPEN_DATA_HOST = "photo_id+extension", "inaturalist-open-data.s3.amazonaws.com"
"""iNaturalist Open Data has ids in place of URLs."""
NONE = "none"
"""What people say for a column that a list does not have."""
# Names without capitals, spaces and marks; those of the first line that a list has are meant.
_URL_NAMES = (
    ("imageurl", "imageurls", "imgurl", "imageuri", "photoimageurl", "picurl", "pictureurl", "imagelink", "imagehref"),
    ("url", "urls", "uri", "link", "href", "src"),
    ("originalurl", "cocourl", "mediaurl", "photourl", "downloadurl", "fileurl", "accessuri", "associatedmedia"),
    ("identifier", "image", "images", "img", "photo", "picture", "pic", "thumbnailurl"),
)
_LABEL_NAMES = (
    ("label", "labels", "labelname", "classlabel", "classname", "categoryname"),
    ("species",),
    ("scientificname", "taxonname", "acceptedscientificname"),
    ("class", "category", "categories", "target", "synset", "wnid", "breed", "classid", "categoryid", "labelid"),
    ("landmarkid", "taxonid", "taxon", "commonname", "vernacularname", "genus"),
)
_LICENSE_NAMES = (("license", "licence"), ("licenseurl", "licensename", "licensecode"), ("rights", "usageterms"))
_ATTRIBUTION_NAMES = (
    ("attribution", "attributionname", "credit"),
    ("rightsholder", "copyrightholder"),
    ("creator", "author", "artist", "photographer", "authorname", "photographername"),
    ("photographerusername", "username", "userlogin", "owner", "observer", "recordedby"),
)
_PAGE_NAMES = (
    ("page", "pageurl", "landingurl", "originallandingurl", "foreignlandingurl", "landingpage"),
    ("references", "sourceurl", "photourl", "url", "link"),
    ("source", "occurrenceid", "item"),
)
# Text that is no label, however often it comes again.
_OTHER = re.compile(
    r"text|alt|comment|tags?|.*caption.*|.*description.*|.*title|prompt|query|name|type|set|index|at|at|date|time|"
    r"mimetype|filename|filetype|mediatype|extension|format|language|lang|country|split|subset|dataset|nsfw|exif|"
    r"qualitygrade|publisher|position|status|errormessage|userlogin|username|observer|"
    r".*(id|key|hash|sha256|md5|uuid|url|uri|size|width|height|score|similarity)"
)


_MAX_LISTED = 30


@dataclass(frozen=True)
class Columns:
    """Names of a list's columns; "" where it has none for that."""

    url: str
    label: str = ""
    license: str = ""
    attribution: str = ""
    page: str = ""

    def url_cell(self, row: dict[str, Any]) -> Any:
        """What a row has for its URL."""
        if self.url == _OPEN_DATA:
            return f"https://{_OPEN_DATA_HOST}/photos/{as_text(row.get('photo_id'))}/medium.{as_text(row.get('extension'))}"
        return row.get(self.url)

    def needed(self) -> list[str]:
        """The columns that rows are read for."""
        url = _OPEN_DATA.split("+") if self.url == _OPEN_DATA else [self.url]
        return [*url, *filter(None, [self.label, self.license, self.attribution, self.page])]

    def __str__(self) -> str:
        chosen = [(field.name, getattr(self, field.name)) for field in fields(self)]
        named = ", ".join(f"{what}={one_line(name)}" for what, name in chosen if name)
        return named if self.label else f"{named}, no label"


@dataclass(frozen=True)
class Asked:
    """What people said of columns: a name, a position from 1 in a list without a header, `none`, or nothing."""

    url: str | None = None
    label: str | None = None
    license: str | None = None
    attribution: str | None = None
    page: str | None = None


def choose(table: Table, asked: Asked) -> Columns:
    """The columns of a list.

    Raises:
        ValueError: a column that was asked for is not there, or people have to say which one is meant.
    """
    rows = table.sample()
    chosen = {field.name: _asked_for(table, getattr(asked, field.name), field.name) for field in fields(Asked)}
    url = chosen["url"] or _url_column(table, rows)
    found = {what: name for what, name in chosen.items() if what != "url"}
    taken = {*url.split("+"), *filter(None, found.values())}
    if found["license"] is None:
        found["license"] = _named(table, _LICENSE_NAMES, taken) or _licenses(table, rows, taken)
    if found["page"] is None:
        taken.add(found["license"] or "")
        urls = [name for name in table.names if _mostly(is_url, rows, name)]
        found["page"] = _named(table, _PAGE_NAMES[:1], taken) or _first_of(
            [name for name in urls if name not in taken], _PAGE_NAMES
        )
    if found["attribution"] is None:
        found["attribution"] = _named(table, _ATTRIBUTION_NAMES, taken)
    taken |= set(filter(None, found.values()))
    if found["label"] is None:
        found["label"] = _label_column(table, rows, taken)
    return Columns(url, **{what: name or "" for what, name in found.items()})


def _asked_for(table: Table, name: str | None, what: str) -> str | None:
    """A column's name, "" for none, None where nobody said; a name in other letters will do where only one has it."""
    if name is None or name in table.names:
        return name
    if name == NONE and what != "url":
        return ""
    if len(alike := [column for column in table.names if _plain(column) == _plain(name)]) == 1:
        return alike[0]
    raise ValueError(f"{table.file} has no column {name!r} for --{what}-column, only {_listed(table)}.")


def _url_column(table: Table, rows: Sequence[dict[str, Any]]) -> str:
    names = table.names
    if len(names) == 1:
        return names[0]
    if {"photo_id", "extension"} <= set(names) and not any(is_url(cell) for row in rows for cell in row.values()):
        return _OPEN_DATA
    holding = [name for name in names if any(is_url(cell) for cell in _cells(rows, name))]
    named = [_first_of(holding or ([] if rows else names), [tier]) for tier in _URL_NAMES]
    name = next(filter(None, named), "")
    images = [column for column in holding if _mostly(looks_like_image, rows, column)]
    if name and (name in images or not [column for column in images if _tier(column, _URL_NAMES) is None]):
        return name
    if not name and len(images) == 1:
        return images[0]
    holding = [column for column in holding if column in images or _tier(column, _PAGE_NAMES) is None]
    if not name and len(holding) == 1:
        return holding[0]
    if not name and not holding:
        raise ValueError(
            f"{table.file} has no column of image URLs, only {_listed(table)}: say which one with --url-column."
        )
    either = _either(list(dict.fromkeys([*filter(None, [name]), *(images or holding)])))
    raise ValueError(f"{table.file}: which column holds the URLs of images, {either}? Say so with --url-column.")


def _label_column(table: Table, rows: Sequence[dict[str, Any]], taken: set[str]) -> str:
    free = [name for name in table.names if name not in taken]
    for tier in _LABEL_NAMES:
        found = [name for wanted in tier for name in free if _plain(name) == wanted]
        found = [name for name in found if not rows or any(as_text(cell) for cell in _cells(rows, name))]
        if len({tuple(as_text(cell) for cell in _cells(rows, name)) for name in found}) > 1:
            raise ValueError(
                f"{table.file}: which column holds the labels, {_either(found)}? Say so with --label-column."
            )
        if found:
            return found[0]
    labels = [name for name in free if re.fullmatch(r".*(label|class|category|species)", _plain(name))]
    if len(labels) == 1:
        return labels[0]
    if ids := [name for name in free if rows and all(_SYNSET_ID.fullmatch(as_text(c)) for c in _cells(rows, name))]:
        return ids[0]
    doubtful = labels or [name for name in free if _may_be_labels(rows, name)]
    if doubtful:
        raise ValueError(
            f"{table.file}: does {_either(doubtful)} hold the labels? Say so with --label-column, or with "
            f"--label-column {NONE} that all images are of one category."
        )
    return ""


_SYNSET_ID = re.compile(r"n\d{8}(_\d+)?")  # an image of ImageNet's, or its class


def label_of(value: Any) -> str:
    """A cell as a label; the class of an image id of ImageNet's."""
    text = as_text(value)
    return text[:9] if _SYNSET_ID.fullmatch(text) else text


def _may_be_labels(rows: Sequence[dict[str, Any]], name: str) -> bool:
    """Whether a column that has another name repeats short texts, as labels do."""
    texts = [cell.strip() for cell in _cells(rows, name) if isinstance(cell, str) and cell.strip()]
    short = [text for text in texts if len(text) <= 60 and not is_url(text) and not normalize(text)]
    if not texts or len(short) < len(texts) or _OTHER.fullmatch(_plain(name)):
        return False
    return 1 < len(set(texts)) <= len(texts) / 2


def _licenses(table: Table, rows: Sequence[dict[str, Any]], taken: set[str]) -> str:
    """The column whose URLs are those of licenses."""

    def is_license(cell: Any) -> bool:
        return is_url(cell) and bool(normalize(cell))

    return next((name for name in table.names if name not in taken and _mostly(is_license, rows, name)), "")


def _named(table: Table, tiers: Iterable[Sequence[str]], taken: set[str]) -> str:
    return _first_of([name for name in table.names if name not in taken], tiers)


def _first_of(names: Sequence[str], tiers: Iterable[Sequence[str]]) -> str:
    by_plain_name = {_plain(name): name for name in reversed(names)}
    return next((by_plain_name[wanted] for tier in tiers for wanted in tier if wanted in by_plain_name), "")


def _tier(name: str, tiers: Sequence[Sequence[str]]) -> int | None:
    return next((number for number, tier in enumerate(tiers) if _plain(name) in tier), None)


def _mostly(test: Any, rows: Sequence[dict[str, Any]], name: str) -> bool:
    cells = [cell for cell in _cells(rows, name) if cell not in (None, "")]
    return bool(cells) and sum(map(bool, map(test, cells))) > len(cells) / 2


def _cells(rows: Sequence[dict[str, Any]], name: str) -> list[Any]:
    """What a column holds, lists taken for their first value."""
    cells = [row.get(name) for row in rows]
    return [next(iter(cell), None) if isinstance(cell, list) else cell for cell in cells]


def _plain(name: str) -> str:
    return "".join(c for c in name.rpartition(":")[2].casefold() if c.isalnum())


def _either(names: Sequence[str]) -> str:
    return " or ".join(one_line(name, 40) for name in names[:_MAX_LISTED])


def _listed(table: Table) -> str:
    if table.has_header:
        names = [one_line(name, 40) for name in table.names]
        return ", ".join(names[:_MAX_LISTED]) + f" and {len(names) - _MAX_LISTED} more" * (len(names) > _MAX_LISTED)
    return f"columns 1 to {len(table.names)} without names" if len(table.names) > 1 else "one without a name"
