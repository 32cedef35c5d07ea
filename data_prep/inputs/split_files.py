"""The split files that data sets are published with, as a mapping from class name to image paths.

Two forms: text with a line `relative/path label` an image (ImageNet-LT, Places-LT), and COCO's JSON (iNaturalist).
"""

from __future__ import annotations

import itertools
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from fastlt.data_prep.inputs import coco


class _Row(NamedTuple):
    where: str  # in the file, for people
    path: str
    label: int | str


def is_json(file: Path) -> bool:
    """Whether the split file is of COCO's form."""
    return file.suffix.lower() == ".json"


def read_split_file(file: Path, root: Path, names: Sequence[str] | None = None) -> dict[str, list[Path]]:
    """{class name: [image path]}, classes by their label or category id, the images of each in the order of the file.

    A JSON file names its categories; where two have the same name, theirs are followed by their ids. Categories without
    images are no classes. In a text file a class is called after the folder that its images lie in, if each class has
    exactly one and no two share it, else by its label.

    Args:
        file: the split file.
        root: the folder that its paths are relative to.
        names: the classes of a text file, if it is not the list of training images: label i is names[i].

    Raises:
        ValueError: the file is malformed or empty; labels are no numbers from 0 on without gaps, or unknown; a path
            leaves `root`; an image is listed twice or is not there.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"the split file {file} cannot be read: {error}.") from None
    if is_json(file):
        rows, name_of = _read_json(file, text)
    else:
        rows = _read_text(file, text)
        name_of = dict(enumerate(names)) if names is not None else _names(file, rows)
    if not rows:
        raise ValueError(f"{file} lists no image.")
    _check_paths(file, rows)
    classes: dict[str, list[Path]] = {name: [] for name in name_of.values()}
    base = root.absolute()
    for where, path, label in rows:
        if label not in name_of:
            raise ValueError(f"{where}: there is no class {label}, only 0 to {len(name_of) - 1}.")
        classes[name_of[label]].append(base / path)
    _check_presence(file, root, list(itertools.chain.from_iterable(classes.values())))
    return {name: images for name, images in classes.items() if images}


def _read_text(file: Path, text: str) -> list[_Row]:
    rows = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        words = line.rsplit(maxsplit=1)
        if len(words) != 2 or not re.fullmatch(r"[0-9]{1,9}", words[1]):
            raise ValueError(f"{file}:{number}: {line.strip()!r} is not a path followed by a space and a whole number.")
        rows.append(_Row(f"{file}:{number}", words[0].strip(), int(words[1])))
    return rows


def _names(file: Path, rows: list[_Row]) -> dict[int | str, str]:
    """The class of each label of a list of training images."""
    labels = {row.label for row in rows}
    gap = next(label for label in itertools.count() if label not in labels)
    if gap != len(labels):
        raise ValueError(
            f"{file} has labels up to {max(map(int, labels))}, but none is {gap}: the labels of the training images "
            "must be numbers from 0 on without gaps."
        )
    folders = {(row.label, PurePosixPath(row.path).parent.name) for row in rows}
    folder_of = dict(folders)
    if len(folders) == len(set(folder_of.values())) == len(labels) and all(folder_of.values()):
        return {label: folder_of[label] for label in range(len(labels))}
    return {label: str(label) for label in range(len(labels))}


def _read_json(file: Path, text: str) -> tuple[list[_Row], dict[int | str, str]]:
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{file}:{error.lineno}: this is not valid JSON: {error.msg}; is the file complete?") from None
    rows = [_Row(*row) for row in coco.labeled_images(file, data)]
    categories = sorted(coco.categories(file, data), key=lambda entry: (isinstance(entry["id"], str), entry["id"]))
    return rows, {entry["id"]: entry["name"] for entry in categories}


def _check_paths(file: Path, rows: list[_Row]) -> None:
    seen: dict[str, str] = {}
    for where, path, _ in rows:
        if not path or path.startswith("/") or ".." in path.split("/"):
            raise ValueError(f"{where}: {path!r} does not stay in the folder of images: paths must be relative to it.")
        path = os.path.normpath(path)
        if path in seen:
            earlier = seen[path].removeprefix(f"{file}").lstrip(": ")
            raise ValueError(f"{where}: {path} is listed twice, first at {earlier}: remove one of them.")
        seen[path] = where


def _check_presence(file: Path, root: Path, paths: list[Path]) -> None:
    """By listing folders: asking for each of half a million images takes minutes on a network's disk."""
    if not root.is_dir():
        raise ValueError(f"the folder of images, {root}, does not exist: --images says where it is.")
    listed: dict[str, set[str]] = {}
    missing = []
    for path in paths:
        folder, name = os.path.split(path)
        if folder not in listed:
            listed[folder] = set(os.listdir(folder)) if os.path.isdir(folder) else set()
        if name not in listed[folder]:
            missing.append(path.relative_to(root.absolute()))
    if missing:
        first = ", ".join(map(str, missing[:3]))
        raise ValueError(
            f"{len(missing):,} of the {len(paths):,} images of {file} are not below {root}, the first {first}: "
            "is this the folder that the paths are relative to?"
        )
