"""ATTRIBUTION.csv: whom each image of an encoded data set from a catalog is owed to; written and read by rows."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from fastlt.atomic import new_file
from fastlt.foreign import table_cell
from fastlt.messages import one_line

FILE = "ATTRIBUTION.csv"
COLUMNS = ("class", "index", "url", "page", "attribution", "license", "source")
_LONGEST = 10_000  # characters of a cell


class Credit(NamedTuple):
    """A row; `sample` counts the training images of the data set from 0, the column is called index."""

    class_name: str
    sample: int
    url: str
    page: str
    attribution: str
    license: str
    source: str


def cell(text: str) -> str:
    """A text as a row of the file has it, which is shorter where the text is odd: to be looked for there as this."""
    return table_cell(one_line(text, _LONGEST))


def write_credits(folder: Path, credits: Iterable[Credit]) -> None:
    """Writes the file of a folder. No cell of it is a formula to a spreadsheet, and each row is a line."""
    with new_file(folder / FILE) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(COLUMNS)
        for name, index, *said in credits:
            table.writerow([table_cell(name), index, *map(cell, said)])


def read_credits(folder: Path) -> Iterator[Credit]:
    """The rows of the file of a folder, in order; none where there is no file.

    Raises:
        ValueError: it is not as `write_credits` writes it.
    """
    path = folder / FILE
    if not path.exists():
        return
    before = -1
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        table = csv.reader(file)
        try:
            if tuple(next(table, ())) != COLUMNS:
                raise ValueError(f"its first line is not {','.join(COLUMNS)}")
            for row in table:
                if len(row) != len(COLUMNS) or not row[1].isdecimal() or int(row[1]) <= before:
                    raise ValueError(f"line {table.line_num} has no image of its own: {one_line(','.join(row))}")
                before = int(row[1])
                yield Credit(row[0], before, *row[2:])
        except (ValueError, csv.Error) as error:
            raise ValueError(f"{path} is damaged, encode again: {error}.") from None
