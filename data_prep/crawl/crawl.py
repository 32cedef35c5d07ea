"""`fastlt crawl`: from categories and URLs to shards of clean images; ends, and goes on where it was killed.

Every host has tasks of its own that take its candidates from the catalog; what they fetch is prepared in worker
processes and written down in batches. Memory depends on the limits, never on how many candidates there are.
"""

from __future__ import annotations

import asyncio
import gc
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import datetime

from tqdm import tqdm
from yarl import URL

from fastlt.cores import available_cores
from fastlt.data_prep.catalog import Catalog
from fastlt.data_prep.crawl import reasons
from fastlt.data_prep.crawl.addresses import host_of
from fastlt.data_prep.crawl.budgets import Ledger
from fastlt.data_prep.crawl.decode_pool import DecodePool
from fastlt.data_prep.crawl.fetch import DroppedError, FailedError, Fetcher
from fastlt.data_prep.crawl.host_limits import Policies
from fastlt.data_prep.crawl.options import CrawlOptions
from fastlt.data_prep.crawl.parts.part import Claim, require_no_parts
from fastlt.data_prep.crawl.politeness import PATIENCE, HostGivenUpError, HostRestsError
from fastlt.data_prep.crawl.prepared import UnusableImageError
from fastlt.data_prep.crawl.search import search
from fastlt.data_prep.crawl.sources import ImageSource
from fastlt.data_prep.crawl.writer import ImageWriter, Outcome

_AHEAD = 64  # candidates of one host that are in memory before their turn
_BATCH, _BATCH_BYTES, _BATCH_SECONDS = 256, 32 * 2**20, 0.5
_DNS_THREADS = 32


@dataclass(frozen=True)
class Crawled:
    """What a run did.

    Attributes:
        counts: how often each (state, reason) occurred.
        waiting: what could not be asked for as a limit is used up, a line a host.
        unused: hosts of --policy that the crawl has not met.
    """

    counts: Counter[tuple[str, str]]
    waiting: list[str]
    unused: list[str]


def crawl(
    catalog: Catalog, sources: Sequence[ImageSource], options: CrawlOptions, claim: Claim | None = None
) -> Crawled:
    """Fetches every candidate that has no outcome yet, but for those of hosts whose limit is used up.

    Ctrl-C and SIGTERM end it cleanly, SIGKILL costs at most the last half second.

    Args:
        catalog: whose candidates are fetched.
        sources: that are asked for more.
        options: see there.
        claim: of a part, which may have nothing to fetch.

    Raises:
        ValueError: nothing to crawl, no image at the end, another stage is using the catalog, or it is in parts.
        LeaseLostError: another process may work on the part by now.
        OSError: the disk is full.
    """
    with nullcontext() if claim else catalog.lock("crawl"):  # which a process that stands still would keep
        if not claim and not options.list_only:
            require_no_parts(catalog.path)
        if options.retry:
            catalog.retry_failed()
        if not catalog.categories(kept=True):
            raise ValueError(
                f"{catalog.path} has no category to crawl: run `fastlt discover`, or give a list with --urls."
            )
        if not claim and not sources and not catalog.num_candidates():
            raise ValueError(f"{catalog.path} has no URLs: name image sources with --source, or a list with --urls.")
        with Catalog(catalog.path) as writing:
            writing.fence = catalog.fence
            crawled = asyncio.run(_Crawl(catalog, writing, sources, options, claim).run())
    if not claim and not options.list_only and not catalog.has_images() and not crawled.waiting:
        raise ValueError(f"not one image was found: `fastlt status {catalog.path}` has the reasons.")
    return crawled


