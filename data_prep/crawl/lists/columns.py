"""Which column of a list is what: by the names that published lists use, then by what the columns hold.

Where that leaves a choice, people are asked.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

from fastlt.data_prep.crawl.lists.cells import as_text, image_urls, is_url, looks_like_image, looks_like_page
from fastlt.data_prep.crawl.lists.table import NoListError, Table
from fastlt.licenses import normalize
from fastlt.messages import listed, one_line

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
# Columns of URLs that are none of images, or of small ones.
_LICENSE = re.compile(r"licen[sc]e|rights")
_SMALL = re.compile(r"thumb|preview")
_NO_IMAGE = re.compile(
    r"thumb|preview|icon|avatar|logo|profile|page|landing|author|creator|photographer|attribution|observer|uploader|"
    r"owner|website|homepage|user|wiki|references|^source(url)?$|^occurrenceid$|^item$|^query$"
)
# What else is called so may be the column of images as well as one that is called "url".
_IMAGE_WORD = re.compile(r"image|img|photo|pic|media|file|download|orig|full|large|medium|small|big|src|jpe?g|raw")
_RANKS = {"kingdom", "phylum", "order", "family", "genus"}  # beside these a "class" is one of them
_EPITHET = re.compile(r"[a-z]+(-[a-z]+)*")
_PATH = re.compile(r"\S*[/\\]\S*\.\w{2,5}|.*\.(jpe?g|png|webp|gif|bmp|tiff?)", re.IGNORECASE)
# Columns that hold no labels, however often their values come again.
_OTHER = re.compile(
    r"text|alt|alttext|comments?|notes?|.*caption.*|.*description.*|.+title|prompt|set|index|row|"
    r".*date|.*time|.*timestamp|created|modified|(created|updated|modified|submitted|added|observed|taken)?at|year|month|day|mimetype|file|filename|filetype|mediatype|"
    r"extension|format|language|lang|locale|country.*|placeguess|lat|latitude|lon|lng|longitude|"
    r"decimal.*|split|subset|partition|fold|dataset.*|nsfw|exif.*|quality.*|.*grade|publisher|contributor|creator|author|"
    r"artist|audience|source|provider|institution.*|collection.*|basisofrecord|position|rotation|orientation|"
    r".*status|errormessage|error|.*licen[sc]e.*|.*rights.*|userlogin|.*username|user|owner|observer.*|recordedby|"
    r"photographer.*|photo(location|featured|submitted|aspect).*|ai.*|stats.*|num.*|n|.*count|views|likes|bbox|"
    r".*(id|key|hash|sha256|md5|uuid|url|uri|size|width|height|length|depth|score|similarity|area|ratio|bytes|confidence)"
)
# Sizes, dates, decimals, what is true or false, kinds of media, long numbers: no labels.
_VALUE = re.compile(
    r"\d+ ?[x\u00d7*] ?\d+|\d{4}-\d\d?(-\d\d?.*)?|\d\d?[./]\d\d?[./]\d{2,4}.*|[+-]?\d*\.\d+(e[+-]?\d+)?|\d+ ?[kmg]i?b|"
    r"true|false|t|f|(still|moving)? ?images?|photos?|image/.*|\d{7,}|[0-9a-f-]{32,}|-?\d+e[+-]?\d+",
    re.IGNORECASE,
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
    joined: bool = False

    def url_cell(self, row: dict[str, Any]) -> Any:
        """What a row has for its URL."""
        if self.url == _OPEN_DATA:
            return f"https://{_OPEN_DATA_HOST}/photos/{as_text(row.get('photo_id'))}/medium.{as_text(row.get('extension'))}"
        return row.get(self.url)

    def label_cell(self, row: dict[str, Any]) -> Any:
        """What a row has for its label; of a genus and an epithet, both."""
        if not self.joined:
            return row.get(self.label)
        words = [as_text(row.get(name)) for name in self.label.split("+")]
        return " ".join(words) if all(map(label_of, words)) else words[0]

    def needed(self) -> list[str]:
        """The columns that rows are read for."""
        url = _OPEN_DATA.split("+") if self.url == _OPEN_DATA else [self.url]
        label = self.label.split("+") if self.joined else [self.label]
        return [*url, *filter(None, [*label, self.license, self.attribution, self.page])]

    def __str__(self) -> str:
        chosen = [(field.name, getattr(self, field.name)) for field in fields(Asked)]
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


def choose(table: Table, asked: Asked, rows: Sequence[dict[str, Any]] | None = None) -> Columns:
    """The columns of a list.

    Args:
        table: the list.
        asked: columns that people named.
        rows: what the choice goes by; None is a sample of all.

    Raises:
        ValueError: a column that was asked for is not there, or people have to say which one is meant.
    """
    rows = table.sample() if rows is None else rows
    chosen = {field.name: _asked_for(table, getattr(asked, field.name), field.name) for field in fields(Asked)}
    twice = [name for name, times in Counter(filter(None, chosen.values())).items() if times > 1]
    if twice:
        raise ValueError(f"{table.file}: column {twice[0]!r} is named for two things.")
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
    joined = "+" in (found["label"] or "") and found["label"] not in table.names
    return Columns(url, **{what: name or "" for what, name in found.items()}, joined=joined)


def _asked_for(table: Table, name: str | None, what: str) -> str | None:
    """A column's name, "" for none, None where nobody said; a name in other letters will do where only one has it."""
    if name is None or name in table.names:
        return name
    if name == NONE and what != "url":
        return ""
    if len(alike := [column for column in table.names if _plain(column) == _plain(name)]) == 1:
        return alike[0]
    error = ValueError if any(map(_holds_url, table.sample())) else NoListError
    raise error(f"{table.file} has no column {name!r} for --{what}-column, only {_listed(table)}.")


