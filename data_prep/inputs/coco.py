"""COCO's JSON, the form of iNaturalist's files too: categories, images, and an annotation that joins them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fastlt.data_prep.names import class_name

Id = int | str


def categories(file: Path, data: Any) -> list[dict[str, Any]]:
    """The categories in the order of the file, each with an `id` and a `name` of its own.

    Where several have the same name, theirs are followed by their ids.

    Raises:
        ValueError: there is no list of categories, one lacks id or name, or two have the same id.
    """
    found = _entries(file, data, "categories", {"id": (int, str), "name": (str,)})
    _require_own_ids(file, "categories", found)
    found = [entry | {"name": class_name(entry["name"], str(file))} for entry in found]
    times = Counter(entry["name"] for entry in found)
    named = [e | {"name": e["name"] if times[e["name"]] == 1 else f"{e['name']} {e['id']}"} for e in found]
    if len({entry["name"] for entry in named}) < len(named):
        raise ValueError(f"{file}: names of categories are the same even with their ids: rename them.")
    return named


def images_per_category(data: dict[str, Any]) -> Counter[Any]:
    """Images of each category id, each once however many boxes it has; empty where the file has no annotations."""
    annotations = data.get("annotations")
    entries = [a for a in annotations if isinstance(a, dict)] if isinstance(annotations, list) else []
    pairs = [(a.get("image_id", f"annotation {i}"), a.get("category_id")) for i, a in enumerate(entries)]
    return Counter(c for _, c in {pair for pair in pairs if all(isinstance(key, int | str) for key in pair)})


def labeled_images(file: Path, data: Any) -> Iterator[tuple[str, str, Id]]:
    """(where it stands in the file, for people; file name; category id) of each image.

    Raises:
        ValueError: a list or a field is missing, ids are not unique or unknown, or an image has no or two classes.
            Several annotations of one class, as boxes are, make no difference.
    """
    images = _entries(file, data, "images", {"id": (int, str), "file_name": (str,)})
    annotations = _entries(file, data, "annotations", {"image_id": (int, str), "category_id": (int, str)})
    _require_own_ids(file, "images", images)
    image_ids, category_ids = {e["id"] for e in images}, {e["id"] for e in categories(file, data)}
    classes_of: dict[Id, set[Id]] = {}
    for i, annotation in enumerate(annotations):
        image, category = annotation["image_id"], annotation["category_id"]
        if image not in image_ids:
            raise ValueError(f"{file}: annotations[{i}] is of image {image}, which is not among the images.")
        if category not in category_ids:
            raise ValueError(f"{file}: annotations[{i}] is of category {category}, which is not among the categories.")
        classes_of.setdefault(image, set()).add(category)
    _require_one_class(file, images, classes_of)
    for i, entry in enumerate(images):
        where = f"{file}: images[{i}]"
        if entry["id"] not in classes_of:
            raise ValueError(f"{where}, {entry['file_name']}, has no annotation, so no class.")
        yield where, entry["file_name"], next(iter(classes_of[entry["id"]]))


def _require_one_class(file: Path, images: list[dict[str, Any]], classes_of: dict[Id, set[Id]]) -> None:
    several = [i for i, entry in enumerate(images) if len(classes_of.get(entry["id"], ())) > 1]
    if several:
        first = images[several[0]]
        ids = " and ".join(sorted(map(str, classes_of[first["id"]])))
        raise ValueError(
            f"{file}: {len(several):,} of the {len(images):,} images have annotations of several categories, the first "
            f"is images[{several[0]}], {first['file_name']}, with {ids}: each image must have one class."
        )


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
