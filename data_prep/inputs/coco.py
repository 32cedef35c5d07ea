"""COCO's JSON, the form of iNaturalist's files too: categories, images, and an annotation that joins them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Id = int | str


def categories(file: Path, data: Any) -> list[dict[str, Any]]:
    """The categories in the order of the file, each with an `id` and a `name` of its own.

    Where several have the same name, theirs are followed by their ids.

    Raises:
        ValueError: there is no list of categories, one lacks id or name, or two have the same id.
    """
    found = _entries(file, data, "categories", {"id": (int, str), "name": (str,)})
    _require_own_ids(file, "categories", found)
    times = Counter(entry["name"] for entry in found)
    named = [e | {"name": e["name"] if times[e["name"]] == 1 else f"{e['name']} {e['id']}"} for e in found]
    if len({entry["name"] for entry in named}) < len(named):
        raise ValueError(f"{file}: names of categories are the same even with their ids: rename them.")
    return named


def images_per_category(data: dict[str, Any]) -> Counter[Any]:
    """Annotations of each category id; empty where the file has none."""
    annotations = data.get("annotations")
    return Counter(a.get("category_id") for a in annotations or () if isinstance(a, dict))


def labeled_images(file: Path, data: Any) -> Iterator[tuple[str, str, Id]]:
    """(where it stands in the file, for people; file name; category id) of each image.

    Raises:
        ValueError: a list or a field is missing, ids are not unique or unknown, or an image has no or two classes.
    """
    images = _entries(file, data, "images", {"id": (int, str), "file_name": (str,)})
    annotations = _entries(file, data, "annotations", {"image_id": (int, str), "category_id": (int, str)})
    _require_own_ids(file, "images", images)
    image_ids, category_ids = {e["id"] for e in images}, {e["id"] for e in categories(file, data)}
    category_of: dict[Id, Id] = {}
    for i, annotation in enumerate(annotations):
        image, category = annotation["image_id"], annotation["category_id"]
        if image not in image_ids:
            raise ValueError(f"{file}: annotations[{i}] is of image {image}, which is not among the images.")
        if category not in category_ids:
            raise ValueError(f"{file}: annotations[{i}] is of category {category}, which is not among the categories.")
        if image in category_of:
            raise ValueError(f"{file}: annotations[{i}] is the second of image {image}: each image has one class.")
        category_of[image] = category
    for i, entry in enumerate(images):
        where = f"{file}: images[{i}]"
        if entry["id"] not in category_of:
            raise ValueError(f"{where}, {entry['file_name']}, has no annotation, so no class.")
        yield where, entry["file_name"], category_of[entry["id"]]


def _require_own_ids(file: Path, kind: str, entries: list[dict[str, Any]]) -> None:
    times = Counter(entry["id"] for entry in entries)
    twice = next((i for i, entry in enumerate(entries) if times[entry["id"]] > 1), None)
    if twice is not None:
        raise ValueError(f"{file}: {kind}[{twice}] has the id {entries[twice]['id']}, which another has too.")


def _entries(file: Path, data: Any, kind: str, fields: dict[str, tuple[type, ...]]) -> list[dict[str, Any]]:
    """A list of JSON objects that have these fields."""
    if not isinstance(data, dict) or not isinstance(data.get(kind), list):
        raise ValueError(f"{file} has no list {kind!r}: it must be like COCO's, with images, annotations, categories.")
    for i, entry in enumerate(data[kind]):
        for field, types in fields.items():
            if not isinstance(entry, dict) or not isinstance(entry.get(field), types):
                kinds = " or ".join(t.__name__ for t in types)
                raise ValueError(f"{file}: {kind}[{i}] has no {field!r} that is {kinds}.")
    return data[kind]