def _holds_url(row: dict[str, Any]) -> bool:
    return any(image_urls(cell)[0] for cell in row.values())


def _url_column(table: Table, rows: Sequence[dict[str, Any]]) -> str:
    names = table.names
    if len(names) == 1:
        return names[0]
    if {"photo_id", "extension"} <= set(names) and not any(is_url(cell) for row in rows for cell in row.values()):
        return _OPEN_DATA
    candidates = _url_candidates(table, rows)
    if not candidates:
        error = ValueError if any(map(_holds_url, rows)) else NoListError
        raise error(
            f"{table.file} has no column of image URLs, only {_listed(table)}: say which one with --url-column."
        )
    images = [name for name in candidates if _mostly(looks_like_image, rows, name)]
    small = [name for name in names if _SMALL.search(_plain(name)) and _mostly(looks_like_image, rows, name)]
    doubtful = [name for name in candidates if _tier(name, _URL_NAMES) is not None or _IMAGE_WORD.search(_plain(name))]
    if len(images) == 1:
        return images[0]
    first = [name for name in images or candidates if _tier(name, _URL_NAMES) == 0]
    if len(first) == 1:
        return first[0]
    doubtful = first or [name for name in images or candidates if name in doubtful] or images or candidates
    if len(doubtful) == 1 and not images and _tier(doubtful[0], _URL_NAMES) == 1:
        doubtful += [name for name in small if name not in doubtful]  # a page, and an image of it, as it seems
    if len(doubtful) == 1:
        return doubtful[0]
    raise ValueError(
        f"{table.file}: which column holds the URLs of images, {_either(table, rows, doubtful)}? "
        "Say so with --url-column."
    )


def _url_candidates(table: Table, rows: Sequence[dict[str, Any]]) -> list[str]:
    """Columns that may be the one of images; those whose names or URLs say something else only where no other is."""
    named = [name for name in table.names if _tier(name, _URL_NAMES) is not None]
    # What is empty in all rows seen may hold something in others.
    empty = [name for name in named if not any(as_text(cell) for cell in _cells(rows, name))]
    holding = [name for name in table.names if any(is_url(cell) for cell in _cells(rows, name)) or name in empty]
    holding = [name for name in holding if not _mostly(_is_license, rows, name) and not _LICENSE.search(_plain(name))]
    best = [name for name in holding if not _NO_IMAGE.search(_plain(name)) and name not in empty]
    best = [name for name in best if not _mostly(looks_like_page, rows, name)] or best
    if rows and best and all(_mostly(looks_like_image, rows, name) for name in best):
        empty = []
    images = [name for name in holding if _SMALL.search(_plain(name)) or _mostly(looks_like_image, rows, name)]
    return [name for name in holding if name in best or name in empty] if best else images or empty


def _is_license(cell: Any) -> bool:
    return is_url(cell) and bool(normalize(cell))


def _label_column(table: Table, rows: Sequence[dict[str, Any]], taken: set[str]) -> str:
    free = [name for name in table.names if name not in taken and not _mostly(_PATH.fullmatch, rows, name, as_text)]
    ranks = {_plain(name) for name in table.names} & _RANKS
    binomial = _genus_and_epithet(rows, free)
    named = [name for name in free if not (ranks and _plain(name) == "class") and name not in binomial[1:]]
    for number, tier in enumerate(_LABEL_NAMES):
        if number == 3 and binomial:
            return "+".join(binomial)
        found = [name for wanted in tier for name in named if _plain(name) == wanted]
        found = [name for name in found if not rows or any(as_text(cell) for cell in _cells(rows, name))]
        if len({tuple(as_text(cell) for cell in _cells(rows, name)) for name in found}) > 1:
            either = _either(table, rows, found)
            raise ValueError(f"{table.file}: which column holds the labels, {either}? Say so with --label-column.")
        if found:
            return found[0]
    labels = [
        name for name in named if re.fullmatch(r"(?!super|sub|parent).*(label|class|category|species)", _plain(name))
    ]
    if len(labels) == 1:
        return labels[0]
    if ids := [name for name in free if rows and all(_SYNSET_ID.fullmatch(as_text(c)) for c in _cells(rows, name))]:
        return ids[0]
    doubtful = labels or [name for name in free if _may_be_labels(rows, name)]
    if doubtful:
        does = "does" if table.has_header or len(doubtful) > 1 else "does column"
        raise ValueError(
            f"{table.file}: {does} {_either(table, rows, doubtful)} hold the labels? Say so with --label-column, or "
            f"with --label-column {NONE} that all images are of one category."
        )
    return ""


