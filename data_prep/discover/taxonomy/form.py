"""What a taxonomy is once it was read, whatever form it had."""

from __future__ import annotations

from typing import NamedTuple

from fastlt.data_prep.dumps.text_tables import TextTable
from fastlt.data_prep.inputs.taxonomy import RANKS

LINE = RANKS[::-1]  # kingdom first
FORMS = (
    "give iNaturalist's taxa.csv.gz or the folder of its dump, a Darwin Core archive or its table of taxa, "
    "iNaturalist's JSON with categories and their ranks, or "
    'JSON {"class": ["parent", "grandparent", ...]}'
)


class Taxonomy(NamedTuple):
    """A taxonomy that was read.

    Its database has the table `taxon`: `id`, `shown` (the id as people know it), `name`, `key` of the name, `rank` (in
    lower case; where there are none, "class" and, for what lies above, "group"), `active`, `parent` (an id that need
    not be there), `accepted` (the id of the taxon that a synonym means), `photos`; and `also` (category, id):
    categories that a taxon's common name is one of.

    Attributes:
        what: its form, for people.
        day: of the file.
        ranked: whether taxa have ranks.
        counted: whose photos are known: "" for nobody's, "own" for each taxon's, or "below" where what lies below is
            still to be added.
        lines: what else there is to say.
    """

    what: str
    day: str
    ranked: bool
    counted: str
    lines: list[str]


def number(text: str) -> str:
    """SQL for a number of photos; what is none is NULL."""
    return f"CASE WHEN try_cast({text} AS BIGINT) >= 0 THEN {text}::BIGINT END"


def odd_rows(table: TextTable) -> list[str]:
    """How many rows of a table could not be read, in a line, if there are any."""
    odd = table.odd_rows
    return [f"left out: {odd:,} rows of {table.name} with another number of columns"] if odd else []
