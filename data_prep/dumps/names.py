"""Names of categories in a dump: which of its names mean a category, told by the same query on both sides."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import pyarrow as pa

from fastlt.data_prep.dumps.database import Database
from fastlt.data_prep.names import clean_title, plain_names

ANY_NUMBER_OF_NAMES = 5  # that a line shows
NOBODY = -1
"""The category of what is a target: its images are no auxiliary ones."""

# Letters and numbers alone, without accents; a hybrid's cross may be a letter.
_KEY = r"""
CREATE MACRO key_of(name) AS regexp_replace(
    regexp_replace(strip_accents(lower(name)), ' [x\x{D7}] ', ' ', 'g'), '[^\pL\pM\pN]+', '', 'g')
"""


def enter_names(database: Database, titles: Mapping[int, Sequence[str]], others: Sequence[str]) -> None:
    """Makes the tables `named` (key, category), with each key once, and `title`, and the macro `key_of`.

    Args:
        database: of a dump.
        titles: {category: how it is called, its title first}.
        others: names of targets, which come before categories of the same name.
    """
    owned = [(text, NOBODY) for name in others for text in _texts(name)]
    owned += [(text, category) for category, names in titles.items() for name in names for text in _texts(name)]
    table = _table(owned)
    database.run(_KEY)
    shown = {"category": pa.array([*titles], pa.int64()), "title": pa.array([names[0] for names in titles.values()])}
    database.run("CREATE TABLE title AS SELECT * FROM given", given=pa.table(shown))
    database.run(
        "CREATE TABLE named AS SELECT key_of(text) AS key, min(category) AS category FROM given"
        " WHERE key_of(text) != '' GROUP BY 1",
        given=table,
    )


def enter_all_names(database: Database, names: Mapping[int, Sequence[str]]) -> None:
    """Makes the table `named` (key, category), with a key as often as there are categories of that name, and `key_of`.

    Args:
        database: of a dump.
        names: {category: how it is called}.
    """
    database.run(_KEY)
    database.run(
        "CREATE TABLE named AS SELECT DISTINCT key_of(text) AS key, category FROM given WHERE key_of(text) != ''",
        given=_table([(text, category) for category, of in names.items() for name in of for text in _texts(name)]),
    )


def without_author(column: str) -> str:
    """SQL for a scientific name in a column, without who gave it."""
    return rf"""regexp_extract({column}, '^[\pL\x{{D7}}-]+(?: [\p{{Ll}}\x{{D7}}-]+)*')"""


def _table(owned: Sequence[tuple[str, int]]) -> pa.Table:
    texts, categories = [text for text, _ in owned], [at for _, at in owned]
    return pa.table({"text": pa.array(texts, pa.string()), "category": pa.array(categories, pa.int64())})


def _texts(title: str) -> set[str]:
    """A title and its parts: "tench, Tinca tinca", "tench (Tinca tinca)", and without ranks and numbers before it."""
    plain = plain_names([title])[0].replace("_", " ")
    remarks = [remark for remark in re.findall(r"\(([^()]*)\)", plain) if " " in remark.strip()]
    return {text for text in (plain, clean_title(plain), *remarks, *plain.split(",")) if text.strip()}
