"""`fastlt crawl --plan`: what a crawl would ask of each host, how long limits make that, and what to do instead."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from yarl import URL

from fastlt.data_prep.catalog import Catalog
from fastlt.data_prep.crawl.addresses import host_of
from fastlt.data_prep.crawl.budgets import USUAL_BYTES, Ledger
from fastlt.data_prep.crawl.host_limits import HOUR, HostLimits, Policies, amount, shown
from fastlt.data_prep.crawl.options import CrawlOptions
from fastlt.data_prep.crawl.sources import ImageSource
from fastlt.messages import in_time, listed, one_line

_SHOWN = 20  # hosts with a line of their own
_KNOWN = 20  # requests whose mean is taken for what is to come
_LONG = 48  # hours above which another way is named


@dataclass(frozen=True)
class _Row:
    """One host: what it would be asked for, and the hours that its limits make of that."""

    host: str
    urls: int
    requests: int
    num_bytes: float
    hours: float
    limits: HostLimits


def plan(catalog: Catalog, sources: Sequence[ImageSource], options: CrawlOptions) -> str:
    """A table of hosts, those that take longest first; asks nobody.

    Args:
        catalog: locked while this runs.
        sources: those that would be searched.
        options: of the crawl.
    """
    apis = {host_of(URL(source.base_url)): source for source in sources}
    policies, ledger = Policies(options.politeness, set(apis)), Ledger(catalog)
    known = catalog.used_by_host()
    searches, urls = _searches(catalog, sources, options.per_category)
    for host, number in catalog.waiting_by_host(failed=options.retry).items():
        urls[policies.key(host)] += number
    rows = []
    for host, requests, number in [
        *((policies.key(host), searches[source.name], 0) for host, source in apis.items() if searches[source.name]),
        *((host, number + (not options.politeness.ignore_robots), number) for host, number in urls.items()),
    ]:
        limits = policies.of(host)
        asked, came = known.get(host, (0, 0))
        mean = came / asked if asked >= _KNOWN else USUAL_BYTES
        seconds = ledger.account(host, limits).seconds_for(requests, number * mean)
        rows.append(_Row(shown(host), number, requests, number * mean, seconds / HOUR, limits))
    if not rows:
        return (
            f"nothing is to be fetched: {catalog.path} has no URL without an outcome, and no source is to be searched."
        )
    rows.sort(key=lambda row: (-row.hours, -row.requests, row.host))
    lines = _table(rows)
    if policies.has_own and (unused := policies.unused([*apis, *urls, *catalog.hosts()])):
        lines.append(f"WARNING: {options.politeness.policy} names hosts that do not occur here: {listed(unused)}.")
    return "\n".join(lines)


def _searches(catalog: Catalog, sources: Sequence[ImageSource], per_category: int) -> tuple[Counter[str], Counter[str]]:
    """Requests at most for each source, and URLs that they may bring, by where the first source's images lie."""
    have, requests, urls = catalog.candidates_by_category(), Counter[str](), Counter[str]()
    missing = {row["id"]: per_category - have.get(row["id"], 0) for row in catalog.categories(kept=True)}
    for source in sources:
        done = catalog.searches_done(source.name)
        wanted = [number for category, number in missing.items() if number > 0 and category not in done]
        requests[source.name] = sum(source.lookups + math.ceil(number / source.per_page) for number in wanted)
        if not urls and wanted:
            urls[source.media_host or f"hosts that {source.name} names"] = sum(wanted)
    return requests, urls


def _table(rows: Sequence[_Row]) -> list[str]:
    pages: dict[str, int] = {}
    lines = [f"{'host':<46} {'URLs':>11} {'requests':>11} {'bytes':>9} {'hours':>8}  limits"]
    first, others = rows[:_SHOWN], rows[_SHOWN:]
    for row in first:
        page = row.limits.page
        mark = f" [{pages.setdefault(page, len(pages) + 1)}]" if page else ""
        lines.append(_line(one_line(row.host, 46), [row], row.limits.said() + mark))
    if others:
        lines.append(_line(f"and {len(others):,} hosts more", others, "each its own"))
    lines += [f"[{number}] {page}" for page, number in pages.items()]
    lines.append(
        f"Hosts are asked side by side: {_hours(rows[0].hours)} for all that limits know of, as long as {rows[0].host} "
        f"takes; your network and processors may take longer. {sum(row.urls for row in rows):,} URLs are about "
        f"{amount(sum(row.num_bytes for row in rows))}, at {amount(USUAL_BYTES)} each where a host's mean is not known."
    )
    for row in first:
        if row.hours > _LONG:
            instead = row.limits.instead or "fewer images (--per-category), or images that lie elsewhere"
            lines.append(f"{row.host} takes {_hours(row.hours)}. Instead: {instead}.")
    return lines


def _line(name: str, rows: Sequence[_Row], limits: str) -> str:
    urls, requests = sum(row.urls for row in rows), sum(row.requests for row in rows)
    num_bytes, hours = sum(row.num_bytes for row in rows), max(row.hours for row in rows)
    size = amount(num_bytes) if num_bytes else "-"
    return f"{name:<46} {f'{urls:,}' if urls else '-':>11} {requests:>11,} {size:>9} {hours:>8,.1f}  {limits}"


def _hours(hours: float) -> str:
    return f"about {hours / 24:,.1f} days" if hours > _LONG else f"about {in_time(hours * HOUR)}"
