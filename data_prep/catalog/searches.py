"""How far each image source was asked for each category."""

from __future__ import annotations

import sqlite3

from fastlt.data_prep.catalog.database import Database


class Searches(Database):
    """The table `search`."""

    def search(self, category: int, source: str) -> sqlite3.Row:
        """How far a source was asked for a category; a new search begins at its first page."""
        self._run("INSERT OR IGNORE INTO search (category, source) VALUES (?, ?)", [category, source])
        return self._run("SELECT * FROM search WHERE category = ? AND source = ?", [category, source]).fetchone()

    def add_page(self, category: int, source: str, cursor: str | None, found: int, state: str) -> None:
        """Writes down a page of a search: where the next one begins, how many URLs were new, and whether it goes on."""
        self._run(
            "UPDATE search SET cursor = ?, found = found + ?, state = ?, reason = '' WHERE category = ? AND source = ?",
            [cursor, found, state, category, source],
        )

    def fail_search(self, category: int, source: str, reason: str) -> None:
        """A source did not answer for a category."""
        self._run(
            "UPDATE search SET state = 'failed', reason = ? WHERE category = ? AND source = ?",
            [reason, category, source],
        )

    def searches_done(self, source: str) -> set[int]:
        """The categories for which a source has told all that it has."""
        query = "SELECT category FROM search WHERE source = ? AND state = 'done'"
        return {row[0] for row in self._run(query, [source])}

    def failed_searches(self) -> list[tuple[str, int]]:
        """(reason, number) of searches that a source did not answer, most frequent first."""
        query = "SELECT reason, count(*) FROM search WHERE state = 'failed' GROUP BY 1 ORDER BY 2 DESC"
        return [tuple(row) for row in self._run(query)]
