"""Catalogs of a stranger: whatever is in them, `fastlt status` answers at once, in one sentence."""

import json
import re
import sqlite3
import subprocess
from pathlib import Path

import pytest

from fastlt.data_prep.catalog import Candidate, Catalog
from support.paths import BIN

pytestmark = pytest.mark.medium
ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT"


@pytest.fixture
def catalog(tmp_path) -> Path:
    path = tmp_path / "c.sqlite"
    with Catalog(path, create=True) as opened, opened.transaction():
        category = opened.add_category("kite", "kite")
        opened.enter_targets([("hawk", "hawk", "[]", 1)])
        opened.add_candidates([Candidate(category, "http://a/1.jpg", "a:80", "list")])
        opened.keep_answer("key", "model", "content", 1, 1)
    return path


def status(catalog: Path, *words: str) -> subprocess.CompletedProcess:
    command = [str(BIN / "fastlt"), "status", str(catalog), *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=20)


def change(catalog: Path, script: str) -> None:
    connection = sqlite3.connect(catalog)
    connection.executescript(f"PRAGMA foreign_keys = OFF; PRAGMA writable_schema = ON; {script}")
    connection.close()


OBJECTS = {
    "a view without end": f"DROP TABLE target; CREATE VIEW target AS {ENDLESS} i, 'a' AS state, '' AS reason FROM n;",
    "our view without end": f"DROP VIEW abandoned; CREATE VIEW abandoned AS {ENDLESS} i AS category FROM n;",
    "one more view": f"CREATE VIEW more AS {ENDLESS} i FROM n;",
    "a trigger": "CREATE TRIGGER t AFTER UPDATE ON target BEGIN DELETE FROM candidate; END;",
    "a trigger with a name of SQLite's": "INSERT INTO sqlite_schema VALUES ('trigger', 'sqlite_more', 'target', 0,"
    " 'CREATE TRIGGER sqlite_more AFTER UPDATE ON target BEGIN DELETE FROM candidate; END');",
    "a table of text": "DROP TABLE search; CREATE VIRTUAL TABLE search USING fts5(state, reason);",
    "one more table": "CREATE TABLE more (a);",
    "an index that computes": "CREATE INDEX more ON candidate (length(hex(zeroblob(100000000))));",
    "our index, computed": "DROP INDEX image_outcome; CREATE INDEX image_outcome ON image (length(hex(state)));",
    "a column that computes": "ALTER TABLE target ADD COLUMN more AS (hex(zeroblob(400000000)));",
    "a column less": "ALTER TABLE target DROP COLUMN reason;",
    "a column of another kind": "ALTER TABLE target DROP COLUMN reason; ALTER TABLE target ADD COLUMN reason BLOB;",
    "a constraint": "DROP TABLE setting; CREATE TABLE setting (name TEXT PRIMARY KEY, value TEXT NOT NULL,"
    " CHECK (value LIKE '%a%a%a%a%a%')) WITHOUT ROWID;",
    "a constraint behind a comment": "DROP TABLE setting; CREATE TABLE setting (name TEXT PRIMARY KEY, value TEXT NOT"
    " NULL, /* ' */ CHECK (value != 'x') /* ' */) WITHOUT ROWID;",
}  # fmt: skip


@pytest.mark.parametrize("case", OBJECTS)
def test_what_is_no_table_of_ours(catalog, case):
    change(catalog, OBJECTS[case])
    done = status(catalog)
    assert done.returncode == 1, done.stdout
    begin = f"fastlt: error: {catalog} cannot be used as a catalog: it"
    assert done.stderr.startswith(begin), done.stderr
    assert re.fullmatch(r".*(that|which) (a|no) catalog has(: DROP \w+ would make it one again)?\.\n", done.stderr)


VALUES = {
    "bytes as a state": "UPDATE target SET state = x'00ff'",
    "bytes as a reason": "UPDATE candidate SET reason = x'1b5b'",
    "a number as a state": "UPDATE category SET state = 7",
    "tokens of no machine": "UPDATE answer SET completion_tokens = 10000000000000000000000000.0",
    "tokens in words": "UPDATE answer SET completion_tokens = 'many'",
    "a sum that is none": "UPDATE answer SET prompt_tokens = 9223372036854775807;"
    " INSERT INTO answer VALUES ('b', 'm', 'c', 1, 1)",
    "deep counts": f"INSERT INTO setting VALUES ('unusable answers', '{'[' * 50_000}')",
    "a list of counts": "INSERT INTO setting VALUES ('unusable answers', '[1]')",
    "counts in words": """INSERT INTO setting VALUES ('unusable answers', '{"a": "b"}')""",
    "bytes as a setting": "INSERT INTO setting VALUES ('unusable answers', x'ff')",
    "no text": "UPDATE candidate SET reason = CAST(x'ff1b5b' AS TEXT)",
    "bytes as a shard's state": "INSERT INTO shard VALUES (0, x'ff', 1, 1)",
}  # fmt: skip


@pytest.mark.parametrize("words", [[], ["--json"]], ids=["people", "scripts"])
@pytest.mark.parametrize("case", VALUES)
def test_values_that_no_fastlt_writes(catalog, case, words):
    change(catalog, VALUES[case])
    done = status(catalog, *words)
    assert done.returncode in (0, 1)
    assert "Traceback" not in done.stderr
    if done.returncode:
        assert re.fullmatch(r"fastlt: error: .*catalog.*\.\n", done.stderr), done.stderr
        assert done.stdout == ""
    else:  # SQLite takes a number for text where text belongs, and words for a number where it adds
        assert case in ("tokens in words", "a number as a state")
        json.loads(done.stdout) if words else None


def test_one_of_ours_stays_one(catalog):
    """After ANALYZE, too, which makes tables of SQLite's own."""
    change(catalog, "ANALYZE")
    done = status(catalog, "--json")
    assert json.loads(done.stdout)["candidate"] == {"new": 1}, done.stderr


SETTINGS = {
    "crawl options": ['"x"', "[1]", '{"size": "x"}', '{"licenses": [1]}', "[" * 100_000],
    "crawl policy": ['"x"', "[" * 100_000],
    "discover hawk": ['"x"', '{"a": 1}', "[" * 100_000],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in SETTINGS.items() for value in values])
def test_what_a_stranger_had_remembered(catalog, tmp_path, name, value):
    with Catalog(catalog) as opened:
        opened.remember(name, value)
    (tmp_path / "classes.txt").write_text("hawk\t1\n")
    words = ["crawl", catalog, "--contact", "a@example.org"]
    if name.startswith("discover"):
        words = ["discover", catalog, "--classes", tmp_path / "classes.txt", "--model", "m", "--timeout", "1"]
        words += ["--base-url", "http://127.0.0.1:9/v1"]
    done = subprocess.run([str(BIN / "fastlt"), *map(str, words)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert f"fastlt: error: {catalog} cannot be used as a catalog: " in done.stderr
    assert "Traceback" not in done.stderr
