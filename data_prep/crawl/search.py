"""Asking image sources for each category until there are enough candidates, page by committed page."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fastlt.data_prep.catalog import Candidate, Catalog
from fastlt.data_prep.crawl.addresses import host_of, parse_url
from fastlt.data_prep.crawl.fetch import FailedError, Fetcher
from fastlt.data_prep.crawl.politeness import HostRestsError
from fastlt.data_prep.crawl.sources import ImageSource, Page, SourceError
from fastlt.messages import one_line

_CATEGORIES_AT_ONCE = 16
# What Python raises for an answer that no source should give: it costs this one search.
NOT_AS_DOCUMENTED = (ArithmeticError, AttributeError, LookupError, MemoryError, RecursionError, TypeError, ValueError)
_IDLE_PAGES = 10  # without a new URL, after which a source is done with


async def search(
    catalog: Catalog,
    fetcher: Fetcher,
    sources: Sequence[ImageSource],
    per_category: int,
    found: Callable[[], None],
    rests: Callable[[HostRestsError], None],
) -> None:
    """Asks every source for every kept category that has fewer than `per_category` candidates.

    A source that fails is put down as failed for that category, and the others are asked. `found` is called when there
    are new candidates, `rests` for each search that a limit puts off.
    """
    at_once = asyncio.Semaphore(_CATEGORIES_AT_ONCE)

    async def one(category: int, title: str) -> None:
        async with at_once:
            for source in sources:
                try:
                    await _search_one(catalog, fetcher, source, category, title, per_category, found)
                except HostRestsError as error:
                    rests(error)

    async with asyncio.TaskGroup() as tasks:
        for row in catalog.categories(kept=True):
            tasks.create_task(one(row["id"], row["title"]))


async def _search_one(
    catalog: Catalog,
    fetcher: Fetcher,
    source: ImageSource,
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

    row = catalog.search(category, source.name)
    cursor, state, idle = row["cursor"], row["state"], 0
    while state != "done":
        have = catalog.num_candidates(category)
        if have >= per_category:
            return
        try:
            page = await source.search(get_json, title, cursor, per_category - have)
        except SourceError as error:
            catalog.fail_search(category, source.name, one_line(error, 300))
            return
        except NOT_AS_DOCUMENTED as error:
            said = f"{source.name} answered what nobody can read ({type(error).__name__}: {one_line(error)})"
            catalog.fail_search(category, source.name, said)
            return
        with catalog.transaction():
            new = catalog.add_candidates(candidates(page, category, source.name)[: per_category - have])
            idle = 0 if new else idle + 1
            cursor = page.cursor
            state = "done" if cursor is None or idle >= _IDLE_PAGES else "open"
            catalog.add_page(category, source.name, cursor, new, state)
        if new:
            found()


def candidates(page: Page, category: int, source: str) -> list[Candidate]:
    """What a page brings to the catalog; what is no URL is left out."""
    rows = []
    for image in page.found:
        url = parse_url(image.url)
        if url is not None:
            about = (image.page, image.license, image.attribution)
            rows.append(Candidate(category, str(url), host_of(url), source, *about))
    return rows
