"""What `fastlt crawl` enters into a catalog before it fetches: a list, captions or a dump, and the options."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from fastlt.data_prep.catalog import Catalog
from fastlt.data_prep.crawl.dumps.asked import COLUMNS, AskedOfDump
from fastlt.data_prep.crawl.dumps.excluded import read_excluded
from fastlt.data_prep.crawl.lists.columns import Asked
from fastlt.data_prep.crawl.lists.urls import add_urls
from fastlt.data_prep.crawl.options import CrawlOptions, SearchOptions
from fastlt.data_prep.crawl.policy import as_remembered, reconsider
from fastlt.data_prep.dumps.folder import folder_of, remove


def enter(
    catalog: Catalog,
    search: SearchOptions,
    options: CrawlOptions,
    typed: Collection[str],
    endpoints: Mapping[str, str],
) -> tuple[SearchOptions, CrawlOptions, list[str]]:
    """The options, with what the catalog remembers of those that were not typed, and what there is to say.

    Args:
        catalog: held by `lock`.
        search, options: as they were given.
        typed: which of them were.
        endpoints: {source: another one of it}.

    Raises:
        ValueError: a list, captions or a dump cannot be read.
    """
    remove(folder_of(catalog.path))  # of a join that was killed
    search, options, lines = as_remembered(catalog, search, options, typed)
    if search.urls:
        added = add_urls(catalog, search.urls, Asked(**_columns(search, Asked.__annotations__)))
        lines += [*added.lines, f"{search.urls}: {added.new:,} new URLs, {added.changed:,} changed"]
    if search.captions:
        from fastlt.data_prep.crawl.captions.add import add_captioned  # brings pyarrow
        from fastlt.data_prep.crawl.captions.files import AskedOfCaptions

        asked = AskedOfCaptions(**_columns(search, AskedOfCaptions._fields))
        lines += add_captioned(catalog, search.captions, asked, options.per_category)
    if search.dump:
        from fastlt.data_prep.crawl.dumps.add import add_dump  # brings DuckDB

        kind, where = search.dump
        of_dump = AskedOfDump(
            () if search.any_grade else ("research",),
            search.dump_ancestor or "",
            read_excluded(search.exclude),
            endpoints.get("inaturalist", ""),
            _columns(search, COLUMNS),
        )
        lines += add_dump(catalog, kind, where, of_dump, search.licenses, options.per_category)
    for cut in catalog.cut_lists():
        lines.append(f"warning: the import of {cut} was interrupted: give --urls {cut} again for the rest")
    return search, options, [*lines, *reconsider(catalog, search, options)]


def _columns(search: SearchOptions, names: Collection[str]) -> dict[str, str | None]:
    """{name: the column that was named for it}."""
    return {name: getattr(search, f"{name}_column") for name in names}
