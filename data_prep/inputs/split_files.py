"""The split files that data sets are published with, as a mapping from class name to image paths.

Two forms: text with a line `relative/path label` an image (ImageNet-LT, Places-LT), and COCO's JSON (iNaturalist).
"""

from __future__ import annotations

import itertools
import json
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from fastlt.data_prep.inputs import coco
from fastlt.data_prep.inputs.text import header_fields, read_text, split_fields, unquoted
from fastlt.data_prep.names import class_name, names_by_folder
from fastlt.dataset.images import EXTENSIONS
from fastlt.foreign import parse_json

# How the columns of a list with a header may be called.
_PATHS = ("path", "file", "filename", "file_name", "filepath", "file_path", "image", "img", "image_path", "image_id")
_LABELS = ("label", "labels", "class", "class_id", "classid", "category_id", "category", "target", "y")
_SPLIT_COLUMNS = ("split", "subset", "partition", "phase", "set", "dataset", "usage")
_SPLIT_OF = {
    name: split
    for split, names in {
        "train": ("train", "training", "trn", "tr"),
        "val": ("val", "valid", "validation", "dev", "publictest"),
        "test": ("test", "testing", "tst", "privatetest"),
    }.items()
    for name in names
}
_FLAGS = {
    "istrain": "train",
    "istraining": "train",
    "isvalid": "val",
    "isval": "val",
    "isvalidation": "val",
    "istest": "test",
}
_TRUE, _FALSE = {"1", "true", "t", "yes"}, {"0", "false", "f", "no"}
_ROW = re.compile(r"(?P<path>.+?)(?:\s*[,;\t]\s*|\s+)(?P<label>[\"']?\d[\d.]*[\"']?)")


class Row(NamedTuple):
    """An image of a split file."""

    where: str  # in the file, for people
    path: str
    label: int | str


def is_json(file: Path) -> bool:
    """Whether the split file is of COCO's form."""
    return file.suffix.lower() == ".json"


def read_split_file(
    file: Path, root: Path, names: Sequence[str] | Mapping[int | str, str] | None = None, split: str = "train"
) -> dict[str, list[Path]]:
    """{class name: [image path]}, classes by their label or category id, the images of each in the order of the file.

    A JSON file names its categories; where two have the same name, theirs are followed by their ids. Categories without
    images are no classes. In a text file a class is called after the folder that its images lie in, if each class has
    exactly one, with as many of those above it as tell it from the others, else by its label.

    Args:
        file: the split file.
        root: the folder that its paths are relative to.
        names: the classes of a text file, if it is not the list of training images: `text_classes` of that one, or
            names in the order of the labels.
        split: "train", "val" or "test": of a file that has several, in a column of its own, which one is meant.

    Raises:
        ValueError: the file is malformed or empty; labels are no numbers from 0 or 1 on without gaps, or unknown; a
            path leaves `root`; an image is listed twice or is not there.
    """
    if is_json(file):
        rows, name_of = _read_json(file)
    else:
        rows = read_rows(file, split, print)
        name_of = _numbered(rows, names) if names is not None else text_classes(file, rows)
        if names is None and 0 not in name_of:
            print(f"{file}: its labels are taken as counted from 1", flush=True)
    if not rows:
        raise ValueError(f"{file} lists no image.")
    base = root.absolute()
    rows = [row._replace(path=_relative(row.path, base)) for row in rows]
    _check_paths(file, rows)
    _check_labels(rows, name_of)
    paths = _present(file, root, [row.path for row in rows])
    classes: dict[str, list[Path]] = {name: [] for name in name_of.values()}
    for row, path in zip(rows, paths, strict=True):
        classes[name_of[row.label]].append(path)
    return {name: images for name, images in classes.items() if images}


