"""The file of a catalog: opened and checked, written in transactions, held by one stage at a time, and its settings."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from fastlt.data_prep.catalog import schema
from fastlt.foreign import parse_json
from fastlt.messages import one_line
from fastlt.ownership import open_own

_ROOM = 2**18  # bytes, without which SQLite speaks of a disk I/O error


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


class Database:
    """The open file; rows come as `sqlite3.Row`.

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
        self.fence: Callable[[Database], None] | None = None
        self._rehearses = False
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
            why = one_line(error, 300)
            if shutil.disk_usage(path.parent).free < _ROOM:
                why += " (its disk is full: make room)"
            elif "unable to open" in why or "readonly" in why:
                why += " (also to read it, file and folder have to be writable: SQLite keeps files beside it)"
            raise ValueError(f"{path} cannot be used as a catalog: {why}.") from None

    def _create_or_migrate(self, create: bool) -> None:
        if self._number("PRAGMA user_version") == schema.VERSION:  # and nobody who writes is in the way
            schema.require_no_others(self.connection)
            schema.require_columns(self.connection)
            return
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

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing: commits at the end, rolls back on an exception. Keep it short."""
        if not (self._rehearses and self.connection.in_transaction):
            self._run("BEGIN IMMEDIATE")
        try:
            if self.fence:
                self.fence(self)
            yield
        except BaseException:
            self._run("ROLLBACK")
            raise
        if not self._rehearses:
            self._run("COMMIT")

    @contextmanager
    def rehearsal(self) -> Iterator[None]:
        """What transactions write inside is seen inside alone: all of it is rolled back at the end."""
        self._rehearses = True
        try:
            yield
        finally:
            self._rehearses = False
            if self.connection.in_transaction:
                self._run("ROLLBACK")

    @contextmanager
    def lock(self, stage: str) -> Iterator[None]:
        """Holds the catalog for one writing stage; the kernel frees it when the process ends, however it ends.

        Raises:
            ValueError: another stage holds it.
        """
        with held_catalog(self.path, stage):
            yield

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

    def remember_json(self, name: str, value: dict[str, Any]) -> None:
        """Keeps an object under a name, as `json_setting` has it."""
        self.remember(name, json.dumps(value))

    def data_version(self) -> int:
        """Another number each time that somebody else has written, as far as this connection sees."""
        return self._number("PRAGMA data_version")

    def _number(self, query: str, *values: object) -> int:
        return self._run(query, values).fetchone()[0]
