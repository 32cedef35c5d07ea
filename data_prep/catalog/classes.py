"""Target classes, auxiliary categories, and which of these neighbor which target."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fastlt.data_prep.catalog import schema
from fastlt.data_prep.catalog.database import Database
from fastlt.foreign import parse_json

_NOT_BY_HAND = "NOT EXISTS (SELECT 1 FROM decision WHERE kind = 'category' AND what = category.name)"


class Classes(Database):
    """The tables `target`, `category` and `neighbor`."""

    def targets(self) -> list[sqlite3.Row]:
        """All target classes, by id."""
        return self._run("SELECT * FROM target ORDER BY id").fetchall()

    def target_title(self, name: str) -> str:
        """How people call a target class; its name where the catalog does not know it."""
        row = self._run("SELECT title FROM target WHERE name = ?", [name]).fetchone()
        return row["title"] if row else name

    def names_of_targets(self) -> list[str]:
        """Titles and synonyms of all target classes; a synonym that is no text is none."""
        return [name for row in self.targets() for name in (row["title"], *_texts_in(row["synonyms"]))]

    def enter_targets(self, rows: Iterable[tuple[str, str, str, int]]) -> None:
        """Adds (name, title, JSON list of synonyms, training images) rows; known names are brought up to date."""
        self.connection.executemany(
            "INSERT INTO target (name, title, synonyms, count) VALUES (?, ?, ?, ?) ON CONFLICT (name) DO UPDATE"
            " SET title = excluded.title, synonyms = excluded.synonyms, count = excluded.count",
            rows,
        )

    def set_target_state(self, target: int, state: str, reason: str) -> None:
        """What became of a target class."""
        self._run("UPDATE target SET state = ?, reason = ? WHERE id = ?", [state, reason, target])

    def categories(self, kept: bool = False) -> list[sqlite3.Row]:
        """All categories, or the kept ones that something speaks for, by id."""
        if not kept:
            return self._run("SELECT * FROM category ORDER BY id").fetchall()
        query = "SELECT * FROM category WHERE state = 'kept' AND id NOT IN (SELECT category FROM abandoned) ORDER BY id"
        return self._run(query).fetchall()

    def rejected_categories(self) -> set[int]:
        """The categories that are not kept."""
        return {row[0] for row in self._run("SELECT id FROM category WHERE state != 'kept'")}

    def category(self, category: int) -> sqlite3.Row:
        """The category of that id."""
        return self._run("SELECT * FROM category WHERE id = ?", [category]).fetchone()

    def add_category(self, name: str, title: str) -> int:
        """The id of the category of that name, made if there is none."""
        self._run("INSERT OR IGNORE INTO category (name, title) VALUES (?, ?)", [name, title])
        return self._number("SELECT id FROM category WHERE name = ?", name)

    def keep_category(self, category: int) -> bool:
        """Takes a category in again that was rejected, but not by a person or on request; whether it was."""
        query = (
            "UPDATE category SET state = 'kept', reason = ''"
            f" WHERE id = ? AND state != 'kept' AND reason != ? AND {_NOT_BY_HAND}"
        )
        return self._run(query, [category, schema.REMOVED]).rowcount > 0

    def reject_category(self, category: int, reason: str) -> None:
        """Takes a category out, but for one that a person accepted; it stays there, so that it is not named again."""
        query = f"UPDATE category SET state = 'rejected', reason = ? WHERE id = ? AND {_NOT_BY_HAND}"
        self._run(query, [reason, category])

    def mark_categories(self, reasons: Mapping[int, str]) -> None:
        """Writes {category: what is doubtful about it} of kept ones, in the place of all that was written before."""
        with self.transaction():
            self._run("UPDATE category SET reason = '' WHERE state = 'kept' AND reason != ''")
            rows = ((reason, category) for category, reason in reasons.items())
            query = f"UPDATE category SET reason = ? WHERE id = ? AND state = 'kept' AND {_NOT_BY_HAND}"
            self.connection.executemany(query, rows)

    def synonyms(self) -> dict[int, list[str]]:
        """{category: its other names} of those that have some."""
        rows = self._run("SELECT id, synonyms FROM category WHERE synonyms != '[]'")
        return {row["id"]: _texts_in(row["synonyms"]) for row in rows}

    def set_synonyms(self, synonyms: Mapping[int, Sequence[str]]) -> None:
        """Writes {category: its other names} in the place of all that was written before."""
        rows = [(json.dumps(names, ensure_ascii=False), category) for category, names in synonyms.items()]
        with self.transaction():
            self._run("UPDATE category SET synonyms = '[]' WHERE synonyms != '[]'")
            self.connection.executemany("UPDATE category SET synonyms = ? WHERE id = ?", rows)

    def remove_empty_categories(self) -> None:
        """Removes categories that nothing refers to: those of labels that a list had once."""
        self._run(
            f"DELETE FROM category WHERE state = 'kept' AND {_NOT_BY_HAND} AND id NOT IN ("
            "SELECT category FROM candidate UNION SELECT category FROM neighbor UNION SELECT category FROM search"
            " UNION SELECT category FROM image)"
        )

    def category_rows(self) -> sqlite3.Cursor:
        """All categories, as `copy_categories` takes them."""
        return self._run("SELECT id, name, title, state, reason FROM category")

    def copy_categories(self, rows: Iterable[tuple[Any, ...]]) -> None:
        """Enters another catalog's categories under their numbers; what is there is made like theirs."""
        self.connection.executemany(
            "INSERT INTO category (id, name, title, state, reason) VALUES (?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE"
            " SET name = excluded.name, title = excluded.title, state = excluded.state, reason = excluded.reason",
            rows,
        )

    def add_neighbor(self, target: int, category: int) -> None:
        """Makes a category a neighbor of a target, as it was given: what filter found for the category goes."""
        self.add_neighbors([(target, category)])

    def add_neighbors(self, pairs: Sequence[tuple[int, int]]) -> None:
        """The same for many (target, category) pairs, in one pass over those that are there."""
        categories = json.dumps(sorted({category for _, category in pairs}))
        found = "origin = 'found' AND category IN (SELECT value FROM json_each(?))"
        self._run(f"DELETE FROM neighbor WHERE {found}", [categories])
        pairs = self._without_dropped(pairs)
        self.connection.executemany("INSERT OR IGNORE INTO neighbor (target, category) VALUES (?, ?)", pairs)

    def set_found_neighbors(self, pairs: Iterable[tuple[int, int]]) -> None:
        """Replaces the (target, category) pairs that filter found; a category with given ones has no place for them."""
        self._run("DELETE FROM neighbor WHERE origin = 'found'")
        pairs = self._without_dropped(pairs)
        self.connection.executemany(
            "INSERT OR IGNORE INTO neighbor (target, category, origin) VALUES (?, ?, 'found')", pairs
        )

    def _without_dropped(self, pairs: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
        """The (target, category) pairs but for those that a person dropped."""
        query = (
            "SELECT target.id, category.id FROM decided JOIN target ON target.name = target_name"
            " JOIN category ON category.name = what WHERE kind = 'pair' AND verdict = 'drop'"
        )
        dropped = {tuple(row) for row in self._run(query)}
        return [pair for pair in pairs if pair not in dropped]

    def neighbors_of(self, target: int) -> list[sqlite3.Row]:
        """The categories that were named for a target, by title."""
        query = (
            "SELECT category.* FROM neighbor JOIN category ON category.id = category"
            " WHERE target = ? AND origin = 'given' ORDER BY title"
        )
        return self._run(query, [target]).fetchall()

    def neighbors(self) -> dict[str, list[str]]:
        """{target: [category, ...]} of the kept categories, in order."""
        lists: dict[str, list[str]] = {}
        query = (
            "SELECT target.name, category.name FROM neighbor JOIN target ON target.id = target"
            " JOIN category ON category.id = category WHERE category.state = 'kept' ORDER BY target.id, category.name"
        )
        for target, category in self._run(query):
            lists.setdefault(target, []).append(category)
        return lists

    def given_pairs(self) -> list[tuple[int, str]]:
        """(category id, target name) of the neighbors that a person or discover gave."""
        query = "SELECT category, name FROM neighbor JOIN target ON target.id = target WHERE origin = 'given'"
        return [tuple(row) for row in self._run(query)]

    def pairs_with_targets(self) -> list[tuple[int, tuple[int, str, str]]]:
        """(category id, (target's id, name, title)) of all neighbors, whoever gave them, by target."""
        query = (
            "SELECT category, target.id, target.name, target.title FROM neighbor JOIN target ON target.id = target"
            " ORDER BY target.id"
        )
        return [(row[0], tuple(row)[1:]) for row in self._run(query)]


def _texts_in(synonyms: str) -> list[str]:
    """Of a JSON list, what is text: a catalog may come from a stranger."""
    try:
        found = parse_json(synonyms)
    except ValueError:
        found = None
    return [name for name in found if isinstance(name, str)] if isinstance(found, list) else []