class _Crawl:
    """One run: hosts take candidates, and everything ends in `_outcomes`."""

    def __init__(
        self,
        catalog: Catalog,
        writing: Catalog,
        sources: Sequence[ImageSource],
        options: CrawlOptions,
        claim: Claim | None,
    ) -> None:
        self._catalog, self._sources, self._options = catalog, sources, options
        radius = None if options.shards.duplicates < 0 else options.shards.duplicates
        self._writer = ImageWriter(writing, options.shards.images_per_shard, radius)
        self._policies = Policies(options.politeness, [host_of(URL(source.base_url)) for source in sources])
        self._ledger, self._claim = Ledger(catalog), claim
        self._fetcher = Fetcher(options.politeness, options.limits, self._policies, self._ledger, claim)
        # One process more than cores, as one always waits for its next image.
        number = options.workers or available_cores() + 1
        self._decoders = DecodePool(number, options.images, options.limits.max_pixels, options.limits.max_bytes)
        self._outcomes: asyncio.Queue[Outcome | tuple[str, str] | None] = asyncio.Queue(2 * _BATCH)
        self._taken: set[int] = set()  # candidates whose outcome is not committed
        self._active: set[str] = set()
        self._changed = asyncio.Event()
        self._look_again, self._searching = True, bool(sources)
        self._counts: Counter[tuple[str, str]] = Counter()
        self._rests: dict[str, HostRestsError] = {}
        self._searches_put_off: Counter[str] = Counter()
        self._led_to: Counter[str] = Counter()  # hosts that rest, by how many URLs of others led there

    async def run(self) -> Crawled:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task
        gc.freeze()  # what imports have made stays, and need not be looked through again and again
        loop.set_default_executor(ThreadPoolExecutor(_DNS_THREADS))  # name servers are slow, and asked in threads
        loop.add_signal_handler(signal.SIGINT, task.cancel)
        # Once: of a parent that ends, this process hears as often as the parent has threads.
        loop.add_signal_handler(signal.SIGTERM, lambda: task.cancelling() or task.cancel())
        self._bar = tqdm(
            total=self._catalog.num_waiting(), unit="image", disable=not sys.stderr.isatty(), smoothing=0.05
        )
        try:
            async with self._fetcher, self._decoders, asyncio.TaskGroup() as tasks:
                writing = tasks.create_task(self._write())
                try:
                    async with asyncio.TaskGroup() as work:
                        work.create_task(self._search())
                        if not self._options.list_only:
                            work.create_task(self._start_hosts(work))
                finally:  # what is there is written, even when told to stop
                    if not writing.done():
                        await self._outcomes.put(None)
                        await writing
                        self._writer.finish()
                    self._ledger.flush()
        except BaseExceptionGroup as group:
            raise _first(group) from None
        except asyncio.CancelledError:
            waiting = f"{self._catalog.num_waiting():,} URLs wait, with which the same command goes on"
            raise KeyboardInterrupt(f"stopped; {waiting}") from None
        finally:
            self._writer.close()
            self._bar.close()
        unused: list[str] = []
        if self._policies.has_own and not self._claim:  # a part has but some of the hosts
            unused = self._policies.unused([*self._policies.apis, *self._catalog.hosts()])
        return Crawled(self._counts, self._waiting(), unused)

    async def _search(self) -> None:
        def rests(error: HostRestsError) -> None:
            self._rests[error.host] = error
            self._searches_put_off[error.host] += 1

        await search(self._catalog, self._fetcher, self._sources, self._options.per_category, self._look, rests)
        self._searching = False
        self._look()

    def _waiting(self) -> list[str]:
        """What waits for which host, and until when."""
        number: Counter[str] = Counter()
        for host, urls in self._catalog.waiting_by_host().items():
            number[self._policies.key(host)] += urls
        lines = []
        for host, rest in self._rests.items():
            parts = [
                f"{n:,} {what}"
                for n, what in (
                    (number[host], "URLs"),
                    (self._led_to[host], "URLs that lead there"),
                    (self._searches_put_off[host], "searches"),
                )
                if n
            ]
            if parts:
                until = datetime.fromtimestamp(time.time() + self._rest_of(host)).astimezone()
                page = self._policies.of(host).page
                why = f"{rest}{f' ({page})' if page else ''}"
                lines.append(f"{' and '.join(parts)} wait until {until:%Y-%m-%d %H:%M %Z}: {why}")
        return lines

    def _look(self) -> None:
        """There may be candidates of hosts that had none."""
        self._look_again = True
        self._changed.set()

    async def _start_hosts(self, tasks: asyncio.TaskGroup) -> None:
        """Keeps up to as many hosts at work as there are connections, in the order of their names, round and round."""
        after = ""
        while True:
            while len(self._active) < self._options.politeness.connections:
                host = self._catalog.next_host(after)
                if host is None and not self._look_again:
                    break
                if host is None:
                    after, self._look_again = "", False
                    continue
                after = host
                if host not in self._active and self._rest_of(host) <= 0:
                    self._active.add(host)
                    tasks.create_task(self._crawl_host(host))
            if not self._active and not self._searching and not self._look_again:
                soon = min(
                    (rest for host in self._catalog.waiting_hosts() if (rest := self._rest_of(host)) > 0),
                    default=PATIENCE,
                )
                if soon >= PATIENCE:
                    return
                await asyncio.sleep(soon)
                self._look_again = True
                continue
            await self._changed.wait()
            self._changed.clear()

    def _rest_of(self, host: str) -> float:
        """Seconds for which a host rests, 0 or less for one that may be asked."""
        rest = self._rests.get(self._policies.key(host))
        return rest.ends - time.monotonic() if rest else 0.0

    async def _crawl_host(self, host: str) -> None:
        """Everything that there is to fetch from one host."""
        candidates = self._candidates(host)
        num_asked = 0

        async def one_after_another() -> None:
            nonlocal num_asked
            for candidate, url in candidates:
                num_asked += 1
                try:
                    await self._crawl_one(candidate, url)
                except HostRestsError as error:  # the others that are under way come to their end
                    self._rests[error.host] = error
                    if error.host == self._policies.key(host):
                        self._taken.discard(candidate)
                        return
                    self._led_to[error.host] += 1

        try:
            async with asyncio.TaskGroup() as tasks:
                for _ in range(self._fetcher.host(host).at_once):
                    tasks.create_task(one_after_another())
        except* HostGivenUpError as group:
            await self._outcomes.put((host, str(_first(group))))
        self._active.discard(host)
        if num_asked and (self._searching or self._rests):
            self._look_again = True  # what was found while it ended, or has rested
        self._changed.set()

    def _candidates(self, host: str) -> Iterator[tuple[int, str]]:
        """(id, URL) of the host's candidates, read from the catalog as they are needed."""
        last = 0
        while rows := self._catalog.waiting_of_host(host, last, _AHEAD):
            last = rows[-1]["id"]
            for row in rows:
                if row["id"] not in self._taken:
                    self._taken.add(row["id"])
                    yield row["id"], row["url"]

    async def _crawl_one(self, candidate: int, url: str) -> None:
        """Fetches one; it has no outcome where this raises HostGivenUpError or HostRestsError."""
        try:
            body, host = await self._fetcher.image(url)
            kept = False
            try:
                prepared = await self._decoders.prepare(body)
                host.served(is_costly=False)
                kept = self._options.shards.keep_original
            except UnusableImageError as error:
                if str(error) in reasons.COSTLY:
                    host.served(is_costly=True)
                raise
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
            self._ledger.flush()
            if isinstance(item, tuple) and item[0]:
                await self._give_up(*item)

    async def _give_up(self, host: str, reason: str) -> None:
        number = await asyncio.to_thread(self._writer.give_up, host, reason)
        self._tell(Counter({("failed", reason): number}))

    def _tell(self, counts: Counter[tuple[str, str]]) -> None:
        self._counts += counts
        self._bar.total = max(self._bar.total or 0, self._counts.total())
        not_taken = Counter({reason: n for (state, reason), n in self._counts.items() if state != "fetched"})
        self._bar.set_postfix_str(", ".join(f"{n:,} {why}" for why, n in not_taken.most_common(3)), refresh=False)
        self._bar.update(counts.total())


def _first(group: BaseExceptionGroup) -> BaseException:
    """The first error inside, which is the cause; the others came of it."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
