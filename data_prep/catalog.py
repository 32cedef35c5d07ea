"""The catalog: one SQLite file that knows every class, candidate and image, where it came from and what became of it.

Its tables (`schema.py`) are the contract between the stages. Every table is read and written through the methods
below, in short transactions; killed at any instant, a stage goes on from what the file says. Readers are never in the
way (WAL).
"""

from __future__ import annotations

import fcntl
import json
import os
import sqlite3
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from fastlt.data_prep import schema
from fastlt.dataset.images import in_tar
from fastlt.foreign import parse_json
from fastlt.messages import one_line
from fastlt.ownership import open_own

_TOLD = ("page", "license", "attribution")


class Candidate(NamedTuple):
    """A URL that may be an image of a category; None of what a list has no column for."""

    category: int
    url: str
    host: str
    source: str
    page: str | None = ""
    license: str | None = ""
    attribution: str | None = ""


class ImageRow(NamedTuple):
    """An image in a shard; `id` is its candidate's."""

    id: int
    category: int
    shard: int
    offset: int
    num_bytes: int
    width: int
    height: int
    sha256: bytes
    hash: int


class SameBytes(NamedTuple):
    """An image that was made of certain bytes, and whether its candidate has been dropped since."""

    id: int
    is_dropped: bool


def require_catalog(path: Path) -> None:
    """Raises ValueError where there is no such file."""
    if not path.is_file():
        raise ValueError(f"there is no catalog at {path}: `fastlt discover` or `fastlt crawl --urls` makes one.")


@contextmanager
def held_catalog(path: Path, stage: str, wait: bool = False) -> Iterator[None]:
    """Holds a catalog for one writing stage; the kernel frees it when the process ends, however it ends.

    Args:
        path: of the catalog, which need not be open.
        stage: what the others are told.
        wait: for the others to end.

    Raises:
        ValueError: another stage holds it.
    """
    with open_own(Path(f"{path}.lock"), "a+") as file:
        told = ""
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                file.seek(0)
                holder = file.read() or "another stage"
                if not wait:
                    raise ValueError(f"{path} is in use: {holder} is running on it.") from None
                if holder != told:
                    print(f"waiting for {holder}, which is running on {path}", file=sys.stderr, flush=True)
                told = holder
                time.sleep(0.2)
        file.truncate(0)
        file.write(f"{stage} (process {os.getpid()})")
        file.flush()
        yield


