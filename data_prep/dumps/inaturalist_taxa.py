"""The taxa of iNaturalist's open data, in SQL: ids, whether they are active, and what they belong to.

https://github.com/inaturalist/inaturalist-open-data
"""

from __future__ import annotations

from pathlib import Path

from fastlt.data_prep.dumps.text_tables import TextTable

COLUMNS = ("taxon_id", "ancestry", "name", "active")
"""What `TAXA` reads; a source may have more."""
# The documentation has backslashes between ancestors, the files have slashes.
TAXA = (
    "SELECT * REPLACE (coalesce(lower(active) IN ('true', 't', '1'), false) AS active),"
    " try_cast(taxon_id AS BIGINT) AS id, list_transform("
    r" list_filter(string_split_regex(coalesce(ancestry, ''), '[/\\]'), lambda part: part != ''),"
    " lambda part: try_cast(part AS BIGINT)) AS above"
    " FROM source WHERE try_cast(taxon_id AS BIGINT) IS NOT NULL"
)
"""A query that gives the columns of `source`, `id`, and `above`: the ids from the root to what is next above it."""


def table_of(file: Path) -> TextTable:
    """A file of the dump, of taxa or others."""
    return TextTable(str(file), lambda: file.open("rb"))
