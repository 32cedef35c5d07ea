"""The tables of the catalog, how an older catalog gets the columns that it lacks, and what is no catalog's.

A catalog may come from a stranger. A view in the place of a table may have no end, and a trigger or a constraint
would run at what a stage does.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from functools import cache

from fastlt.data_prep import verdicts

VERSION = 6
UNLISTED = "no longer in its list"
"""Why a candidate is dropped that a list brought once and has no more."""
EXCLUDED = "left out by a list (--exclude)"
"""Why a candidate is dropped that such a list names."""
REMOVED = "removed on request"
"""Why a candidate is dropped that `fastlt remove` took out; what it was asked for may follow in parentheses."""
_THIRD = f"""
-- Lists of URLs that people brought, and which candidates stand in them.
CREATE TABLE list (
    id INTEGER PRIMARY KEY,
    path TEXT NOT NULL UNIQUE,             -- absolute
    columns TEXT NOT NULL DEFAULT '{{}}',    -- JSON: those that people named
    read_as TEXT NOT NULL DEFAULT ''       -- how it was last read, to its end; '' while it is read
);
CREATE TABLE listed (
    candidate INTEGER NOT NULL REFERENCES candidate,
    list INTEGER NOT NULL REFERENCES list,
    PRIMARY KEY (candidate, list)
) WITHOUT ROWID;

-- Images that are to be had: not those of candidates that were dropped since, which stay in their shards unseen.
CREATE VIEW image_in_use AS SELECT image.* FROM image JOIN candidate USING (id) WHERE candidate.state = 'fetched';
-- Categories of nothing but what lists have no more.
CREATE VIEW abandoned AS
SELECT category FROM candidate GROUP BY category HAVING min(reason) = '{UNLISTED}' AND max(reason) = '{UNLISTED}'
EXCEPT SELECT category FROM neighbor EXCEPT SELECT category FROM search;
"""
_FOURTH = """
-- What hosts were asked for lately, in slots of ten minutes.
CREATE TABLE used (
    host TEXT NOT NULL,                    -- as candidates have it
    slot INTEGER NOT NULL,                 -- tens of minutes since 1970
    requests INTEGER NOT NULL,
    num_bytes INTEGER NOT NULL,            -- of bodies
    PRIMARY KEY (host, slot)
) WITHOUT ROWID;
"""
_DECISIONS = f"""
-- What people decided; of several about one thing the last holds. Kind: image (what is its URL: keep, drop), category
-- (its name: accept, reject, add), title (of a category: rename), pair (of a category and a target: keep, drop).
CREATE TABLE decision (
    id INTEGER PRIMARY KEY,
    batch INTEGER NOT NULL,                -- what was decided at once, and is undone at once
    kind TEXT NOT NULL,
    what TEXT NOT NULL,
    target_name TEXT NOT NULL DEFAULT '',
    verdict TEXT NOT NULL,
    title TEXT NOT NULL DEFAULT '',        -- that was given
    before TEXT NOT NULL DEFAULT '',       -- JSON: what it was, for undoing
    made TEXT NOT NULL                     -- UTC
);
CREATE INDEX decision_last ON decision (kind, what, target_name, id);
CREATE VIEW decided AS
SELECT kind, what, target_name, verdict, title, made, max(id) AS id FROM decision GROUP BY kind, what, target_name;
CREATE VIEW by_hand AS
SELECT candidate.id, verdict, made FROM decided JOIN candidate ON candidate.url = what WHERE kind = 'image';
-- Images that encode takes: what filter kept and people did not drop, and what people kept, but for repeats of
-- validation and test images and what cannot be read.
CREATE VIEW image_taken AS SELECT image.* FROM image_in_use AS image LEFT JOIN by_hand ON by_hand.id = image.id
WHERE CASE ifnull(verdict, '') WHEN 'drop' THEN 0 WHEN 'keep' THEN NOT ({verdicts.BANNED_SQL})
ELSE image.state = 'kept' END;
"""
# {version: what makes the next one of it}; each step is run once, when a catalog of that version is opened.
MIGRATIONS = {
    1: "ALTER TABLE neighbor ADD COLUMN origin TEXT NOT NULL DEFAULT 'given'",
    2: _THIRD,
    3: _FOURTH,
    4: "ALTER TABLE category ADD COLUMN synonyms TEXT NOT NULL DEFAULT '[]'",
    5: _DECISIONS,
}
SCHEMA = f"""
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

