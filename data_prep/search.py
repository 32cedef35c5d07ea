"""Asking image sources for each category until there are enough candidates, page by committed page."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fastlt.data_prep.addresses import host_of, parse_url
from fastlt.data_prep.catalog import Catalog
from fastlt.data_prep.fetch import FailedError, Fetcher
from fastlt.data_prep.sources import Page, Source, SourceError

_CATEGORIES_AT_ONCE = 16
_IDLE_PAGES = 10  # without a new URL, after which a source is done with


async def search(
    catalog: Catalog, fetcher: Fetcher, sources: Sequence[Source], per_category: int, found: Callable[[], None]
) -> None:
    """Asks every source for every kept category that has fewer than `per_category` candidates.

    A source that fails is put down as failed for that category, and the others are asked. `found` is called when there
    are new candidates.
    """
    at_once = asyncio.Semaphore(_CATEGORIES_AT_ONCE)

    async def one(category: int, title: str) -> None:
        async with at_once:
            for source in sources:
                await _search_one(catalog, fetcher, source, category, title, per_category, found)

    categories = catalog.connection.execute("SELECT id, title FROM category WHERE state = 'kept'").fetchall()
    async with asyncio.TaskGroup() as tasks:
        for row in categories:
            tasks.create_task(one(row["id"], row["title"]))


async def _search_one(
    catalog: Catalog,
    fetcher: Fetcher,
    source: Source,
    category: int,
    title: str,
    per_category: int,
    found: Callable[[], None],
) -> None:
    async def get_json(url: str, parameters: Mapping[str, str]) -> Any:
        try:
            return await fetcher.json(url, parameters)
        except FailedError as error:
            raise SourceError(f"{source.name}: {error}") from None

    one = catalog.connection.execute
    key = [category, source.name]
    one("INSERT OR IGNORE INTO search (category, source) VALUES (?, ?)", key)
    row = one("SELECT * FROM search WHERE category = ? AND source = ?", key).fetchone()
    cursor, state, idle = row["cursor"], row["state"], 0
    while state != "done":
        (have,) = one("SELECT count(*) FROM candidate WHERE category = ?", [category]).fetchone()
        if have >= per_category:
            return
        try:
            page = await source.search(get_json, title, cursor, per_category - have)
        except SourceError as error:
            one("UPDATE search SET state = 'failed', reason = ? WHERE category = ? AND source = ?", [str(error), *key])
            return
        with catalog.transaction() as sql:
            new = catalog.add_candidates(_rows(page, category, source.name)[: per_category - have])
            idle = 0 if new else idle + 1
            cursor = page.cursor
            state = "done" if cursor is None or idle >= _IDLE_PAGES else "open"
            sql.execute(
                "UPDATE search SET cursor = ?, found = found + ?, state = ?, reason = ''"
                " WHERE category = ? AND source = ?",
                [cursor, new, state, *key],
            )
        if new:
            found()


def _rows(page: Page, category: int, source: str) -> list[tuple[int, str, str, str, str, str, str]]:
    rows = []
    for image in page.found:
        url = parse_url(image.url)
        if url is not None:
            rows.append((category, str(url), host_of(url), source, image.page, image.license, image.attribution))
    return rows
