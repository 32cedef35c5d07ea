"""What decides whether a candidate may be kept: each reason names its option, and when that changes it is asked again.

Options that shape what a catalog holds are remembered in it.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import replace
from typing import Any

from fastlt.data_prep.catalog import Catalog
from fastlt.data_prep.crawl.options import CrawlOptions, SearchOptions
from fastlt.data_prep.crawl.sources.licenses import allowed, family

NOT_PUBLIC = "not a public address (--allow-private)"
ROBOTS = "robots.txt forbids it (--ignore-robots)"
OPTED_OUT = "opted out (--ignore-opt-outs)"
TOO_MANY_BYTES = "too many bytes (--max-megabytes)"
TOO_MANY_PIXELS = "too many pixels (--max-megapixels)"
TOO_SMALL = "too small (--min-side)"
NEAR_DUPLICATE = "near-duplicate (--duplicates)"
LICENSE = "license is not allowed (--licenses)"
_REMEMBERED = {
    "limits": ("max_megabytes", "max_megapixels"),
    "images": ("size", "quality", "min_side"),
    "shards": ("keep_original", "duplicates"),
}
_REASONS = (NOT_PUBLIC, ROBOTS, OPTED_OUT, TOO_MANY_BYTES, TOO_MANY_PIXELS, TOO_SMALL, NEAR_DUPLICATE)


def as_remembered(
    catalog: Catalog, search: SearchOptions, crawl: CrawlOptions, typed: Collection[str]
) -> tuple[SearchOptions, CrawlOptions, list[str]]:
    """The options, with those of an earlier crawl where nothing was typed, and lines that say so."""
    before = json.loads(catalog.setting("crawl options") or "{}")
    taken = {name: value for name, value in before.items() if f"--{name.replace('_', '-')}" not in typed}
    if "licenses" in taken:
        search = replace(search, licenses=tuple(taken["licenses"]))
    groups = {group: {name: taken[name] for name in names if name in taken} for group, names in _REMEMBERED.items()}
    as_before = replace(crawl, **{group: replace(getattr(crawl, group), **found) for group, found in groups.items()})
    shown = _remembered_options(search, as_before)
    usual = _remembered_options(SearchOptions(), CrawlOptions())
    said = [f"--{name.replace('_', '-')} {_shown(shown[name])}" for name in taken if shown[name] != usual[name]]
    catalog.remember("crawl options", json.dumps(shown))
    return search, as_before, [f"as before in this catalog: {', '.join(said)}"] if said else []


def _remembered_options(search: SearchOptions, crawl: CrawlOptions) -> dict[str, Any]:
    groups = ((getattr(crawl, group), names) for group, names in _REMEMBERED.items())
    return {"licenses": [*search.licenses]} | {name: getattr(group, name) for group, names in groups for name in names}


def _shown(value: Any) -> str:
    return " ".join(value) if isinstance(value, list) else str(value)


def reconsider(catalog: Catalog, search: SearchOptions, options: CrawlOptions) -> list[str]:
    """Opens again what other options dropped, and drops what a list has under licenses that are not allowed."""
    now = {
        NOT_PUBLIC: options.limits.allow_private,
        ROBOTS: options.politeness.ignore_robots,
        OPTED_OUT: options.politeness.ignore_opt_outs,
        TOO_MANY_BYTES: options.limits.max_megabytes,
        TOO_MANY_PIXELS: options.limits.max_megapixels,
        TOO_SMALL: options.images.min_side,
        NEAR_DUPLICATE: options.shards.duplicates,
    }
    before = json.loads(catalog.setting("crawl policy") or "{}")
    lines = []
    with catalog.transaction():
        for reason in _REASONS:
            # A catalog of an older fastlt says the reason without its option, and remembers no policy.
            changed = now[reason] is not False and before.get(reason) != now[reason]
            if changed and (number := catalog.reopen(reason.partition(" (")[0])):
                lines.append(f"{number:,} URLs that were dropped are tried again: {reason}")
        catalog.remember("crawl policy", json.dumps(now))
        families = allowed(search.licenses) if search.licenses else None
        lines += _apply_licenses(catalog, families)
    return lines


def _apply_licenses(catalog: Catalog, families: frozenset[str] | None) -> list[str]:
    """Sources were asked for the licenses alone; lists bring what they bring."""
    refused = {license for license in catalog.licenses("list") if families and family(license) not in families}
    back, dropped = catalog.set_refused_licenses("list", refused, LICENSE)
    kept = catalog.num_fetched("list", refused)
    lines = [f"{back:,} URLs are tried again: their license is allowed now"] if back else []
    lines += [f"{dropped:,} URLs are left out: {LICENSE}"] if dropped else []
    lines += [f"warning: {kept:,} images that were fetched before have other licenses, and stay"] if kept else []
    return lines
