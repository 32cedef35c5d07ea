"""Lists of URLs that were read, and which candidates stand in which."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path

from fastlt.data_prep.catalog import schema
from fastlt.data_prep.catalog.candidates import Candidate, Candidates

_TOLD = ("page", "license", "attribution")


class Lists(Candidates):
    """The tables `list` and `listed`."""

    def enter_candidate(self, row: Candidate, number: int) -> tuple[int, str]:
        """Adds a candidate of a list, or makes what is known of it what this says; (id, "new", "changed" or "known").

        What a list has no column for stays as an image source or another list has it. An image that comes under another
        category is to be filtered again.

        Args:
            row: what the list says.
            number: of the list.
        """
        query = (
            "SELECT id, category, page, license, attribution, source != 'list' OR EXISTS"
            " (SELECT 1 FROM listed WHERE candidate = id AND list != ?) AS elsewhere FROM candidate WHERE url = ?"
        )
        known = self._run(query, [number, row.url]).fetchone()
        if known is None:
            self.add_candidates([row])
            return self._number("SELECT last_insert_rowid()"), "new"
        kept = {name: known[name] if known["elsewhere"] else "" for name in _TOLD}
        said = (getattr(row, name) for name in _TOLD)
        about = (row.category, *(kept[name] if new is None else new for name, new in zip(_TOLD, said, strict=True)))
        if about == tuple(known)[1:-1]:
            return known["id"], "known"
        query = "UPDATE candidate SET category = ?, page = ?, license = ?, attribution = ? WHERE id = ?"
        self._run(query, [*about, known["id"]])
        self._run(
            "UPDATE image SET category = ?1, state = 'new', reason = '' WHERE id = ?2 AND category != ?1",
            [row.category, known["id"]],
        )
        return known["id"], "changed"

    def list_at(self, path: Path) -> sqlite3.Row | None:
        """What is remembered of a list of URLs."""
        return self._run("SELECT * FROM list WHERE path = ?", [os.path.abspath(path)]).fetchone()

    def begin_list(self, path: Path) -> int:
        """The id of a list, which is read from now on and not yet to its end."""
        query = "INSERT INTO list (path) VALUES (?) ON CONFLICT (path) DO UPDATE SET read_as = '' RETURNING id"
        return self._number(query, os.path.abspath(path))

    def end_list(self, number: int, columns: str, read_as: str) -> None:
        """A list was read to its end."""
        self._run("UPDATE list SET columns = ?, read_as = ? WHERE id = ?", [columns, read_as, number])

    def cut_lists(self) -> list[str]:
        """The lists that are read, or whose import was interrupted."""
        return [row[0] for row in self._run("SELECT path FROM list WHERE read_as = '' ORDER BY id")]

    def set_listed(self, number: int, candidates: Iterable[int]) -> None:
        """These candidates stand in that list."""
        rows = ((candidate, number) for candidate in candidates)
        self.connection.executemany("INSERT OR IGNORE INTO listed (candidate, list) VALUES (?, ?)", rows)

    def listed(self, number: int) -> list[int]:
        """The candidates in a list, by id."""
        return [row[0] for row in self._run("SELECT candidate FROM listed WHERE list = ? ORDER BY 1", [number])]

    def set_unlisted(self, number: int, gone: Sequence[int]) -> tuple[int, int]:
        """Drops what a list has no more and no other has, and takes back what stands in one again.

        What another list has too may not be as that one said it, which is to be read again.

        Returns:
            How many were dropped, and how many taken back.
        """
        found = json.dumps(gone)
        self._run(
            "DELETE FROM listed WHERE list = ? AND candidate IN (SELECT value FROM json_each(?))", [number, found]
        )
        self._run(
            "UPDATE list SET read_as = 'once' WHERE read_as != '' AND id IN"
            " (SELECT list FROM listed WHERE candidate IN (SELECT value FROM json_each(?)))",
            [found],
        )
        dropped = self._run(
            "UPDATE candidate SET state = 'dropped', reason = ?, twin = NULL WHERE source = 'list'"
            " AND id IN (SELECT value FROM json_each(?)) AND id NOT IN (SELECT candidate FROM listed)"
            f" AND reason NOT LIKE '{schema.REMOVED}%'",
            [schema.UNLISTED, found],
        ).rowcount
        back = self._take_back(schema.UNLISTED, "id IN (SELECT candidate FROM listed)")
        return dropped, back
