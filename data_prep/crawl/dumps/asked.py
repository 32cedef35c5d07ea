"""What people ask of a dump, and what every kind of dump answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class AskedOfDump(NamedTuple):
    """What `fastlt crawl` was told.

    Attributes:
        grades: quality grades that are taken, of iNaturalist's; () for all.
        ancestor: a taxon; what does not belong to it is left out. "" for none.
        excluded: ids and UUIDs of observations and photos that are left out.
        endpoint: where the photos are instead of iNaturalist's bucket, or "".
        columns: {"name", "url", "license", "attribution", "page": column}, of Parquet.
    """

    grades: tuple[str, ...] = ("research",)
    ancestor: str = ""
    excluded: frozenset[str] = frozenset()
    endpoint: str = ""
    columns: Mapping[str, str | None] = {}


COLUMNS = ("name", "url", "license", "attribution", "page")
"""What a Parquet dump's columns are asked for."""


class Joined(NamedTuple):
    """A dump that was joined to the categories.

    Its database has a table `hit`: `category`, `key` (text that the draw is by), `license` as the dump says it,
    `reason` (why it is left out, or NULL), and what `described` needs.

    Attributes:
        snapshot: the day of the dump, or "".
        described: a query that makes (category, key, url, page, license, attribution) of the table `drawn`, which has
            the columns of `hit`.
        unknown: categories that the dump does not know.
        lines: what else there is to say.
        excluded: numbers of photos that --exclude names, in this dump or not.
    """

    snapshot: str
    described: str
    unknown: frozenset[int]
    lines: list[str]
    excluded: frozenset[str] = frozenset()
