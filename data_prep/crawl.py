"""`fastlt crawl`: from categories and URLs to shards of clean images; ends, and goes on where it was killed.

Every host has tasks of its own that take its candidates from the catalog; what they fetch is prepared in worker
processes and written down in batches. Memory depends on the limits, never on how many candidates there are.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from fastlt.data_prep.addresses import host_of, parse_url
from fastlt.data_prep.catalog import Catalog
from fastlt.data_prep.class_names import clean_title, normalized
from fastlt.data_prep.fetch import DroppedError, FailedError, Fetcher, FetchOptions
from fastlt.data_prep.image_writer import ImageWriter, Outcome
from fastlt.data_prep.pixel_workers import PixelWorkers
from fastlt.data_prep.pixels import PixelOptions, UnusableImageError
from fastlt.data_prep.politeness import HostGivenUpError
from fastlt.data_prep.search import search
from fastlt.data_prep.sources import Source
from fastlt.data_prep.sources.url_lists import read_url_list
from tqdm import tqdm
from yarl import URL

_AHEAD = 64  # candidates of one host that are in memory before their turn
_BATCH, _BATCH_BYTES, _BATCH_SECONDS = 256, 32 * 2**20, 0.5
_DNS_THREADS = 32
_LISTED = "all"  # the category of URLs in a list without labels


@dataclass(frozen=True)
class CrawlOptions:
    """How a crawl goes.

    Attributes:
        fetch, pixels: limits of transfers, and what becomes of images.
        per_category: candidates that sources are asked for.
        api_rate: requests a second to the API of a source, most of which ask for one at most; 0 is unlimited.
        images_per_shard: after which a shard is finished.
        duplicates: Hamming distance up to which images are the same; None compares bytes only.
        keep_original: the fetched bytes go into the shard too.
        workers: processes that prepare images; 0 is one more than cores, as one always waits for its next image.
        retry: try failed candidates and searches again.
    """

    fetch: FetchOptions
    pixels: PixelOptions = field(default_factory=PixelOptions)
    per_category: int = 100
    api_rate: float = 1.0
    images_per_shard: int = 10_000
    duplicates: int | None = 4
    keep_original: bool = False
    workers: int = 0
    retry: bool = False

    def __post_init__(self) -> None:
        if self.images_per_shard < 1:
            raise ValueError(f"a shard of {self.images_per_shard} images: give at least 1.")


def import_urls(catalog: Catalog, path: Path, url_column: str | None = None, label_column: str | None = None) -> int:
    """Adds a list of URLs to the catalog, each under the category of its label; returns how many were new.

    A list that was added before and has not changed is not read again.

    Raises:
        ValueError: as `read_url_list`.
    """
    urls, new = read_url_list(path, url_column, label_column), 0
    stamps = [(str(file.absolute()), file.stat().st_size, file.stat().st_mtime_ns) for file in urls.files]
    as_added = json.dumps([stamps, url_column, label_column])
    if catalog.setting(f"list {path.absolute()}") == as_added:
        return 0
    categories: dict[str, int] = {}
    for batch in urls:
        with catalog.transaction():
            rows = []
            for listed in batch:
                url = parse_url(listed.url)
                if url is None:
                    continue
                if listed.label not in categories:
                    label = listed.label or _LISTED
                    categories[listed.label] = catalog.add_category(
                        normalized(label) or label,
                        clean_title(label) or label,  # some labels have no letters
                    )
                about = (host_of(url), "list", listed.page, listed.license, listed.attribution)
                rows.append((categories[listed.label], str(url), *about))
            new += catalog.add_candidates(rows)
    catalog.remember(f"list {path.absolute()}", as_added)
    if urls.skipped:
        print(f"{path}: {urls.skipped:,} rows without an http(s) URL were left out.", file=sys.stderr)
    return new


def crawl(catalog: Catalog, sources: Sequence[Source], options: CrawlOptions) -> Counter[tuple[str, str]]:
    """Fetches every candidate that has no outcome yet; returns how often each (state, reason) occurred.

    Ctrl-C and SIGTERM end it cleanly, SIGKILL costs at most the last half second.

    Raises:
        ValueError: nothing to crawl, no image at the end, or another stage is using the catalog.
        OSError: the disk is full.
    """
    with catalog.lock("crawl"):
        if options.retry:
            with catalog.transaction() as sql:
                sql.execute("UPDATE candidate SET state = 'new', reason = '' WHERE state = 'failed'")
                sql.execute("UPDATE search SET state = 'open', reason = '' WHERE state = 'failed'")
        one = catalog.connection.execute
        if not one("SELECT 1 FROM category WHERE state = 'kept' LIMIT 1").fetchone():
            raise ValueError(
                f"{catalog.path} has no category to crawl: run `fastlt discover`, or give a list with --urls."
            )
        if not sources and not one("SELECT 1 FROM candidate LIMIT 1").fetchone():
            raise ValueError(f"{catalog.path} has no URLs: name image sources with --source, or a list with --urls.")
        with Catalog(catalog.path) as writing:
            counts = asyncio.run(_Crawl(catalog, writing, sources, options).run())
    if not one("SELECT 1 FROM image LIMIT 1").fetchone():
        raise ValueError(f"not one image was found: `fastlt status {catalog.path}` has the reasons.")
    return counts


def empty_categories(catalog: Catalog) -> list[str]:
    """Titles of kept categories without any image."""
    query = (
        "SELECT title FROM category WHERE state = 'kept'"
        " AND NOT EXISTS (SELECT 1 FROM image WHERE image.category = category.id) ORDER BY id"
    )
    return [row[0] for row in catalog.connection.execute(query)]


def failed_searches(catalog: Catalog) -> list[tuple[str, int]]:
    """(reason, number) of searches that a source did not answer, most frequent first."""
    query = "SELECT reason, count(*) FROM search WHERE state = 'failed' GROUP BY 1 ORDER BY 2 DESC"
    return [tuple(row) for row in catalog.connection.execute(query)]


class _Crawl:
    """One run: hosts take candidates, and everything ends in `_outcomes`."""

    def __init__(self, catalog: Catalog, writing: Catalog, sources: Sequence[Source], options: CrawlOptions) -> None:
        self._catalog, self._sources, self._options = catalog, sources, options
        self._writer = ImageWriter(writing, options.images_per_shard, options.duplicates)
        self._fetcher = Fetcher(options.fetch)
        self._workers = PixelWorkers(
            options.workers or (os.cpu_count() or 1) + 1, options.pixels, options.fetch.max_bytes
        )
        self._outcomes: asyncio.Queue[Outcome | tuple[str, str] | None] = asyncio.Queue(2 * _BATCH)
        self._taken: set[int] = set()  # candidates whose outcome is not committed
        self._active: set[str] = set()
        self._changed = asyncio.Event()
        self._look_again, self._searching = True, bool(sources)
        self._counts: Counter[tuple[str, str]] = Counter()

    async def run(self) -> Counter[tuple[str, str]]:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task
        loop.set_default_executor(ThreadPoolExecutor(_DNS_THREADS))  # name servers are slow, and asked in threads
        for ending in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(ending, task.cancel)
        (waiting,) = self._catalog.connection.execute("SELECT count(*) FROM candidate WHERE state = 'new'").fetchone()
        self._bar = tqdm(total=waiting, unit="image", disable=not sys.stderr.isatty(), smoothing=0.05)
        try:
            async with self._fetcher, self._workers, asyncio.TaskGroup() as tasks:
                writing = tasks.create_task(self._write())
                try:
                    async with asyncio.TaskGroup() as work:
                        work.create_task(self._search())
                        work.create_task(self._start_hosts(work))
                finally:  # what is there is written, even when told to stop
                    if not writing.done():
                        await self._outcomes.put(None)
                        await writing
                        self._writer.finish()
        except BaseExceptionGroup as group:
            raise _first(group) from None
        except asyncio.CancelledError:
            raise KeyboardInterrupt from None
        finally:
            self._writer.close()
            self._bar.close()
        return self._counts

    async def _search(self) -> None:
        if self._options.api_rate:
            for source in self._sources:
                self._fetcher.host(host_of(URL(source.base_url))).slow_down(1 / self._options.api_rate)
        await search(self._catalog, self._fetcher, self._sources, self._options.per_category, self._look)
        self._searching = False
        self._look()

    def _look(self) -> None:
        """There may be candidates of hosts that had none."""
        self._look_again = True
        self._changed.set()

    async def _start_hosts(self, tasks: asyncio.TaskGroup) -> None:
        """Keeps up to as many hosts at work as there are connections, in the order of their names, round and round."""
        after = ""
        while True:
            while len(self._active) < self._options.fetch.connections:
                host = self._next_host(after)
                if host is None and not self._look_again:
                    break
                if host is None:
                    after, self._look_again = "", False
                    continue
                after = host
                if host not in self._active:
                    self._active.add(host)
                    tasks.create_task(self._crawl_host(host))
            if not self._active and not self._searching and not self._look_again:
                return
            await self._changed.wait()
            self._changed.clear()

    def _next_host(self, after: str) -> str | None:
        # SQLite would take the other index, and read all of it.
        query = (
            "SELECT host FROM candidate INDEXED BY candidate_work"
            " WHERE state = 'new' AND host > ? ORDER BY host LIMIT 1"
        )
        row = self._catalog.connection.execute(query, [after]).fetchone()
        return row["host"] if row else None

    async def _crawl_host(self, host: str) -> None:
        """Everything that there is to fetch from one host."""
        candidates = self._candidates(host)

        async def one_after_another() -> None:
            for candidate, url in candidates:
                await self._crawl_one(candidate, url)

        try:
            async with asyncio.TaskGroup() as tasks:
                for _ in range(self._options.fetch.manners.per_host):
                    tasks.create_task(one_after_another())
        except* HostGivenUpError as group:
            await self._outcomes.put((host, str(_first(group))))
        self._active.discard(host)
        if self._searching:
            self._look_again = True  # what was found while it ended
        self._changed.set()

    def _candidates(self, host: str) -> Iterator[tuple[int, str]]:
        """(id, URL) of the host's candidates, read from the catalog as they are needed."""
        last = 0
        query = "SELECT id, url FROM candidate WHERE state = 'new' AND host = ? AND id > ? ORDER BY id LIMIT ?"
        while rows := deque(self._catalog.connection.execute(query, [host, last, _AHEAD])):
            last = rows[-1]["id"]
            for row in rows:
                if row["id"] not in self._taken:
                    self._taken.add(row["id"])
                    yield row["id"], row["url"]

    async def _crawl_one(self, candidate: int, url: str) -> None:
        try:
            body = await self._fetcher.image(url)
            kept = False
            try:
                prepared = await self._workers.prepare(body)
                kept = self._options.keep_original
            finally:
                if not kept:  # else when it is written
                    self._fetcher.release(len(body))
            outcome = Outcome(candidate, prepared, body if kept else None)
        except (DroppedError, UnusableImageError) as error:
            outcome = Outcome(candidate, state="dropped", reason=str(error))
        except FailedError as error:
            outcome = Outcome(candidate, state="failed", reason=str(error))
        await self._outcomes.put(outcome)

    async def _write(self) -> None:
        """Commits outcomes in batches until None comes."""
        item: Outcome | tuple[str, str] | None = ("", "")
        while item is not None:
            batch: list[Outcome] = []
            num_bytes = 0
            try:
                async with asyncio.timeout(_BATCH_SECONDS):
                    while len(batch) < _BATCH and num_bytes < _BATCH_BYTES:
                        item = await self._outcomes.get()
                        if not isinstance(item, Outcome):
                            break
                        batch.append(item)
                        num_bytes += item.num_bytes
            except TimeoutError:
                item = ("", "")
            if batch:
                self._tell(await asyncio.to_thread(self._writer.commit, batch))
                self._taken.difference_update(outcome.candidate for outcome in batch)
                self._fetcher.release(sum(len(outcome.original or b"") for outcome in batch))
            if isinstance(item, tuple) and item[0]:
                await self._give_up(*item)

    async def _give_up(self, host: str, reason: str) -> None:
        number = await asyncio.to_thread(self._writer.give_up, host, reason)
        self._tell(Counter({("failed", reason): number}))

    def _tell(self, counts: Counter[tuple[str, str]]) -> None:
        self._counts += counts
        self._bar.total = max(self._bar.total or 0, self._counts.total())
        reasons = Counter({reason: n for (state, reason), n in self._counts.items() if state != "fetched"})
        self._bar.set_postfix_str(", ".join(f"{n:,} {why}" for why, n in reasons.most_common(3)), refresh=False)
        self._bar.update(counts.total())


def _first(group: BaseExceptionGroup) -> BaseException:
    """The first error inside, which is the cause; the others came of it."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
