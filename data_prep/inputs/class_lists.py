"""Class lists as people have them: names, titles, synonyms and counts of the target classes."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastlt.data_prep.inputs import coco
from fastlt.data_prep.inputs.class_folders import scan


@dataclass(frozen=True)
class TargetClass:
    """A class that the classifier is for.

    Attributes:
        name: as class folders and label spaces have it.
        title: as people say it.
        synonyms: other titles.
        count: training images.
    """

    name: str
    title: str
    synonyms: tuple[str, ...]
    count: int


@dataclass(frozen=True)
class _Entry:
    """A class as one file tells it: the count may be in another file, which may know the class by its id."""

    name: str
    title: str = ""
    synonyms: tuple[str, ...] = ()
    count: int | None = None
    id: int | str | None = None


def read_targets(source: Path, counts: Path | None = None) -> list[TargetClass]:
    """The target classes of a list, in its order.

    Args:
        source: a text file with a name and, after a tab, a count a line; a JSON list of names; a JSON object
            {name: count} or {name: {"count", "title", "synonyms"}}; COCO's or iNaturalist's "categories", counted by
            "annotations" where there are any; or a folder of class folders. Names like "tench, Tinca tinca" hold
            synonyms.
        counts: anything that `source` can be, of which the counts are taken; by id where both have ids, else by name.

    Raises:
        ValueError: the list cannot be read, is empty, names a class twice, has no names but codes, or lacks a count.
    """
    entries = _read(source)
    if not entries:
        raise ValueError(f"{source} has no class in it.")
    twice = [name for name, times in Counter(entry.name for entry in entries).items() if times > 1]
    if twice:
        raise ValueError(f"{source} has class {twice[0]!r} twice: every class needs a name of its own.")
    if all(re.fullmatch(r"n?\d+", _titles(entry)[0]) for entry in entries):
        raise ValueError(
            f"{source} has codes like {entries[0].name!r} for names, which tell a language model nothing: give a JSON "
            'object {code: {"count": 5, "title": "tench"}}, or iNaturalist\'s categories.json.'
        )
    given = _read(counts) if counts else entries
    count_of: dict[int | str | None, int | None] = {entry.name: entry.count for entry in given}
    count_of |= {entry.id: entry.count for entry in given if entry.id is not None}
    classes = []
    for entry in entries:
        count = count_of.get(entry.id, count_of.get(entry.name))
        if count is None or count < 1:
            told = "no count" if count is None else f"{count} training images"
            raise ValueError(f"class {entry.name!r} has {told} in {counts or source}: --counts FILE can give counts.")
        title, *others = _titles(entry)
        classes.append(TargetClass(entry.name, title, tuple(dict.fromkeys(s for s in others if s != title)), count))
    return classes


def _titles(entry: _Entry) -> list[str]:
    """The title and all other titles."""
    parts = [*(entry.title or entry.name).split(","), *entry.synonyms]
    return [spoken for part in parts if (spoken := " ".join(part.replace("_", " ").split()))] or [entry.name]


def _read(source: Path) -> list[_Entry]:
    if source.is_dir():
        return [_Entry(name, count=len(images)) for name, images in scan(source, "training images").items()]
    try:
        text = source.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"the class list {source} cannot be read: {error}.") from None
    is_json = source.suffix.lower() == ".json" or text.lstrip()[:1] in ("{", "[")
    return list(_json_entries(source, text) if is_json else _text_entries(source, text))


def _text_entries(source: Path, text: str) -> Iterator[_Entry]:
    for number, line in enumerate(text.splitlines(), start=1):
        name, tab, count = line.partition("\t")
        if not line.strip():
            continue
        if tab and not count.strip().isdecimal():
            raise ValueError(f"line {number} of {source} has the count {count.strip()!r}, which is not a number.")
        yield _Entry(name.strip(), count=int(count) if tab else None)


def _json_entries(source: Path, text: str) -> Iterator[_Entry]:
    try:
        found = json.loads(text, object_pairs_hook=_no_key_twice)
    except ValueError as error:
        raise ValueError(f"the class list {source} cannot be read: {error}.") from None
    per_category: dict[Any, int] = {}
    if isinstance(found, dict) and isinstance(found.get("categories"), list):
        per_category, found = coco.images_per_category(found), coco.categories(source, found)
    if isinstance(found, dict):
        found = [{**_about(value), "name": name} for name, value in found.items()]
    if not isinstance(found, list):
        raise ValueError(f"the class list {source} is neither a JSON list nor an object: see `fastlt discover --help`.")
    for position, value in enumerate(found):
        about = {"name": value} if isinstance(value, str) else _about(value)
        if not (isinstance(about.get("name"), str) and about["name"].strip()):
            raise ValueError(f"class {position} in {source} has no name: {json.dumps(value)[:80]}.")
        count = about.get("count", about.get("image_count", per_category.get(about.get("id"))))
        titles = [about.get("title", ""), about.get("common_name", "")]
        synonyms: Any = about.get("synonyms", [])
        if not (isinstance(synonyms, list) and all(isinstance(title, str) for title in (*titles, *synonyms))):
            raise ValueError(f"class {about['name']!r} in {source} needs strings for titles, and synonyms in a list.")
        if isinstance(count, bool) or not isinstance(count, int | None):
            raise ValueError(f"class {about['name']!r} in {source} has count {count!r}, which is not a whole number.")
        yield _Entry(about["name"].strip(), titles[0], (titles[1], *synonyms), count, about.get("id"))


def _about(value: object) -> dict[str, Any]:
    """What a JSON file says of a class: an object as it is, anything else as its count."""
    return value if isinstance(value, dict) else {"count": value}


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    twice = [key for key, times in Counter(key for key, _ in pairs).items() if times > 1]
    if twice:
        raise ValueError(f"it has {twice[0]!r} twice")
    return dict(pairs)
