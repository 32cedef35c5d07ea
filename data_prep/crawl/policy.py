"""What decides whether a candidate may be kept: each reason names its option, and when that changes it is asked again.

Options that shape what a catalog holds are remembered in it.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import replace
from typing import Any

from fastlt.data_prep.catalog import Catalog
from fastlt.data_prep.crawl import reasons
from fastlt.data_prep.crawl.options import CrawlOptions, SearchOptions
from fastlt.licenses import allowed, family

ANY_LICENSE = "any"
_REMEMBERED = {
    "limits": ("max_megabytes", "max_megapixels"),
    "images": ("size", "quality", "min_side"),
    "shards": ("duplicates",),
}


def as_remembered(
    catalog: Catalog, search: SearchOptions, crawl: CrawlOptions, typed: Collection[str]
) -> tuple[SearchOptions, CrawlOptions, list[str]]:
    """The options, with those of an earlier crawl where nothing was typed, and lines that say so."""
    usual = _remembered_options(SearchOptions(), CrawlOptions())
    before = {name: value for name, value in catalog.json_setting("crawl options").items() if name in usual}
    if odd := next((name for name, value in before.items() if not _is_like(value, usual[name])), None):
        raise ValueError(f"{catalog.path} cannot be used as a catalog: it remembers {odd!r} as what it cannot be.")
    taken = {name: value for name, value in before.items() if f"--{name.replace('_', '-')}" not in typed}
    if "licenses" in taken:
        search = replace(search, licenses=tuple(taken["licenses"]))
    groups = {group: {name: taken[name] for name in names if name in taken} for group, names in _REMEMBERED.items()}
    as_before = replace(crawl, **{group: replace(getattr(crawl, group), **found) for group, found in groups.items()})
    shown = _remembered_options(search, as_before)
    said = [f"--{name.replace('_', '-')} {_shown(shown[name])}" for name in taken if shown[name] != usual[name]]
    return search, as_before, [f"as before in this catalog: {', '.join(said)}"] if said else []


def _remembered_options(search: SearchOptions, crawl: CrawlOptions) -> dict[str, Any]:
    groups = ((getattr(crawl, group), names) for group, names in _REMEMBERED.items())
    return {"licenses": [*search.licenses]} | {name: getattr(group, name) for group, names in groups for name in names}


def _is_like(value: Any, usual: Any) -> bool:
    """Whether a remembered value can be an option's: a list of words, or a number."""
    if isinstance(usual, list):
        return isinstance(value, list) and all(isinstance(item, str) for item in value)
    return type(value) in (int, float)


def _shown(value: Any) -> str:
    return " ".join(value) if isinstance(value, list) else str(value)


def reconsider(catalog: Catalog, search: SearchOptions, options: CrawlOptions) -> list[str]:
    """Opens again what other options dropped, drops what has a license that is not allowed, remembers the options."""
    now = {
        reasons.NOT_PUBLIC: options.limits.allow_private,
        reasons.ROBOTS: options.politeness.ignore_robots,
        reasons.TOO_MANY_RULES: options.politeness.ignore_robots,
        reasons.OPTED_OUT: options.politeness.ignore_opt_outs,
        reasons.TOO_MANY_BYTES: options.limits.max_megabytes,
        reasons.TOO_MANY_PIXELS: options.limits.max_megapixels,
        reasons.TOO_LARGE_TO_DECODE: options.limits.max_megapixels,
        reasons.TOO_SMALL: options.images.min_side,
        reasons.NEAR_DUPLICATE: options.shards.duplicates,
    }
    before = catalog.json_setting("crawl policy")
    lines = []
    with catalog.transaction():
        for reason in now:
            # A catalog of an older fastlt says the reason without its option, and remembers no policy.
            changed = now[reason] is not False and before.get(reason) != now[reason]
            if changed and (number := catalog.reopen(reason.partition(" (")[0])):
                lines.append(f"{urls_are(number)} tried again that were dropped: {reason}")
        catalog.remember("crawl policy", json.dumps(now))
        catalog.remember("crawl options", json.dumps(_remembered_options(search, options)))
        families = None if set(search.licenses) <= {ANY_LICENSE} else allowed(search.licenses)
        lines += _apply_licenses(catalog, families)
    return lines


def urls_are(number: int) -> str:
    """The beginning of a line about so many of them."""
    return "1 URL is" if number == 1 else f"{number:,} URLs are"


def _apply_licenses(catalog: Catalog, families: frozenset[str] | None) -> list[str]:
    """Lists bring what they bring, and sources may have been asked for other licenses before."""
    refused = {license for license in catalog.licenses() if families and family(license) not in families}
    back, dropped, opened = catalog.set_refused_licenses(refused, reasons.LICENSE)
    lines = [f"{urls_are(back)} taken again: the license is allowed"] if back else []
    lines += [f"{urls_are(dropped)} left out: {reasons.LICENSE}"] if dropped else []
    lines += [f"{urls_are(opened)} tried again: what had the same image is left out now"] if opened else []
    return lines
