"""What every kind of table has: names of columns, rows, a sample of these, and a count of what was odd in them."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

Row = tuple[int, dict[str, Any]]
"""The number of a line or row, and what stands under each column's name."""
SAMPLE = 256  # first rows that tell what a table is like
_SPREAD = 2048  # and others from all over the file
NO_OBJECT = "that hold no JSON object"


class NoListError(ValueError):
    """A file is something else than a list of URLs."""


@dataclass
class Table(ABC):
    """One file.

    Attributes:
        names: of the columns; "1", "2" and so on where nothing names them.
        told: what was odd in the rows read last, each with how often and where first.
        unit: of the numbers of rows.
    """

    unit: ClassVar[str] = "line"

    file: Path
    names: list[str] = field(default_factory=list)
    has_header: bool = True
    told: Counter[str] = field(default_factory=Counter)
    first: dict[str, int] = field(default_factory=dict)

    @abstractmethod
    def rows(self, columns: Sequence[str] | None = None) -> Iterator[Row]:
        """Every row, from the first one, with these columns at least."""

    def sample(self) -> list[dict[str, Any]]:
        """The first rows, others from the whole file, and for each column one that has it: lists are often sorted."""
        draw = random.Random(0)
        first: list[dict[str, Any]] = []
        spread: list[dict[str, Any]] = []
        empty, late = set(self.names), []
        for number, row in enumerate(self.sampled_rows()):
            if begins := {name for name in empty if row.get(name) not in (None, "")}:
                empty -= begins
                late.append(row)
            if number < SAMPLE:
                first.append(row)
            elif len(spread) < _SPREAD:
                spread.append(row)
            elif (place := draw.randrange(number - SAMPLE + 1)) < _SPREAD:
                spread[place] = row
        self.told.clear()
        self.first.clear()
        return [*first, *spread, *(row for row in late if row not in first)]

    def sampled_rows(self) -> Iterator[dict[str, Any]]:
        """What a sample is drawn from, in order."""
        return (row for _, row in self.rows())

    def tell(self, what: str, number: int) -> None:
        """Counts something odd in a line."""
        self.told[what] += 1
        self.first.setdefault(what, number)