def _genus_and_epithet(rows: Sequence[dict[str, Any]], names: Sequence[str]) -> list[str]:
    """The two columns that make a scientific name, where one has the second word of it alone."""
    genus = [name for name in names if _plain(name) == "genus"]
    epithets = [
        name for wanted in ("specificepithet", "species", "epithet") for name in names if _plain(name) == wanted
    ]
    epithets = [name for name in epithets if _mostly(_EPITHET.fullmatch, rows, name, as_text)]
    return [genus[0], epithets[0]] if genus and epithets else []


_NOTHING = {"nan", "NaN", "NAN", "null", "NULL", "Null", "None", "NA", "N/A", "<NA>", "\\N"}  # as programs write it
_SYNSET_ID = re.compile(r"n\d{8}(_\d+)?")  # an image of ImageNet's, or its class


def label_of(value: Any) -> str:
    """A cell as a label; the class of an image id of ImageNet's."""
    text = as_text(value)
    if text in _NOTHING:
        return ""
    return text[:9] if _SYNSET_ID.fullmatch(text) else text


def _may_be_labels(rows: Sequence[dict[str, Any]], name: str) -> bool:
    """Whether a column that has another name repeats short texts or numbers, as labels do."""
    if _OTHER.fullmatch(_plain(name)):
        return False
    texts = [as_text(cell) for cell in _cells(rows, name) if not isinstance(cell, bool) and label_of(cell)]
    short = [text for text in texts if len(text) <= 60 and not _VALUE.fullmatch(text) and not is_url(text)]
    short = [text for text in short if text.isdigit() or not normalize(text)]
    if len(short) < 0.9 * len(texts):
        return False
    distinct = len(set(texts))
    # Ten thousand labels repeat little in a sample; of two rows alone nobody can say whether a value repeats.
    return distinct <= (0.9 if len(texts) > 1000 else 0.8) * len(texts) and (distinct > 1 or len(texts) > 2)


def _licenses(table: Table, rows: Sequence[dict[str, Any]], taken: set[str]) -> str:
    """The column whose URLs are those of licenses."""
    return next((name for name in table.names if name not in taken and _mostly(_is_license, rows, name)), "")


def _named(table: Table, tiers: Iterable[Sequence[str]], taken: set[str]) -> str:
    return _first_of([name for name in table.names if name not in taken], tiers)


def _first_of(names: Sequence[str], tiers: Iterable[Sequence[str]]) -> str:
    by_plain_name = {_plain(name): name for name in reversed(names)}
    return next((by_plain_name[wanted] for tier in tiers for wanted in tier if wanted in by_plain_name), "")


def _tier(name: str, tiers: Sequence[Sequence[str]]) -> int | None:
    return next((number for number, tier in enumerate(tiers) if _plain(name) in tier), None)


def _mostly(test: Any, rows: Sequence[dict[str, Any]], name: str, read: Any = lambda cell: cell) -> bool:
    cells = [read(cell) for cell in _cells(rows, name) if cell not in (None, "")]
    return bool(cells) and sum(map(bool, map(test, cells))) > len(cells) / 2


def _cells(rows: Sequence[dict[str, Any]], name: str) -> list[Any]:
    """What a column holds, lists taken for their first value."""
    cells = [row.get(name) for row in rows]
    return [next(iter(cell), None) if isinstance(cell, list) else cell for cell in cells]


def _plain(name: str) -> str:
    name = re.sub(r" \(\d+\)$", "", name)  # one of several with that name
    return "".join(c for c in name.rpartition(":")[2].casefold() if c.isalnum())


def _either(table: Table, rows: Sequence[dict[str, Any]], names: Sequence[str]) -> str:
    """The columns to choose from; where nothing names them, with what they hold."""
    shown = [one_line(name, 40) for name in names[:_MAX_LISTED]]
    if not table.has_header:
        shown = [f"{name} ({_examples(rows, name)})" for name in names[:_MAX_LISTED]]
    return " or ".join(shown)


def _examples(rows: Sequence[dict[str, Any]], name: str) -> str:
    texts = list(dict.fromkeys(filter(None, map(as_text, _cells(rows, name)))))
    return ", ".join(repr(one_line(text, 40)) for text in texts[:2]) + ", ..." * (len(texts) > 2)


def _listed(table: Table) -> str:
    if table.has_header:
        return listed([one_line(name, 40) for name in table.names], _MAX_LISTED)
    return f"columns 1 to {len(table.names)} without names" if len(table.names) > 1 else "one without a name"