class Catalog:
    """An open catalog; rows come as `sqlite3.Row`.

    Args:
        path: the file.
        create: make it when there is none.

    Attributes:
        fence: is called inside of each transaction before it writes, where several machines may write.

    Raises:
        ValueError: no such file, no catalog, or one of a newer version.
    """

    def __init__(self, path: Path, create: bool = False) -> None:
        if not create:
            require_catalog(path)
        if not path.parent.is_dir():
            raise ValueError(f"{path.parent}, the folder for the catalog, does not exist.")
        self.path, self._kinds = path, schema.kinds()
        self.fence: Callable[[Catalog], None] | None = None
        # Autocommit: transactions are begun by `transaction` alone.
        self.connection = sqlite3.connect(path, timeout=60, isolation_level=None, check_same_thread=False)
        self.connection.row_factory = self._row
        self._run = self.connection.execute
        try:
            self._run("PRAGMA trusted_schema = OFF")  # of a stranger, perhaps
            self._run("PRAGMA cell_size_check = ON")
            self._run("PRAGMA journal_mode = WAL")
            self._run("PRAGMA synchronous = NORMAL")  # a power cut may cost the last commits, never order
            self._run("PRAGMA foreign_keys = ON")
            self._create_or_migrate(create)
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:  # the latter: SQLite quotes what it cannot parse
            self.connection.close()
            raise ValueError(f"{path} cannot be used as a catalog: {one_line(error, 300)}.") from None

    def _create_or_migrate(self, create: bool) -> None:
        with self.transaction():  # two processes may open the same old catalog
            version = self._number("PRAGMA user_version")
            if not 0 <= version <= schema.VERSION:
                raise sqlite3.DatabaseError(
                    f"it has version {version}, this fastlt reads up to {schema.VERSION}: install a newer fastlt"
                )
            if version == 0:
                if self._number("SELECT count(*) FROM sqlite_schema"):
                    raise sqlite3.DatabaseError("it is another program's database")
                if not create:
                    raise sqlite3.DatabaseError("it is empty")
                steps = [schema.SCHEMA]
            else:
                schema.require_no_others(self.connection)
                steps = [schema.MIGRATIONS[number] for number in range(version, schema.VERSION)]
            for statement in (statement for step in steps for statement in step.split(";\n")):
                self._run(statement)
            if steps:
                self._run(f"PRAGMA user_version = {schema.VERSION}")
            schema.require_columns(self.connection)

    def _row(self, cursor: sqlite3.Cursor, values: tuple[Any, ...]) -> sqlite3.Row:
        """Raises ValueError for what no fastlt writes: SQLite keeps any kind of value in any column."""
        for (name, *_), value in zip(cursor.description, values, strict=True):
            if name in self._kinds and type(value) not in self._kinds[name]:
                raise ValueError(
                    f"{self.path} cannot be used as a catalog: {name!r} of a row in it is {str(value)[:40]!r}, which "
                    "no fastlt has written."
                )
        return sqlite3.Row(cursor, values)

    def __enter__(self) -> Catalog:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing: commits at the end, rolls back on an exception. Keep it short."""
        self._run("BEGIN IMMEDIATE")
        try:
            if self.fence:
                self.fence(self)
            yield
        except BaseException:
            self._run("ROLLBACK")
            raise
        self._run("COMMIT")

    @contextmanager
    def lock(self, stage: str) -> Iterator[None]:
        """Holds the catalog for one writing stage; the kernel frees it when the process ends, however it ends.

        Raises:
            ValueError: another stage holds it.
        """
        with held_catalog(self.path, stage):
            yield

    # Settings: what stages remember

    def setting(self, name: str) -> str:
        """A remembered value, or ""."""
        row = self._run("SELECT value FROM setting WHERE name = ?", [name]).fetchone()
        return row[0] if row else ""

    def json_setting(self, name: str) -> dict[str, Any]:
        """A remembered JSON object, {} where there is none.

        Raises:
            ValueError: it is something else.
        """
        try:
            found = parse_json(self.setting(name) or "{}")
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise ValueError(f"{self.path} cannot be used as a catalog: what it remembers as {name!r} is damaged.")
        return found

    def remember(self, name: str, value: str) -> None:
        """Keeps a value under a name."""
        self._run("INSERT OR REPLACE INTO setting VALUES (?, ?)", [name, value])

    # Target classes

    def targets(self) -> list[sqlite3.Row]:
        """All target classes, by id."""
        return self._run("SELECT * FROM target ORDER BY id").fetchall()

    def target_title(self, name: str) -> str:
        """How people call a target class; its name where the catalog does not know it."""
        row = self._run("SELECT title FROM target WHERE name = ?", [name]).fetchone()
        return row["title"] if row else name

    def names_of_targets(self) -> list[str]:
        """Titles and synonyms of all target classes; a synonym that is no text is none."""
        names = []
        for row in self.targets():
            try:
                synonyms = parse_json(row["synonyms"])
            except ValueError:
                synonyms = []
            names += [row["title"], *(synonyms if isinstance(synonyms, list) else [])]
        return [name for name in names if isinstance(name, str)]

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

    # Auxiliary categories and neighbors

    def categories(self, kept: bool = False) -> list[sqlite3.Row]:
        """All categories, or the kept ones that something speaks for, by id."""
        if not kept:
            return self._run("SELECT * FROM category ORDER BY id").fetchall()
        query = "SELECT * FROM category WHERE state = 'kept' AND id NOT IN (SELECT category FROM abandoned) ORDER BY id"
        return self._run(query).fetchall()

    def category(self, category: int) -> sqlite3.Row:
        """The category of that id."""
        return self._run("SELECT * FROM category WHERE id = ?", [category]).fetchone()

    def add_category(self, name: str, title: str) -> int:
        """The id of the category of that name, made if there is none."""
        self._run("INSERT OR IGNORE INTO category (name, title) VALUES (?, ?)", [name, title])
        return self._number("SELECT id FROM category WHERE name = ?", name)

    def keep_category(self, category: int) -> bool:
        """Takes a category in again that was rejected; whether it was."""
        query = "UPDATE category SET state = 'kept', reason = '' WHERE id = ? AND state != 'kept'"
        return self._run(query, [category]).rowcount > 0

    def reject_category(self, category: int, reason: str) -> None:
        """Takes a category out; it stays there, so that it is not named again."""
        self._run("UPDATE category SET state = 'rejected', reason = ? WHERE id = ?", [reason, category])

    def mark_categories(self, reasons: Mapping[int, str]) -> None:
        """Writes {category: what is doubtful about it} of kept ones, in the place of all that was written before."""
        with self.transaction():
            self._run("UPDATE category SET reason = '' WHERE state = 'kept' AND reason != ''")
            rows = ((reason, category) for category, reason in reasons.items())
            self.connection.executemany("UPDATE category SET reason = ? WHERE id = ? AND state = 'kept'", rows)

    def add_neighbor(self, target: int, category: int) -> None:
        """Makes a category a neighbor of a target, as it was given: what filter found for the category goes."""
        self.add_neighbors([(target, category)])

    def add_neighbors(self, pairs: Sequence[tuple[int, int]]) -> None:
        """The same for many (target, category) pairs, in one pass over those that are there."""
        categories = json.dumps(sorted({category for _, category in pairs}))
        found = "origin = 'found' AND category IN (SELECT value FROM json_each(?))"
        self._run(f"DELETE FROM neighbor WHERE {found}", [categories])
        self.connection.executemany("INSERT OR IGNORE INTO neighbor (target, category) VALUES (?, ?)", pairs)

    def set_found_neighbors(self, pairs: Iterable[tuple[int, int]]) -> None:
        """Replaces the (target, category) pairs that filter found; a category with given ones has no place for them."""
        self._run("DELETE FROM neighbor WHERE origin = 'found'")
        self.connection.executemany("INSERT INTO neighbor (target, category, origin) VALUES (?, ?, 'found')", pairs)

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

    # Answers of the language model

    def answer(self, key: str) -> str:
        """The answer to what was asked under that key, "" if there is none."""
        row = self._run("SELECT content FROM answer WHERE key = ?", [key]).fetchone()
        return row[0] if row else ""

    def keep_answer(self, key: str, model: str, content: str, prompt_tokens: int, completion_tokens: int) -> None:
        """Keeps an answer for good, or "" where it was of no use; what was asked again costs the sum."""
        row = [key, model, content, prompt_tokens, completion_tokens]
        self._run(
            "INSERT INTO answer VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET content = excluded.content,"
            " prompt_tokens = prompt_tokens + excluded.prompt_tokens,"
            " completion_tokens = completion_tokens + excluded.completion_tokens",
            row,
        )
        cost = prompt_tokens + completion_tokens
        self.remember("dearest answer", str(max(cost, int(self.setting("dearest answer") or 0))))

    def count_unusable_answer(self, why: str) -> None:
        """One more answer was of no use."""
        number = self.unusable_answers()
        self.remember("unusable answers", json.dumps(number | {why: number.get(why, 0) + 1}))

    def unusable_answers(self) -> dict[str, int]:
        """How many answers were of no use, by reason."""
        found = self.json_setting("unusable answers")
        if not all(type(number) is int for number in found.values()):
            raise ValueError(f"{self.path} cannot be used as a catalog: its numbers of unusable answers are damaged.")
        return found

    def answer_costs(self) -> sqlite3.Row:
        """Of all answers: `answers` of use, `prompt_tokens`, `completion_tokens`; `dearest`: tokens of one at most."""
        return self._run(
            "SELECT count(nullif(content, '')) AS answers, ifnull(sum(prompt_tokens), 0) AS prompt_tokens,"
            " ifnull(sum(completion_tokens), 0) AS completion_tokens,"
            " ifnull((SELECT CAST(value AS INTEGER) FROM setting WHERE name = 'dearest answer'),"
            " ifnull(max(prompt_tokens + completion_tokens), 0)) AS dearest FROM answer"  # of an older fastlt
        ).fetchone()

    # Searches of image sources

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

    # Candidates

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
            " AND id IN (SELECT value FROM json_each(?)) AND id NOT IN (SELECT candidate FROM listed)",
            [schema.UNLISTED, found],
        ).rowcount
        back = self._take_back(schema.UNLISTED, "id IN (SELECT candidate FROM listed)")
        return dropped, back

    def _take_back(self, reason: str, where: str, *values: str) -> int:
        """Makes candidates new that were dropped for a reason: the next crawl has their images, or fetches them."""
        query = f"UPDATE candidate SET state = 'new', reason = '' WHERE state = 'dropped' AND reason = ? AND {where}"
        return self._run(query, [reason, *values]).rowcount

    def remove_empty_categories(self) -> None:
        """Removes categories that nothing refers to: those of labels that a list had once."""
        self._run(
            "DELETE FROM category WHERE state = 'kept' AND id NOT IN (SELECT category FROM candidate"
            " UNION SELECT category FROM neighbor UNION SELECT category FROM search UNION SELECT category FROM image)"
        )

    def num_candidates(self, category: int | None = None) -> int:
        """Candidates of a category, or of all, but for those that lists have no more."""
        query = f"SELECT count(*) FROM candidate WHERE reason != '{schema.UNLISTED}'"
        return self._number(query) if category is None else self._number(f"{query} AND category = ?", category)

    def candidates_by_category(self) -> dict[int, int]:
        """{category: its candidates, but for those that lists have no more}."""
        query = f"SELECT category, count(*) FROM candidate WHERE reason != '{schema.UNLISTED}' GROUP BY 1"
        return dict(self._run(query).fetchall())

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

    # Parts

    def waiting_hosts(self) -> list[str]:
        """Hosts with candidates without an outcome, by name."""
        query = "SELECT DISTINCT host FROM candidate INDEXED BY candidate_work WHERE state = 'new' ORDER BY host"
        return [row[0] for row in self._run(query)]

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

    def unfetched_of_host(self, host: str) -> sqlite3.Cursor:
        """Candidates of a host without an outcome and without an image, as `copy_candidates` takes them."""
        query = (
            "SELECT id, category, url, host, source, page, license, attribution FROM candidate"
            " WHERE state = 'new' AND host = ? AND id NOT IN (SELECT id FROM image)"
        )
        return self._run(query, [host])

    def copy_candidates(self, rows: Iterable[tuple[Any, ...]]) -> None:
        """Enters another catalog's candidates under their numbers; those that are there stay as they are."""
        self.connection.executemany(
            "INSERT OR IGNORE INTO candidate (id, category, url, host, source, page, license, attribution)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            rows,
        )

    def ended(self, after: int, number: int) -> list[sqlite3.Row]:
        """The next candidates with an outcome after that id, with what `image` has of those that were fetched."""
        query = (
            "SELECT candidate.id, candidate.state, candidate.reason, candidate.twin, shard, offset, num_bytes, width,"
            " height, sha256, hash FROM candidate LEFT JOIN image ON image.id = candidate.id AND"
            " candidate.state = 'fetched' WHERE candidate.state != 'new' AND candidate.id > ? ORDER BY candidate.id"
            " LIMIT ?"
        )
        return self._run(query, [after, number]).fetchall()

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

    def set_outcomes(self, rows: Iterable[tuple[str, str, int | None, int]]) -> None:
        """Writes (state, reason, the image it repeats or None, id) of candidates."""
        self.connection.executemany("UPDATE candidate SET state = ?, reason = ?, twin = ? WHERE id = ?", rows)

    def give_up_host(self, host: str, reason: str) -> int:
        """Fails every candidate of the host that has no outcome; returns how many."""
        query = "UPDATE candidate SET state = 'failed', reason = ? WHERE state = 'new' AND host = ?"
        return self._run(query, [reason, host]).rowcount

    def retry_failed(self) -> None:
        """Opens what failed again, candidates and searches."""
        with self.transaction():
            self._run("UPDATE candidate SET state = 'new', reason = '' WHERE state = 'failed'")
            self._run("UPDATE search SET state = 'open', reason = '' WHERE state = 'failed'")

    def reopen(self, reason: str) -> int:
        """Opens candidates again that were dropped for this reason, whatever it says in parentheses; how many."""
        query = "UPDATE candidate SET state = 'new', reason = '', twin = NULL WHERE state = 'dropped' AND reason = ?"
        rows = self._run("SELECT DISTINCT reason FROM candidate WHERE state = 'dropped'").fetchall()
        wanted = [row[0] for row in rows if row[0].partition(" (")[0] == reason]
        return sum(self._run(query, [found]).rowcount for found in wanted)

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

    # What hosts were asked for lately

    def used(self, host: str) -> list[tuple[int, int, int]]:
        """(slot, requests, bytes) of a host, by slot."""
        query = "SELECT slot, requests, num_bytes FROM used WHERE host = ? ORDER BY slot"
        return [tuple(row) for row in self._run(query, [host])]

    def used_by_host(self) -> dict[str, tuple[int, int]]:
        """{host: (requests, bytes)}, as far as it is remembered."""
        query = "SELECT host, sum(requests), sum(num_bytes) FROM used GROUP BY host"
        return {host: (requests, num_bytes) for host, requests, num_bytes in self._run(query)}

    def add_used(self, rows: Iterable[tuple[str, int, int, int]]) -> None:
        """Adds (host, slot, requests, bytes), each of which may be negative where too much was put down."""
        self.connection.executemany(
            "INSERT INTO used VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET requests = requests + excluded.requests,"
            " num_bytes = num_bytes + excluded.num_bytes",
            rows,
        )

    def all_used(self) -> sqlite3.Cursor:
        """(host, slot, requests, bytes) of all hosts, as `copy_used` takes them."""
        return self._run("SELECT host, slot, requests, num_bytes FROM used")

    def copy_used(self, rows: Iterable[tuple[Any, ...]]) -> None:
        """Enters what another catalog has of hosts that are asked from there, or were: the higher count is right."""
        self.connection.executemany(
            "INSERT INTO used VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET requests = max(requests,"
            " excluded.requests), num_bytes = max(num_bytes, excluded.num_bytes)",
            rows,
        )

    def settle_used(self, first: int, last: int) -> None:
        """Forgets slots before the first, and takes those after the last, which is now, for the last."""
        with self.transaction():
            self._run("DELETE FROM used WHERE slot < ?", [first])
            self._run(
                "INSERT INTO used SELECT host, ?1, sum(requests), sum(num_bytes) FROM used WHERE slot > ?1"
                " GROUP BY host ON CONFLICT DO UPDATE SET requests = requests + excluded.requests,"
                " num_bytes = num_bytes + excluded.num_bytes",
                [last],
            )
            self._run("DELETE FROM used WHERE slot > ?", [last])

    # Shards and their images

    @property
    def shards_folder(self) -> Path:
        """Where crawl puts shards: beside the catalog, so that both move together."""
        return self.path.with_name(f"{self.path.stem}_shards")

    def shard_path(self, shard: int) -> Path:
        """The file of a finished shard."""
        return self.shards_folder / f"{shard:05d}.tar"

    def shards(self, state: str) -> list[sqlite3.Row]:
        """The shards of a state, "open" or "done", by id."""
        return self._run("SELECT * FROM shard WHERE state = ? ORDER BY id", [state]).fetchall()

    def next_shard(self) -> int:
        """The number of a new shard."""
        return self._number("SELECT ifnull(max(id), -1) + 1 FROM shard")

    def set_open_shard(self, shard: int, num_images: int, num_bytes: int) -> None:
        """How far an open shard is valid."""
        self._run("INSERT OR REPLACE INTO shard VALUES (?, 'open', ?, ?)", [shard, num_images, num_bytes])

    def finish_shard(self, shard: int) -> None:
        """A shard is whole and has its name."""
        self._run("UPDATE shard SET state = 'done' WHERE id = ?", [shard])

    def shard_counts(self, shard: int) -> dict[str, dict[str, int]]:
        """Images of a shard by `licenses`, `sources` and `categories`, most frequent first."""
        found = {}
        for name, column in (("licenses", "license"), ("sources", "source"), ("categories", "category.name")):
            query = (
                f"SELECT {column}, count(*) FROM image JOIN candidate USING (id) JOIN category"
                " ON category.id = image.category WHERE shard = ? GROUP BY 1 ORDER BY 2 DESC"
            )
            found[name] = dict(self._run(query, [shard]).fetchall())
        return found

    def add_images(self, rows: Iterable[ImageRow]) -> None:
        """Adds images that lie in shards."""
        self.connection.executemany(
            "INSERT INTO image (id, category, shard, offset, num_bytes, width, height, sha256, hash)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            rows,
        )

    def image_of_bytes(self, sha256: bytes) -> SameBytes | None:
        """The image that was made of these bytes."""
        query = "SELECT id, candidate.state != 'fetched' FROM image JOIN candidate USING (id) WHERE sha256 = ?"
        row = self._run(query, [sha256]).fetchone()
        return SameBytes(row[0], bool(row[1])) if row else None

    def forget_images(self, images: Iterable[int]) -> None:
        """Others are to take the place of these images, whose candidates were dropped."""
        self.connection.executemany("DELETE FROM image WHERE id = ?", ((image,) for image in images))

    def image_hashes(self) -> Iterator[list[sqlite3.Row]]:
        """(id, hash) of all images in use by id, some at a time."""
        found = self._run("SELECT id, hash FROM image_in_use ORDER BY id")
        while rows := found.fetchmany(100_000):
            yield rows

    def images_of_waiting(self) -> list[sqlite3.Row]:
        """(id, hash) of the images of candidates that were taken back, by id: they lie in shards already."""
        query = "SELECT id, hash FROM image JOIN candidate USING (id) WHERE candidate.state = 'new' ORDER BY id"
        return self._run(query).fetchall()

    def take_images_back(self, images: Iterable[int]) -> None:
        """Images of candidates that were taken back are to be filtered as new ones are."""
        self.connection.executemany(
            "UPDATE image SET state = 'new', reason = '', similarity = NULL, nearest = NULL,"
            " category = (SELECT category FROM candidate WHERE candidate.id = image.id) WHERE id = ?",
            ((image,) for image in images),
        )

    def has_images(self) -> bool:
        """Whether any image is in use."""
        return self._run("SELECT 1 FROM image_in_use LIMIT 1").fetchone() is not None

    def images(self) -> sqlite3.Cursor:
        """All images in use by id, each with the state of its shard as `shard_state`."""
        return self._run(
            "SELECT image.*, shard.state AS shard_state FROM image_in_use AS image JOIN shard ON shard.id = shard"
            " ORDER BY image.id"
        )

    def judge_images(self, rows: Iterable[tuple[str, str, float | None, int | None, int]]) -> None:
        """Writes (state, reason, similarity, nearest target, id) of images."""
        self.connection.executemany(
            "UPDATE image SET state = ?, reason = ?, similarity = ?, nearest = ? WHERE id = ?", rows
        )

    def empty_categories(self) -> list[str]:
        """Titles of kept categories without any image."""
        with_images = {row[0] for row in self._run("SELECT DISTINCT category FROM image_in_use")}
        return [row["title"] for row in self.categories(kept=True) if row["id"] not in with_images]

    def kept_images(self, unfiltered: bool = False) -> dict[str, list[str]]:
        """{category: [image, ...]} of the images that filter kept, as `read_image` takes them; no empty lists.

        Args:
            unfiltered: take every image that was crawled.

        Raises:
            ValueError: no image, or none that was filtered, or a crawl that did not end.
        """
        counts = dict(self._run("SELECT state, count(*) FROM image_in_use GROUP BY 1").fetchall())
        if not counts:
            raise ValueError(f"{self.path} has no images: run `fastlt crawl` first.")
        if not unfiltered and counts.get("new"):
            raise ValueError(
                f"{counts['new']:,} images of {self.path} were not filtered: run `fastlt filter`,"
                " or take all of them with --unfiltered."
            )
        if self.shards("open"):
            raise ValueError(f"a crawl of {self.path} was interrupted: run `fastlt crawl` again to finish it.")
        classes: dict[str, list[str]] = {}
        query = (
            "SELECT category.name, shard, offset, num_bytes FROM image_in_use AS image"
            " JOIN category ON category.id = image.category"
            " WHERE category.state = 'kept' AND (? OR image.state = 'kept') ORDER BY category.name, image.id"
        )
        for row in self._run(query, [unfiltered]):
            place = in_tar(self.shard_path(row["shard"]).absolute(), row["offset"], row["num_bytes"])
            classes.setdefault(row["name"], []).append(place)
        if not classes:
            raise ValueError(f"no image of {self.path} was kept: run `fastlt filter` with other thresholds.")
        return classes

    # All of it

    def status(self) -> dict[str, Any]:
        """Counts of every stage: {table: {state: {reason, "" for none: number}}}, and of pairs, answers and shards."""
        found: dict[str, Any] = {}
        for table in ("target", "category", "search", "candidate", "image"):
            states: dict[str, Any] = {}
            rows = "image_in_use" if table == "image" else table
            grouped = f"SELECT state, reason, count(*) FROM {rows} GROUP BY state, reason ORDER BY state, 3 DESC"
            for state, reason, number in self._run(grouped):
                states.setdefault(state, {})[reason] = number
            found[table] = states
        pairs = "SELECT count(*) FROM neighbor JOIN category ON category.id = category WHERE state = 'kept'"
        found["neighbor"] = self._number(pairs)
        costs = self.answer_costs()
        found["answer"] = {name: costs[name] for name in ("answers", "prompt_tokens", "completion_tokens")}
        found["answer"]["unusable"] = self.unusable_answers()
        found["shard"] = dict(self._run("SELECT state, count(*) FROM shard GROUP BY state").fetchall())
        return found

    def _number(self, query: str, *values: object) -> int:
        return self._run(query, values).fetchone()[0]
