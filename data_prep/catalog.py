"""The catalog: one SQLite file that knows every class, candidate and image, where it came from and what became of it.

The tables below are the contract between the stages, each of which reads and writes its own part in short
transactions. Killed at any instant, a stage goes on from what the file says. Readers are never in the way (WAL).
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SCHEMA_VERSION = 1
SCHEMA = """
CREATE TABLE setting (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;

-- What discover is given. State: open, done, or short of categories (reason says why it stopped).
CREATE TABLE target (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,             -- as class folders and label spaces have it
    title TEXT NOT NULL,                   -- as people say it
    synonyms TEXT NOT NULL DEFAULT '[]',   -- JSON list of other titles
    count INTEGER NOT NULL,                -- training images
    state TEXT NOT NULL DEFAULT 'open',
    reason TEXT NOT NULL DEFAULT ''
);

-- Auxiliary categories. State: kept, or rejected for a reason.
CREATE TABLE category (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,             -- normalized: the auxiliary class name in label spaces
    title TEXT NOT NULL,                   -- what image sources are asked for
    state TEXT NOT NULL DEFAULT 'kept',
    reason TEXT NOT NULL DEFAULT ''
);
CREATE TABLE neighbor (
    target INTEGER NOT NULL REFERENCES target,
    category INTEGER NOT NULL REFERENCES category,
    PRIMARY KEY (target, category)
) WITHOUT ROWID;

-- The LLM's answers by the SHA-256 of what it was asked, so that nothing is asked twice.
CREATE TABLE answer (
    key TEXT PRIMARY KEY,
    model TEXT NOT NULL,
    content TEXT NOT NULL,
    prompt_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL
) WITHOUT ROWID;

-- How far an image source was asked for a category. State: open, done, failed.
CREATE TABLE search (
    category INTEGER NOT NULL REFERENCES category,
    source TEXT NOT NULL,
    cursor TEXT,                           -- where the source goes on; NULL at the beginning
    found INTEGER NOT NULL DEFAULT 0,
    state TEXT NOT NULL DEFAULT 'open',
    reason TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (category, source)
) WITHOUT ROWID;

-- URLs of images. State: new, fetched, dropped (for good), failed (another day may be better).
CREATE TABLE candidate (
    id INTEGER PRIMARY KEY,
    category INTEGER NOT NULL REFERENCES category,
    url TEXT NOT NULL UNIQUE,
    host TEXT NOT NULL,
    source TEXT NOT NULL,
    page TEXT NOT NULL DEFAULT '',         -- where people see the image
    license TEXT NOT NULL DEFAULT '',
    attribution TEXT NOT NULL DEFAULT '',
    state TEXT NOT NULL DEFAULT 'new',
    reason TEXT NOT NULL DEFAULT '',
    twin INTEGER                           -- the image that a dropped duplicate is one of
);
CREATE INDEX candidate_outcome ON candidate (state, reason);
CREATE INDEX candidate_work ON candidate (host, id) WHERE state = 'new';

-- WebDataset shards. An open one is a `.partial` file, valid up to num_bytes.
CREATE TABLE shard (
    id INTEGER PRIMARY KEY,                -- 0 is 00000.tar
    state TEXT NOT NULL DEFAULT 'open',    -- open, done
    num_images INTEGER NOT NULL DEFAULT 0,
    num_bytes INTEGER NOT NULL DEFAULT 0
);

-- Images in shards; id is the candidate's. State: new, kept, dropped (by filter, for a reason).
CREATE TABLE image (
    id INTEGER PRIMARY KEY REFERENCES candidate,
    category INTEGER NOT NULL REFERENCES category,
    shard INTEGER NOT NULL REFERENCES shard,
    offset INTEGER NOT NULL,               -- of the JPEG inside the shard
    num_bytes INTEGER NOT NULL,
    width INTEGER NOT NULL,
    height INTEGER NOT NULL,
    sha256 BLOB NOT NULL UNIQUE,           -- of the bytes as they were fetched
    hash INTEGER NOT NULL,                 -- perceptual, 64 bits as a signed integer
    state TEXT NOT NULL DEFAULT 'new',
    reason TEXT NOT NULL DEFAULT '',
    similarity REAL,                       -- to the prototype of `nearest`
    nearest INTEGER REFERENCES target
);
CREATE INDEX image_outcome ON image (state, reason);
CREATE INDEX image_category ON image (category, state);
"""


class Catalog:
    """An open catalog; `connection` is what the stages talk SQL to (rows come as `sqlite3.Row`).

    Args:
        path: the file.
        create: make it when there is none.

    Raises:
        ValueError: no such file, no catalog, or one of another version.
    """

    def __init__(self, path: Path, create: bool = False) -> None:
        if not create and not path.is_file():
            raise ValueError(f"there is no catalog at {path}: `fastlt discover` or `fastlt crawl --urls` makes one.")
        if not path.parent.is_dir():
            raise ValueError(f"{path.parent}, the folder for the catalog, does not exist.")
        self.path = path
        # Autocommit: transactions are begun by `transaction` alone.
        self.connection = sqlite3.connect(path, timeout=60, isolation_level=None, check_same_thread=False)
        self.connection.row_factory = sqlite3.Row
        try:
            self.connection.execute("PRAGMA journal_mode = WAL")
            self.connection.execute("PRAGMA synchronous = NORMAL")  # a power cut may cost the last commits, never order
            self.connection.execute("PRAGMA foreign_keys = ON")
            self._create_or_check()
        except sqlite3.DatabaseError as error:
            self.connection.close()
            raise ValueError(f"{path} cannot be used as a catalog: {error}.") from None

    def _create_or_check(self) -> None:
        with self.transaction() as sql:
            (version,) = sql.execute("PRAGMA user_version").fetchone()
            if version == 0:
                (tables,) = sql.execute("SELECT count(*) FROM sqlite_schema").fetchone()
                if tables:
                    raise sqlite3.DatabaseError("it is another program's database")
                for statement in SCHEMA.split(";\n"):
                    sql.execute(statement)
                sql.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            elif version != SCHEMA_VERSION:
                raise sqlite3.DatabaseError(f"it has version {version}, this fastlt reads {SCHEMA_VERSION}")

    def __enter__(self) -> Catalog:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All or nothing: commits at the end, rolls back on an exception. Keep it short."""
        self.connection.execute("BEGIN IMMEDIATE")
        try:
            yield self.connection
        except BaseException:
            self.connection.execute("ROLLBACK")
            raise
        self.connection.execute("COMMIT")

    @contextmanager
    def lock(self, stage: str) -> Iterator[None]:
        """Holds the catalog for one writing stage; the kernel frees it when the process ends, however it ends.

        Raises:
            ValueError: another stage holds it.
        """
        with open(f"{self.path}.lock", "a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                raise ValueError(f"{self.path} is in use: {file.read() or 'another stage'} is running on it.") from None
            file.truncate(0)
            file.write(f"{stage} (process {os.getpid()})")
            file.flush()
            yield

    @property
    def shards_folder(self) -> Path:
        """Where crawl puts shards: beside the catalog, so that both move together."""
        return self.path.with_name(f"{self.path.stem}_shards")

    def shard_path(self, shard: int) -> Path:
        """The file of a finished shard."""
        return self.shards_folder / f"{shard:05d}.tar"

    def setting(self, name: str, default: str = "") -> str:
        """A remembered value."""
        row = self.connection.execute("SELECT value FROM setting WHERE name = ?", [name]).fetchone()
        return row[0] if row else default

    def remember(self, name: str, value: str) -> None:
        """Keeps a value under a name."""
        self.connection.execute("INSERT OR REPLACE INTO setting VALUES (?, ?)", [name, value])

    def add_category(self, name: str, title: str) -> int:
        """The id of the category of that name, made if there is none; inside the caller's transaction."""
        self.connection.execute("INSERT OR IGNORE INTO category (name, title) VALUES (?, ?)", [name, title])
        (found,) = self.connection.execute("SELECT id FROM category WHERE name = ?", [name]).fetchone()
        return found

    def add_candidates(self, rows: Iterable[tuple[int, str, str, str, str, str, str]]) -> int:
        """Adds (category, url, host, source, page, license, attribution) rows; returns how many URLs were new.

        A URL that is there already is left as it is.
        """
        before = self.connection.total_changes
        self.connection.executemany(
            "INSERT OR IGNORE INTO candidate (category, url, host, source, page, license, attribution)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            rows,
        )
        return self.connection.total_changes - before

    def status(self) -> dict[str, Any]:
        """Counts of every stage: {table: {state: number, or {reason: number} where there are reasons}}."""
        found: dict[str, Any] = {}
        for table in ("target", "category", "search", "candidate", "image"):
            states: dict[str, Any] = {}
            grouped = f"SELECT state, reason, count(*) FROM {table} GROUP BY state, reason ORDER BY state, 3 DESC"
            for state, reason, number in self.connection.execute(grouped):
                states.setdefault(state, {})[reason] = number
            found[table] = {s: r[""] if set(r) == {""} else r for s, r in states.items()}
        one = self.connection.execute
        pairs = "SELECT count(*) FROM neighbor JOIN category ON category.id = category WHERE state = 'kept'"
        found["neighbor"] = one(pairs).fetchone()[0]
        found["answer"] = dict(
            one(
                "SELECT count(*) AS answers, ifnull(sum(prompt_tokens), 0) AS prompt_tokens,"
                " ifnull(sum(completion_tokens), 0) AS completion_tokens FROM answer"
            ).fetchone()
        )
        found["shard"] = dict(one("SELECT state, count(*) FROM shard GROUP BY state").fetchall())
        return found

    def neighbors(self) -> dict[str, list[str]]:
        """{target: [category, ...]} of the kept categories, in order."""
        lists: dict[str, list[str]] = {}
        query = (
            "SELECT target.name, category.name FROM neighbor JOIN target ON target.id = target"
            " JOIN category ON category.id = category WHERE category.state = 'kept' ORDER BY target.id, category.name"
        )
        for target, category in self.connection.execute(query):
            lists.setdefault(target, []).append(category)
        return lists


def set_states(sql: sqlite3.Connection, table: str, rows: Iterable[tuple[str, str, int]]) -> None:
    """Writes (state, reason, id) rows of a table."""
    sql.executemany(f"UPDATE {table} SET state = ?, reason = ? WHERE id = ?", rows)