def read_rows(file: Path, split: str = "train", tell: Callable[[str], object] = lambda said: None) -> list[Row]:
    """The rows of a text file: path and label, apart by spaces, a tab or a comma, or in columns under a header.

    Where a column says which split each image is of, and these are several, only the rows of `split` count, as
    `tell` is told.

    Raises:
        ValueError: a line is none, or the header does not say which columns are meant, or no image is of that split.
    """
    # Names of files may be in another encoding than UTF-8: as Linux gives them, they are found.
    text = read_text(file, "split file", errors="surrogateescape")
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    header = header_fields(lines[0][1]) if lines else None
    if header is None or any("/" in field or Path(field).suffix.lower() in EXTENSIONS for field in header.fields):
        return [_row(file, number, line) for number, line in lines]
    at = _columns(file, header.fields)
    if header.delimiter is None and at == (0, 1) and len(header.fields) == 2:
        return [_row(file, number, line) for number, line in lines[1:]]  # paths may have spaces
    table = []
    for number, line in lines[1:]:
        fields = split_fields(line, header.delimiter)
        if len(fields) != len(header.fields):
            raise ValueError(f"{file}:{number}: {line.strip()!r} has not the columns of the header.")
        table.append((number, line, fields))
    for column, name in enumerate(header.fields):
        if column not in at:
            table = _of_split(file, split, name, column, table, tell)
    return [_row_of(file, number, line, *(fields[column] for column in at)) for number, line, fields in table]


_Line = tuple[int, str, list[str]]


def _of_split(
    file: Path, split: str, name: str, at: int, table: list[_Line], tell: Callable[[str], object]
) -> list[_Line]:
    """The lines of a table that are of that split, where column `at`, whose name is `name`, says so of each."""
    values = Counter(fields[at] for _, _, fields in table)
    split_of = {value: _split_of(_plain(name), _plain(value), split) for value in values}
    found = set(split_of.values())
    if len(values) < 2 or ("" in found and _plain(name) not in _SPLIT_COLUMNS):
        return table  # of something else: classes may be called train
    if found == {""} and not all(map(str.isdecimal, values)):
        return table
    said = ", ".join(f"{number:,} {value}" for value, number in values.most_common(5))
    mine = [line for line in table if split_of[line[2][at]] == split]
    if not mine or "" in found:
        unclear = "none is" if not mine else "not all are of a known split, to find"
        raise ValueError(
            f"{file}: of its column {name} ({said}) {unclear} {split}: give those rows in a file of their own."
        )
    tell(f"{file}: of its {name} ({said}) the {len(mine):,} of {split} are taken")
    return mine


def _plain(text: str) -> str:
    return "".join(c for c in text.lower() if c.isalnum())


def _split_of(name: str, value: str, wanted: str) -> str:
    """The split that a value stands for; "" where it stands for none."""
    if name in _FLAGS and value in _TRUE | _FALSE:
        if value in _TRUE:
            return _FLAGS[name]
        # What is not for training is held out, for whichever split is asked for.
        return "train" if _FLAGS[name] != "train" else wanted if wanted != "train" else "test"
    return _SPLIT_OF.get(value, "")


def text_classes(file: Path, rows: list[Row]) -> dict[int | str, str]:
    """The class of each label of a list of training images; labels begin with 0, or all with 1.

    Raises:
        ValueError: labels have gaps.
    """
    labels = {row.label for row in rows}
    first = 1 if labels == set(range(1, len(labels) + 1)) else 0
    gap = next(label for label in itertools.count(first) if label not in labels)
    if gap != len(labels) + first:
        raise ValueError(
            f"{file} has labels up to {max(map(int, labels))}, but none is {gap}: the labels of the training images "
            "must be numbers from 0 or 1 on without gaps."
        )
    folders = {(int(row.label), os.path.dirname(row.path.replace("\\", "/"))) for row in rows}
    names = names_by_folder(folders) or {label: str(label) for label in range(first, gap)}
    return {label: class_name(names[label], str(file)) for label in range(first, gap)}


def _row(file: Path, number: int, line: str) -> Row:
    found = _ROW.fullmatch(line.strip())
    return _row_of(file, number, line, found["path"] if found else "", found["label"] if found else "")


def _row_of(file: Path, number: int, line: str, path: str, label: str) -> Row:
    path, label = unquoted(path), unquoted(label)
    if not path or not re.fullmatch(r"[0-9]{1,9}(\.0+)?", label):
        if path and label:
            raise ValueError(f"{file}:{number}: the label {label!r} is no whole number, as labels of split files are.")
        raise ValueError(f"{file}:{number}: {line.strip()!r} is not a path followed by a space and a whole number.")
    return Row(f"{file}:{number}", path, int(label.partition(".")[0]))


