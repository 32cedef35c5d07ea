"""URLs that may be images, where each came from, and what became of it."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from fastlt.data_prep.catalog import schema
from fastlt.data_prep.catalog.database import Database


class Candidate(NamedTuple):
    """A URL that may be an image of a category; None of what a list has no column for."""

    category: int
    url: str
    host: str
    source: str
    page: str | None = ""
    license: str | None = ""
    attribution: str | None = ""


_COUNTS = f"reason NOT IN ('{schema.UNLISTED}', '{schema.EXCLUDED}')"  # towards those sought


class Candidates(Database):
    """The table `candidate`."""

    def add_candidates(self, rows: Iterable[Candidate]) -> int:
        """Adds candidates; returns how many URLs were new.

        A URL that is there already is left as it is, but for one that a list had once and has no more.
        """
        before = self.connection.total_changes
        self.connection.executemany(
            "INSERT INTO candidate (category, url, host, source, page, license, attribution)"
            " VALUES (?, ?, ?, ?, ifnull(?, ''), ifnull(?, ''), ifnull(?, '')) ON CONFLICT (url) DO UPDATE SET"
            " category = excluded.category, source = excluded.source, page = excluded.page, license = excluded.license,"
            f" attribution = excluded.attribution, state = 'new', reason = '' WHERE reason = '{schema.UNLISTED}'",
            rows,
        )
        return self.connection.total_changes - before

    def candidate_of_url(self, url: str) -> int | None:
        """The id of the candidate with that URL."""
        row = self._run("SELECT id FROM candidate WHERE url = ?", [url]).fetchone()
        return row["id"] if row else None

    def num_candidates(self, category: int | None = None) -> int:
        """Candidates of a category, or of all, but for those that lists have no more, or leave out."""
        query = f"SELECT count(*) FROM candidate WHERE {_COUNTS}"
        return self._number(query) if category is None else self._number(f"{query} AND category = ?", category)

    def candidates_by_category(self) -> dict[int, int]:
        """{category: its candidates, but for those that lists have no more, or leave out}."""
        query = f"SELECT category, count(*) FROM candidate WHERE {_COUNTS} GROUP BY 1"
        return dict(self._run(query).fetchall())

    def candidate(self, candidate: int) -> sqlite3.Row:
        """A candidate with name and title of its category."""
        (row,) = self.candidates([candidate]).values()
        return row

    def candidates(self, ids: Sequence[int]) -> dict[int, sqlite3.Row]:
        """Candidates by id: their columns, and `category_name` and `title` of their category."""
        query = (
            "SELECT candidate.*, category.name AS category_name, category.title FROM candidate"
            f" JOIN category ON category.id = category WHERE candidate.id IN ({', '.join('?' * len(ids))})"
        )
        return {row["id"]: row for row in self._run(query, ids)}

    def num_waiting(self) -> int:
        """Candidates without an outcome."""
        return self._number("SELECT count(*) FROM candidate WHERE state = 'new'")

    def next_host(self, after: str) -> str | None:
        """The first host after that one, by name, with a candidate that has no outcome."""
        # SQLite would take the other index, and read all of it.
        query = (
            "SELECT host FROM candidate INDEXED BY candidate_work"
            " WHERE state = 'new' AND host > ? ORDER BY host LIMIT 1"
        )
        row = self._run(query, [after]).fetchone()
        return row["host"] if row else None

    def waiting_of_host(self, host: str, after: int, number: int) -> list[sqlite3.Row]:
        """The next candidates (id, url) of a host without an outcome, after that id."""
        query = "SELECT id, url FROM candidate WHERE state = 'new' AND host = ? AND id > ? ORDER BY id LIMIT ?"
        return self._run(query, [host, after, number]).fetchall()

    def waiting_by_host(self, failed: bool = False) -> dict[str, int]:
        """{host: its candidates without an outcome}, with those that failed if these are to be tried again."""
        states = "state IN ('new', 'failed')" if failed else "state = 'new'"
        return dict(self._run(f"SELECT host, count(*) FROM candidate WHERE {states} GROUP BY host").fetchall())

    def hosts(self) -> list[str]:
        """Hosts of all candidates."""
        return [row[0] for row in self._run("SELECT DISTINCT host FROM candidate")]

    def waiting_hosts(self) -> list[str]:
        """Hosts with candidates without an outcome, by name."""
        query = "SELECT DISTINCT host FROM candidate INDEXED BY candidate_work WHERE state = 'new' ORDER BY host"
        return [row[0] for row in self._run(query)]

    def set_outcomes(self, rows: Iterable[tuple[str, str, int | None, int]]) -> None:
        """Writes (state, reason, the image it repeats or None, id) of candidates."""
        self.connection.executemany("UPDATE candidate SET state = ?, reason = ?, twin = ? WHERE id = ?", rows)

    def give_up_host(self, host: str, reason: str) -> int:
        """Fails every candidate of the host that has no outcome; returns how many."""
        query = "UPDATE candidate SET state = 'failed', reason = ? WHERE state = 'new' AND host = ?"
        return self._run(query, [reason, host]).rowcount

    def reopen(self, reason: str) -> int:
        """Opens candidates again that were dropped for this reason, whatever it says in parentheses; how many."""
        query = "UPDATE candidate SET state = 'new', reason = '', twin = NULL WHERE state = 'dropped' AND reason = ?"
        rows = self._run("SELECT DISTINCT reason FROM candidate WHERE state = 'dropped'").fetchall()
        wanted = [row[0] for row in rows if row[0].partition(" (")[0] == reason]
        return sum(self._run(query, [found]).rowcount for found in wanted)

    def _take_back(self, reason: str, where: str, *values: str) -> int:
        """Makes candidates new that were dropped for a reason: the next crawl has their images, or fetches them."""
        query = f"UPDATE candidate SET state = 'new', reason = '' WHERE state = 'dropped' AND reason = ? AND {where}"
        return self._run(query, [reason, *values]).rowcount

    def licenses(self) -> list[str]:
        """The licenses of candidates, "" for none."""
        return [row[0] for row in self._run("SELECT DISTINCT license FROM candidate")]

    def set_refused_licenses(self, refused: Iterable[str], reason: str) -> tuple[int, int, int]:
        """Drops what has these licenses, fetched or not, and takes back what was dropped for another one.

        Images stay in their shards, but no stage sees them. A duplicate of one that was dropped is opened again.

        Returns:
            How many were taken back, dropped, and opened.
        """
        found = json.dumps(sorted(refused))
        back = self._take_back(reason, "license NOT IN (SELECT value FROM json_each(?))", found)
        dropped = self._run(
            "UPDATE candidate SET state = 'dropped', reason = ? WHERE state IN ('new', 'failed', 'fetched')"
            " AND license IN (SELECT value FROM json_each(?))",
            [reason, found],
        ).rowcount
        opened = self._run(
            "UPDATE candidate SET state = 'new', reason = '', twin = NULL WHERE state = 'dropped'"
            " AND twin IN (SELECT id FROM candidate WHERE state = 'dropped')"
            " AND license NOT IN (SELECT value FROM json_each(?))",
            [found],
        ).rowcount
        return back, dropped, opened

    def urls_of_source(self, source: str) -> Iterator[sqlite3.Row]:
        """All candidates (id, url) of a source, one at a time."""
        return iter(self._run("SELECT id, url FROM candidate WHERE source = ?", [source]))

    def set_excluded(self, excluded: Iterable[int]) -> tuple[int, int]:
        """Drops these, fetched or not, and takes back what was dropped so and is not among them; how many of both.

        Images stay in their shards, but no stage sees them.
        """
        found = json.dumps([*excluded])
        back = self._take_back(schema.EXCLUDED, "id NOT IN (SELECT value FROM json_each(?))", found)
        dropped = self._run(
            "UPDATE candidate SET state = 'dropped', reason = ? WHERE state IN ('new', 'failed', 'fetched')"
            " AND id IN (SELECT value FROM json_each(?))",
            [schema.EXCLUDED, found],
        ).rowcount
        return back, dropped

    def unfetched_of_host(self, host: str) -> sqlite3.Cursor:
        """Candidates of a host without an outcome and without an image, as `copy_candidates` takes them."""
        query = (
            "SELECT id, category, url, host, source, page, license, attribution FROM candidate"
            " WHERE state = 'new' AND host = ? AND id NOT IN (SELECT id FROM image)"
        )
        return self._run(query, [host])

    def copy_candidates(self, rows: Iterable[tuple[Any, ...]]) -> None:
        """Enters another catalog's candidates under their numbers; those that are there stay as they are.

        Raises:
            sqlite3.IntegrityError: a number is another URL's here, or a URL has another number.
        """
        self.connection.executemany(
            "INSERT INTO candidate (id, category, url, host, source, page, license, attribution)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET url = NULL WHERE url != excluded.url",
            rows,
        )

    def ended(self, after: int, number: int) -> list[sqlite3.Row]:
        """The next candidates with an outcome after that id, with what `image` has of those that were fetched."""
        query = (
            "SELECT candidate.id, url, candidate.state, candidate.reason, candidate.twin, shard, offset, num_bytes,"
            " width, height, sha256, hash FROM candidate LEFT JOIN image ON image.id = candidate.id AND"
            " candidate.state = 'fetched' WHERE candidate.state != 'new' AND candidate.id > ? ORDER BY candidate.id"
            " LIMIT ?"
        )
        return self._run(query, [after, number]).fetchall()
