"""The catalog's file: made, migrated, refused; what its stages share is written through its methods."""

import contextlib
import sqlite3
from pathlib import Path

import pytest

from fastlt.data_prep.catalog import Candidate, Catalog, ImageRow, schema
from support.paths import ROOT


def columns(path: Path, table: str) -> list[str]:
    with sqlite3.connect(path) as connection:
        return [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]


def version(path: Path) -> int:
    with sqlite3.connect(path) as connection:
        return connection.execute("PRAGMA user_version").fetchone()[0]


@pytest.fixture
def old(tmp_path) -> Path:
    """A catalog of today, with a candidate in it."""
    path = tmp_path / "old.sqlite"
    with Catalog(path, create=True) as catalog, catalog.transaction():
        category = catalog.add_category("kite", "kite")
        catalog.add_candidates([Candidate(category, "http://a/1.jpg", "a:80", "list")])
    return path


def test_an_older_catalog_gets_the_columns_it_lacks(old, monkeypatch):
    monkeypatch.setattr(schema, "VERSION", schema.VERSION + 2)
    steps = {
        schema.VERSION - 2: "ALTER TABLE candidate ADD COLUMN seen TEXT NOT NULL DEFAULT 'never';\nSELECT 1",
        schema.VERSION - 1: "ALTER TABLE image ADD COLUMN place TEXT;\nUPDATE candidate SET seen = 'migrated'",
    }
    monkeypatch.setattr(schema, "MIGRATIONS", steps)
    with Catalog(old) as catalog:
        assert catalog.candidate(1)["seen"] == "migrated"
        assert catalog.num_waiting() == 1
    assert version(old) == schema.VERSION
    assert columns(old, "image")[-1] == "place"
    with Catalog(old) as catalog:  # a step is run once
        catalog.connection.execute("UPDATE candidate SET seen = 'again'")
    with Catalog(old) as catalog:
        assert catalog.candidate(1)["seen"] == "again"


def test_neighbors_of_the_first_version_were_given(tmp_path):
    path = tmp_path / "first.sqlite"
    with Catalog(path, create=True) as catalog, catalog.transaction():
        catalog.enter_targets([("hawk", "hawk", "[]", 1)])
        catalog.add_neighbor(1, catalog.add_category("kite", "kite"))
        for later in schema.MIGRATIONS:  # what it did not have yet
            assert later in (1, 2, 3, 4, 5), "take back what that step adds, too"
        for what in ("VIEW image_taken", "VIEW by_hand", "VIEW decided", "TABLE decision"):
            catalog.connection.execute(f"DROP {what}")
        for what in ("VIEW abandoned", "VIEW image_in_use", "TABLE listed", "TABLE list", "TABLE used"):
            catalog.connection.execute(f"DROP {what}")
        catalog.connection.execute("ALTER TABLE neighbor DROP COLUMN origin")
        catalog.connection.execute("ALTER TABLE category DROP COLUMN synonyms")
        catalog.connection.execute("PRAGMA user_version = 1")
    with Catalog(path) as catalog, catalog.transaction():
        catalog.set_found_neighbors([])
        assert catalog.neighbors() == {"hawk": ["kite"]}
        assert catalog.given_pairs() == [(1, "hawk")]
    assert version(path) == schema.VERSION
    Catalog(tmp_path / "new.sqlite", create=True).connection.close()
    assert everything(path) == everything(tmp_path / "new.sqlite")


def everything(path: Path) -> dict[str, set[tuple]]:
    """{table, view or index: (name, type, not null, default) of its columns}."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        names = [row[0] for row in connection.execute("SELECT name FROM sqlite_schema")]
        return {n: {row[1:5] for row in connection.execute(f"PRAGMA table_info('{n}')")} for n in names}


def test_a_migration_that_fails_leaves_the_catalog_as_it_was(old, monkeypatch):
    before = version(old)
    monkeypatch.setattr(schema, "VERSION", before + 1)
    steps = {before: "ALTER TABLE candidate ADD COLUMN seen TEXT;\nUPDATE no_such_table SET a = 1"}
    monkeypatch.setattr(schema, "MIGRATIONS", steps)
    with pytest.raises(ValueError, match="cannot be used as a catalog: no such table: no_such_table"):
        Catalog(old)
    assert version(old) == before
    assert "seen" not in columns(old, "candidate")


def test_catalogs_that_are_none(old, tmp_path):
    with pytest.raises(ValueError, match="there is no catalog at"):
        Catalog(tmp_path / "none.sqlite")
    with sqlite3.connect(old) as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(ValueError, match=r"it has version 99, this fastlt reads up to \d+: install a newer fastlt"):
        Catalog(old)
    other = tmp_path / "other.sqlite"
    with sqlite3.connect(other) as connection:
        connection.execute("CREATE TABLE theirs (a)")
    with pytest.raises(ValueError, match="another program's database"):
        Catalog(other)
    (tmp_path / "empty.sqlite").write_text("")
    with pytest.raises(ValueError, match="cannot be used as a catalog: it is empty"):
        Catalog(tmp_path / "empty.sqlite")
    with sqlite3.connect(old) as connection:
        connection.execute("PRAGMA user_version = -3")
    with pytest.raises(ValueError, match="it has version -3"):
        Catalog(old)
    (tmp_path / "text.sqlite").write_text("no database, but long enough to be read as one " * 100)
    with pytest.raises(ValueError, match="cannot be used as a catalog"):
        Catalog(tmp_path / "text.sqlite")


def test_nothing_else_knows_its_tables():
    """SQL stands in the catalog alone, but for what DuckDB is asked of dumps and taxonomies."""
    statements = ("SELECT ", "INSERT ", "UPDATE ", "DELETE ")
    knowing = {
        str(file.relative_to(ROOT / "data_prep"))
        for file in (ROOT / "data_prep").rglob("*.py")
        if file.parent.name not in ("dumps", "taxonomy", "catalog")
        if any(f'"{statement}' in file.read_text() for statement in statements)
    }
    assert not knowing


def test_a_transaction_is_all_or_nothing(old):
    with Catalog(old) as catalog:

        def write(shard: int) -> None:
            with catalog.transaction():
                catalog.set_outcomes([("fetched", "", None, 1)])
                catalog.add_images([ImageRow(1, 1, shard, 0, 10, 5, 5, b"x", 3)])

        with pytest.raises(sqlite3.IntegrityError):
            write(77)  # there is no such shard
        assert catalog.num_waiting() == 1
        catalog.set_open_shard(0, 1, 10)
        write(0)
        assert catalog.num_waiting() == 0
        assert catalog.image_of_bytes(b"x") == (1, False, False)
        with pytest.raises(ValueError, match=r"1 images of .* were not filtered"):
            catalog.kept_images()
