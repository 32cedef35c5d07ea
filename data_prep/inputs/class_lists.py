"""Class lists as people have them: names, titles, synonyms and counts of the target classes."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fastlt.data_prep.inputs import coco
from fastlt.data_prep.inputs.class_folders import scan
from fastlt.data_prep.inputs.class_text import WNID, Entry, text_entries
from fastlt.data_prep.inputs.text import read_text
from fastlt.data_prep.names import class_name, plain_names, same_name_key
from fastlt.foreign import parse_json

_MOST_IMAGES = 10**15  # of one class


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


def read_targets(source: Path, counts: Path | None = None) -> list[TargetClass]:
    """The target classes of a list, in its order.

    Args:
        source: text in one of the forms of `text_entries`; a JSON list of names; a JSON object {name: count},
            {name: title}, {id: [name, title]} or {name: {"count", "title", "synonyms"}}; COCO's or iNaturalist's
            "categories", counted by the images of "annotations" where there are any; or a folder of class folders.
            Names like "tench, Tinca tinca" hold synonyms.
        counts: anything that `source` can be, of which the counts are taken, and titles where `source` has but codes;
            by name, else by id where both have ids, else by what people say.

    Raises:
        ValueError: the list cannot be read, is empty, names a class twice, has no names but codes, or lacks a count.
    """
    entries = _read(source)
    if not entries:
        raise ValueError(f"{source} has no class in it.")
    twice = [name for name, times in Counter(entry.name for entry in entries).items() if times > 1]
    if twice:
        raise ValueError(f"{source} has class {twice[0]!r} twice: every class needs a name of its own.")
    others: list[Entry | None] = _matches(entries, _read(counts)) if counts else [None] * len(entries)
    if counts and any(others) and all(re.fullmatch(WNID, entry.name) and entry.title for entry in entries):
        known = [(entry, other) for entry, other in zip(entries, others, strict=True) if other]
        if len(known) < len(entries):  # a dictionary, such as ImageNet's words.txt with 82,115 synsets
            print(f"{source}: {len(entries) - len(known):,} left out that {counts} does not have")
        entries, others = [entry for entry, _ in known], [other for _, other in known]
    merged = [_merged(entry, other) for entry, other in zip(entries, others, strict=True)]
    titles = _titles(merged)
    if all(re.fullmatch(r"n?\d+", title) for title, *_ in titles):
        raise ValueError(
            f"{source} has codes like {entries[0].name!r} for names, which tell a language model nothing: give a list "
            'that has both, such as ImageNet\'s words.txt (it may be --counts), a JSON object {code: {"count": 5, '
            '"title": "tench"}}, or iNaturalist\'s categories.json.'
        )
    classes = []
    for entry, (title, *synonyms) in zip(merged, titles, strict=True):
        if entry.count is None or entry.count < 1:
            told = "no count" if entry.count is None else f"{entry.count} training images"
            raise ValueError(f"class {entry.name!r} has {told} in {counts or source}: --counts FILE can give counts.")
        others_of_it = tuple(dict.fromkeys(s for s in synonyms if s != title))
        classes.append(TargetClass(entry.name, title, others_of_it, entry.count))
    return classes


def _matches(entries: list[Entry], given: list[Entry]) -> list[Entry | None]:
    """The class in another file that each is: of the same name, else id, else of the only title that is the same."""
    by_name = {entry.name: entry for entry in given}
    by_id = {entry.id: entry for entry in given if entry.id is not None}
    by_title: dict[str, list[Entry]] = {}
    for entry, titles in zip(given, _titles(given), strict=True):
        by_title.setdefault(same_name_key(titles[0]), []).append(entry)
    found: list[Entry | None] = []
    for entry, titles in zip(entries, _titles(entries), strict=True):
        alike = by_title.get(same_name_key(titles[0]), [])
        of_id = by_id.get(entry.id) if entry.id is not None else None
        found.append(by_name.get(entry.name) or of_id or (alike[0] if len(alike) == 1 else None))
    return found


def _merged(entry: Entry, other: Entry | None) -> Entry:
    """A class with the count of the other file, and with its titles where it has none."""
    if other is None:
        return entry
    if not entry.title and re.fullmatch(r"n?\d+", entry.name):
        entry = replace(entry, title=other.title or other.name, synonyms=other.synonyms)
    return entry if other.count is None else replace(entry, count=other.count)


def _titles(entries: list[Entry]) -> list[list[str]]:
    """The title of each class, and all its other titles."""
    found = []
    for entry, plain in zip(entries, plain_names([entry.name for entry in entries]), strict=True):
        parts = [*(entry.title or plain).split(","), *entry.synonyms]
        spoken = [" ".join(part.replace("_", " ").split()) for part in parts]
        found.append([title for title in spoken if title] or [entry.name])
    return found


def _read(source: Path) -> list[Entry]:
    if source.is_dir():
        entries = [Entry(name, count=len(images)) for name, images in scan(source, "training images").items()]
    else:
        text = read_text(source, "class list")
        is_json = source.suffix.lower() == ".json" or text.lstrip()[:1] in ("{", "[")
        entries = list(_json_entries(source, text)) if is_json else text_entries(source, text)
    numbers = [-1 if entry.count is None else entry.count for entry in entries]
    from_0 = len(entries) > 1 and sorted(numbers) == list(range(len(entries)))
    if from_0 or (len(entries) > 2 and numbers == list(range(1, len(entries) + 1))):
        print(f"{source}: {min(numbers)} to {max(numbers)} are taken as labels, not as counts of images", flush=True)
        entries = [replace(entry, count=None, id=entry.count) for entry in entries]
    for entry in entries:
        for title in (entry.title, *entry.synonyms):
            class_name(title, str(source))
    return [replace(entry, name=class_name(entry.name, str(source))) for entry in entries]


def _json_entries(source: Path, text: str) -> Iterator[Entry]:
    try:
        found = parse_json(text, object_pairs_hook=_no_key_twice)
    except ValueError as error:
        raise ValueError(f"the class list {source} cannot be read: {error}.") from None
    per_category: dict[Any, int] = {}
    if isinstance(found, dict) and isinstance(found.get("categories"), list):
        per_category, found = coco.images_per_category(found), coco.categories(source, found)
    if isinstance(found, dict):
        found = [_about(value, name) for name, value in found.items()]
    if not isinstance(found, list):
        raise ValueError(f"the class list {source} is neither a JSON list nor an object: see `fastlt discover --help`.")
    for position, value in enumerate(found):
        about = {"name": value} if isinstance(value, str) else _about(value)
        name, key = about.get("name"), about.get("id")
        if not (isinstance(name, str) and name.strip()):
            raise ValueError(f"class {position} in {source} has no name: {json.dumps(value)[:80]}.")
        key = key if isinstance(key, int | str) else None
        count = about.get("count", about.get("image_count", per_category.get(key)))
        titles = [about.get("title", ""), about.get("common_name", "")]
        synonyms: Any = about.get("synonyms", [])
        if not (isinstance(synonyms, list) and all(isinstance(title, str) for title in (*titles, *synonyms))):
            raise ValueError(f"class {name!r} in {source} needs strings for titles, and synonyms in a list.")
        if isinstance(count, bool) or not isinstance(count, int | None) or (count or 0) > _MOST_IMAGES:
            raise ValueError(f"class {name!r} in {source} has count {count!r}, which is not a number of images.")
        yield Entry(name.strip(), titles[0], (titles[1], *synonyms), count, key)


def _about(value: object, key: str | None = None) -> dict[str, Any]:
    """What a JSON file says of a class, under a key or in a list: fields; code and title; a title; or its count."""
    if isinstance(value, list) and len(value) == 2 and all(isinstance(part, str) for part in value):
        # ImageNet's class index: {"0": ["n01440764", "tench"]}
        return {"name": value[0], "title": value[1], "id": int(key) if key and key.isdecimal() else None}
    if isinstance(value, dict):
        about = value
    elif isinstance(value, str) and key and re.fullmatch(r"n?\d+", key):
        about = {"title": value}
    else:
        about = {"count": value}
    return about if key is None else {**about, "name": key}


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    twice = [key for key, times in Counter(key for key, _ in pairs).items() if times > 1]
    if twice:
        raise ValueError(f"it has {twice[0]!r} twice")
    return dict(pairs)