def _columns(file: Path, fields: list[str]) -> tuple[int, int]:
    """Where path and label stand under a header."""
    lower = [field.lower() for field in fields]
    path, label = (next((lower.index(name) for name in known if name in lower), None) for known in (_PATHS, _LABELS))
    if len(fields) == 2:  # the other one
        path, label = path if label is None else 1 - label, label if path is None else 1 - path
    if path is None or label is None:
        raise ValueError(
            f"{file} begins with {', '.join(fields)}: if these are columns, call those of paths and labels path and "
            "label; else this line lacks the number of a class."
        )
    return path, label


def _numbered(rows: list[Row], names: Sequence[str] | Mapping[int | str, str]) -> dict[int | str, str]:
    """The class of each label, where only the order of the classes is known: counted from 1 where they end so."""
    if isinstance(names, Mapping):
        return dict(names)
    labels = {row.label for row in rows}
    first = 1 if 0 not in labels and len(names) in labels else 0
    return dict(enumerate(names, first))


def _check_labels(rows: list[Row], name_of: Mapping[int | str, str]) -> None:
    for row in rows:
        if row.label not in name_of:
            known = list(name_of)
            first = int(known[0])
            other = f"; are they counted from {1 - first} here?" if row.label in (0, len(known)) else ""
            raise ValueError(f"{row.where}: there is no class {row.label}, only {first} to {known[-1]}{other}.")


def _relative(path: str, base: Path) -> str:
    """Relative to `base`, also where the list has whole paths, a slash before each, or Windows' backslashes."""
    if "\\" in path and not os.path.exists(base / path):
        path = path.replace("\\", "/")
    return path.removeprefix(f"{base}/").lstrip("/")


def _read_json(file: Path) -> tuple[list[Row], dict[int | str, str]]:
    text = read_text(file, "split file")
    try:
        data = parse_json(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{file}:{error.lineno}: this is not valid JSON: {error.msg}; is the file complete?") from None
    except ValueError as error:
        raise ValueError(f"{file} is not like COCO's: {error}.") from None
    rows = [Row(*row) for row in coco.labeled_images(file, data)]
    categories = sorted(coco.categories(file, data), key=lambda entry: (isinstance(entry["id"], str), entry["id"]))
    return rows, {entry["id"]: entry["name"] for entry in categories}


def _check_paths(file: Path, rows: list[Row]) -> None:
    seen: dict[str, str] = {}
    for where, path, _ in rows:
        if not path or ".." in path.split("/"):
            raise ValueError(f"{where}: {path!r} does not stay in the folder of images: paths must be relative to it.")
        path = os.path.normpath(path)
        if path in seen:
            earlier = seen[path].removeprefix(f"{file}").lstrip(": ")
            raise ValueError(f"{where}: {path} is listed twice, first at {earlier}: remove one of them.")
        seen[path] = where


def _present(file: Path, root: Path, paths: list[str]) -> list[Path]:
    """The images as they lie on the disk, where Unicode may write their names otherwise than the list does.

    By listing folders: asking for each of half a million images takes minutes on a network's disk.
    """
    if not root.is_dir():
        raise ValueError(f"the folder of images, {root}, does not exist: --images says where it is.")
    folders = _Folders()
    base = str(root.absolute())
    found = [folders.find(base, path) for path in paths]
    missing = [path for path, there in zip(paths, found, strict=True) if there is None]
    if missing:
        raise ValueError(
            f"{len(missing):,} of the {len(paths):,} images of {file} are not below {root}, the first "
            f"{', '.join(missing[:3])}: is this the folder that the paths are relative to?"
        )
    return [Path(there) for there in found if there]


class _Folders:
    """What lies in folders, each listed once."""

    def __init__(self) -> None:
        self._names: dict[str, dict[str, str]] = {}

    def find(self, base: str, path: str) -> str | None:
        """The place of a path below `base`."""
        folder, name = os.path.split(os.path.join(base, os.path.normpath(path)))
        if name in self._inside(folder):
            return os.path.join(folder, name)
        place = base
        for part in os.path.normpath(path).split("/"):
            there = self._inside(place).get(unicodedata.normalize("NFC", part))
            if there is None:
                return None
            place = os.path.join(place, there)
        return place

    def _inside(self, folder: str) -> dict[str, str]:
        """{a name, as it is and in NFC: as it is}."""
        if folder not in self._names:
            names = os.listdir(folder) if os.path.isdir(folder) else []
            self._names[folder] = {unicodedata.normalize("NFC", name): name for name in names} | dict(
                zip(names, names, strict=True)
            )
        return self._names[folder]
