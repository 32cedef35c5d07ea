"""Taxonomies as JSON: ranks of iNaturalist's categories, or what lies above each class."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa

from fastlt.data_prep.discover.taxonomy.form import FORMS, LINE, Taxonomy
from fastlt.data_prep.dumps.database import Database
from fastlt.data_prep.dumps.snapshot import Snapshot
from fastlt.data_prep.inputs import coco
from fastlt.data_prep.inputs.taxonomy import lineages, load_taxonomy
from fastlt.messages import one_line


def read_json(database: Database, file: Path, photos_column: str | None) -> Taxonomy:
    """Makes the tables of a taxonomy.

    Args:
        database: with the table `named` and the macro `key_of`.
        file: the file.
        photos_column: the field of a category that has the number of its photos.

    Raises:
        ValueError: it is no JSON, or no taxonomy.
    """
    data = load_taxonomy(file)
    ranked = isinstance(data, dict) and isinstance(data.get("categories"), list)
    day = Snapshot(file, file).day
    if not ranked:
        if photos_column:
            raise ValueError(f"--photos-column {one_line(photos_column)}: {file} has no numbers, only names.")
        nodes = _Nodes()
        for name, above in lineages(file, data).items():
            nodes.add([("", part) for part in (*above[::-1], name)])
        nodes.enter(database)
        return Taxonomy("a taxonomy of names", day, False, "", [])
    categories = coco.categories(file, data)
    images = coco.images_per_category(data)
    nodes = _Nodes()
    common = []
    for category in categories:
        name = category["name"]
        line = [(rank, category.get(rank)) for rank in LINE]
        path = [(rank, part) for rank, part in line if isinstance(part, str) and part and part != name]
        if not path:
            raise ValueError(f"{file}: category {one_line(name)!r} has none of the ranks {', '.join(LINE)}: {FORMS}.")
        number = category.get(photos_column) if photos_column else images[category["id"]] if images else None
        known = type(number) is int and 0 <= number < 2**40
        place = nodes.add([*path, ("species", name)], str(category["id"]), number if known else None)
        if isinstance(category.get("common_name"), str):
            common.append((place, category["common_name"]))
    if photos_column and not any(photos_column in category for category in categories):
        raise ValueError(f"no category of {file} has the field {one_line(photos_column)!r}.")
    nodes.enter(database)
    names = pa.table({"id": pa.array([at for at, _ in common], pa.int64()), "name": [name for _, name in common]})
    database.run("INSERT INTO also SELECT category, id FROM given JOIN named ON key = key_of(name)", given=names)
    counted = "own" if photos_column else "below" if images else ""
    return Taxonomy("ranks of iNaturalist's categories", day, True, counted, [])


class _Nodes:
    """Taxa by all that they belong to."""

    def __init__(self) -> None:
        self._places: dict[tuple[str, ...], int] = {}
        self._rows: list[list[Any]] = []

    def add(self, path: list[tuple[str, str]], shown: str = "", photos: int | None = None) -> int:
        """The place of a taxon.

        Args:
            path: (rank, name) from the root to it.
            shown: its id as people know it.
            photos: of it.
        """
        names = tuple(name for _, name in path)
        place = -1
        for depth, (rank, name) in enumerate(path, 1):
            upper, place = place, self._places.setdefault(names[:depth], len(self._rows))
            if place == len(self._rows):
                self._rows.append([place, name, name, rank, None if upper < 0 else upper, None, depth == len(path)])
        row = self._rows[place]
        row[1], row[5], row[6] = shown or row[1], photos, True
        return place

    def enter(self, database: Database) -> None:
        """Makes the table `taxon`. Where there are no ranks, what was added itself is of one, all else of another."""
        kinds = (pa.int64(), pa.string(), pa.string(), pa.string(), pa.int64(), pa.int64(), pa.bool_())
        names = ("id", "shown", "name", "rank", "parent", "photos", "is_own")
        columns = zip(*self._rows, strict=True) if self._rows else ((),) * len(names)
        made = [pa.array(column, kind) for column, kind in zip(columns, kinds, strict=True)]
        database.run(
            "CREATE TABLE taxon AS SELECT * EXCLUDE (is_own, rank), key_of(name) AS key, true AS active, coalesce("
            "nullif(rank, ''), if(is_own, 'class', 'group')) AS rank, NULL::BIGINT AS accepted FROM given",
            given=pa.table(made, names=names),
        )
