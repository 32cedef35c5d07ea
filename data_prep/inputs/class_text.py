"""Class lists as text: what each line says of a class, in the forms in which data sets and spreadsheets have it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fastlt.data_prep.inputs.split_files import read_rows, text_classes
from fastlt.data_prep.inputs.text import Header, header_fields, split_fields, unquoted
from fastlt.data_prep.names import names_by_folder
from fastlt.dataset.images import EXTENSIONS

# How columns may be called, in the order of preference; the first that is there is taken.
_COLUMNS = {
    "name": (
        *("name", "class_name", "classname", "class", "folder", "dir_name", "wnid", "synset", "label", "category"),
        *("species", "scientific_name", "taxon"),
    ),
    "title": ("title", "common_name", "words", "description"),
    "count": ("count", "counts", "num_images", "images", "image_count", "frequency", "number", "num", "n", "training"),
    "id": ("id", "class_id", "classid", "index", "category_id", "class_index"),
}
WNID = r"n\d{8}"
"""WordNet's id of a noun."""


@dataclass(frozen=True)
class Entry:
    """A class as one file tells it: the count may be in another file, which may know the class by its id."""

    name: str
    title: str = ""
    synonyms: tuple[str, ...] = ()
    count: int | None = None
    id: int | str | None = None


Lines = Sequence[tuple[int, str]]
"""Those that are not empty, with their numbers."""


def text_entries(source: Path, text: str) -> list[Entry]:
    """The classes of a text file, of one of these forms.

    A split file; columns under a header; a name and, after a tab, comma or semicolon, a count; Places365's
    `/a/airfield 0`; a WordNet id and titles; a name after its number (CUB) or before it, numbers going up from 0 or 1;
    a name a line.

    Raises:
        ValueError: a count is no number, or the header does not say where the names are.
    """
    lines = [(number, line.strip()) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
    if not lines:
        return []
    if _is_split_file(lines):
        return _split_entries(source)
    header = header_fields(lines[0][1])
    if header and _is_table(header, lines):
        return list(_table_entries(source, header, lines[1:]))
    if source.suffix.lower() in (".csv", ".tsv") and len(lines) > 1 and lines[0][1].lower() in _COLUMNS["name"]:
        lines = lines[1:]
    return _coded(lines) or _places(lines) or _numbered(lines) or list(_counted(source, lines))


def _is_split_file(lines: Lines) -> bool:
    _, last = lines[-1]
    return any(Path(path).suffix.lower() in EXTENSIONS for path in (unquoted(f) for f in re.split(r"[\s,;]+", last)))


def _split_entries(source: Path) -> list[Entry]:
    rows = read_rows(source, tell=print)
    counts = Counter(row.label for row in rows)
    return [Entry(name, count=counts[label], id=label) for label, name in text_classes(source, rows).items()]


def _is_table(header: Header, lines: Lines) -> bool:
    known = {name for names in _COLUMNS.values() for name in names} & {field.lower() for field in header.fields}
    if header.delimiter is None or not known:
        return False
    # "label, tag" may be a class and its synonym.
    return len(known) > 1 or all(len(split_fields(line, header.delimiter)) == len(header.fields) for _, line in lines)


def _table_entries(source: Path, header: Header, lines: Lines) -> Iterator[Entry]:
    at = _columns(source, header.fields)
    for number, line in lines:
        fields = split_fields(line, header.delimiter)
        if len(fields) != len(header.fields):
            raise ValueError(f"line {number} of {source} has not the columns of the header: {line[:80]!r}.")
        said = {column: fields[place] for column, place in at.items()}
        count = _count(source, number, said["count"]) if said.get("count") else None
        key = said.get("id", "")
        yield Entry(said["name"], said.get("title", ""), (), count, int(key) if key.isdecimal() else key or None)


def _columns(source: Path, fields: list[str]) -> dict[str, int]:
    lower = [field.lower().replace(" ", "_") for field in fields]
    at = {
        column: lower.index(name)
        for column, names in _COLUMNS.items()
        if (name := next((name for name in names if name in lower), None))
    }
    others = [place for place in range(len(fields)) if place not in at.values()]
    if "name" not in at and not others and "id" in at:
        at["name"] = at["id"]  # for counts of classes whose names another file has
    if "name" not in at and len(others) == 1:
        at["name"] = others[0]
    if "name" not in at:
        raise ValueError(f"{source} has the columns {', '.join(fields)}: which has the names? Call it name.")
    return at


def _coded(lines: Lines) -> list[Entry]:
    """`n01440764 tench, Tinca tinca`, or `n01440764 1 tench`, or with a tab or comma."""
    found = [re.fullmatch(rf"({WNID})[\s,;]\s*(?:(\d+)\s+)?(.*[^\W\d].*)", line) for _, line in lines]
    return [Entry(m[1], title=unquoted(m[3]), id=int(m[2]) if m[2] else None) for m in found if m] if all(found) else []


def _places(lines: Lines) -> list[Entry]:
    """`/a/apartment_building/outdoor 8`."""
    found = [re.fullmatch(r"/(\S+)(?:\s+(\d+))?", line) for _, line in lines]
    paths = [m[1] for m in found if m]
    names = names_by_folder(set(enumerate(paths)))
    if len(paths) < len(lines) or names is None:
        return []
    # People say the outer one last: an outdoor apartment building.
    titles = [" ".join(part for part in reversed(path.split("/")) if len(part) > 1) for path in paths]
    ids = [int(m[2]) if m and m[2] else None for m in found]
    return [Entry(names[i], titles[i], id=ids[i]) for i in range(len(paths))]


def _numbered(lines: Lines) -> list[Entry]:
    """`1 001.Black_footed_Albatross` or `airfield 0`: numbers that only count the lines are ids."""
    for form in (r"(?P<id>\d+)\s+(?P<name>\S.*)", r"(?P<name>.*\S) +(?P<id>\d+)"):
        found = [m for _, line in lines if (m := re.fullmatch(form, line))]
        ids = [int(m["id"]) for m in found]
        if len(found) == len(lines) > 1 and ids in (list(range(len(ids))), list(range(1, len(ids) + 1))):
            names = [unquoted(m["name"]) for m in found]
            if not any(name.isdecimal() for name in names):
                return [Entry(name, id=id) for name, id in zip(names, ids, strict=True)]
    return []


def _counted(source: Path, lines: Lines) -> Iterator[Entry]:
    """`name`, or `name<TAB>count`; with a comma or semicolon where every line has a number behind it."""
    rows = [line for _, line in lines]
    form = next((d for d in ";," if all(re.fullmatch(rf'.+{d}\s*"?\d+"?', row) for row in rows)), "\t")
    for number, line in lines:
        name, delimiter, count = line.rpartition(form) if form in line else (line, "", "")
        yield Entry(unquoted(name), count=_count(source, number, unquoted(count)) if delimiter else None)


def _count(source: Path, number: int, text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,15}(\.0+)?", text):
        raise ValueError(f"line {number} of {source} has the count {text!r}, which is not a number.")
    return int(text.partition(".")[0])