-- Auxiliary categories. State: kept (reason: what a taxonomy finds doubtful, or ''), or rejected for a reason.
CREATE TABLE category (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,             -- normalized: the auxiliary class name in label spaces
    title TEXT NOT NULL,                   -- what image sources are asked for
    state TEXT NOT NULL DEFAULT 'kept',
    reason TEXT NOT NULL DEFAULT '',
    synonyms TEXT NOT NULL DEFAULT '[]'    -- JSON list of other names, by which captions are searched too
);
-- Origin: given (by a person or discover), or found (by filter, of categories without given ones).
CREATE TABLE neighbor (
    target INTEGER NOT NULL REFERENCES target,
    category INTEGER NOT NULL REFERENCES category,
    origin TEXT NOT NULL DEFAULT 'given',
    PRIMARY KEY (target, category)
) WITHOUT ROWID;

-- The LLM's answers by the SHA-256 of what it was asked, so that nothing is asked twice. Without content: what asking
-- in vain cost.
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

-- URLs of images. State: new, fetched, dropped (while options and lists are what they are), failed (another day may be
-- better).
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
{_THIRD}{_FOURTH}{_DECISIONS}"""


_EVERYTHING = """
SELECT type, name, ifnull(sql, '') FROM sqlite_schema
"""
_SQLITES_OWN = {("table", name) for name in ("sqlite_stat1", "sqlite_stat4", "sqlite_sequence")}
_KINDS: dict[str, set[type]] = {"INTEGER": {int}, "TEXT": {str}, "REAL": {float, int}, "BLOB": {bytes}}


def require_no_others(connection: sqlite3.Connection) -> None:
    """Looks at what a database has, before anything in it is read.

    Raises:
        sqlite3.DatabaseError: a trigger, a view or index that is not ours, a table that is more than a table.
    """
    for kind, name, sql in connection.execute(_EVERYTHING).fetchall():
        ours = _ours().get(name)
        if (kind, name) in _SQLITES_OWN or (kind == "index" and not sql):  # such as those of UNIQUE columns
            continue
        if ours is None:
            raise sqlite3.DatabaseError(
                f"it has the {kind} {name!r}, which no catalog has: DROP {kind.upper()} would make it one again"
            )
        if kind != ours[0] or (kind != "table" and _bare(sql) != ours[1]) or (kind == "table" and _is_more(sql)):
            raise sqlite3.DatabaseError(f"its {name!r} is not the {ours[0]} that a catalog has")


def require_columns(connection: sqlite3.Connection) -> None:
    """Raises sqlite3.DatabaseError where a table lacks a column of ours, or has one that is computed."""
    for table in (name for name, (kind, _) in _ours().items() if kind == "table"):
        found = set(columns(connection, table))
        if not found >= set(columns(_made(), table)) or any(hidden for *_, hidden in found):
            raise sqlite3.DatabaseError(f"its {table!r} does not have the columns that a catalog has")


def columns(connection: sqlite3.Connection, table: str) -> Iterator[tuple]:
    """(name, type, not null, default, place in the primary key, whether it is computed) of each column of a table."""
    return (tuple(row)[1:] for row in connection.execute(f"PRAGMA table_xinfo({table})"))


@cache
def kinds() -> dict[str, set[type]]:
    """What Python gets of the columns of that name."""
    found: dict[str, set[type]] = {}
    for table in (name for name, (kind, _) in _ours().items() if kind == "table"):
        for name, kind, *_ in columns(_made(), table):
            found.setdefault(name, {type(None)}).update(_KINDS[kind])  # NULL where a join found nothing
    return found


@cache
def _made() -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:", check_same_thread=False)
    connection.executescript(SCHEMA)
    return connection


@cache
def _ours() -> dict[str, tuple[str, str]]:
    return {name: (kind, _bare(sql)) for kind, name, sql in _made().execute(_EVERYTHING)}


def _bare(sql: str) -> str:
    """Without comments and line breaks."""
    return " ".join(re.sub(r"--[^\n]*", "", sql).split())


def _is_more(sql: str) -> bool:
    """Whether a table is virtual or has constraints that would be computed; ours are written without such words.

    Nor with quoted names and other comments, in which what looks like a comment or a text is none.
    """
    more = r"[\"\[`]|/\*|\b(VIRTUAL|CHECK|COLLATE|CONSTRAINT|GENERATED)\b"
    return re.search(more, re.sub(r"'[^']*'|--[^\n]*", "", sql), re.IGNORECASE) is not None
