"""What hosts were asked for in the last hour and day, kept in the catalog, and whether one more request fits.

Counts lie in slots of ten minutes, and a slot counts until its end has left the window: an hour is rather seventy
minutes, never less. A host with such a limit is written down before each request and after it, others with the
outcomes; so a process that is killed has forgotten nothing that a limit needs.
"""

from __future__ import annotations

import json
import math
import time
from collections import defaultdict
from typing import NamedTuple

from fastlt.data_prep.catalog import Catalog
from fastlt.data_prep.crawl.host_limits import DAY, HOUR, HostLimits, amount
from fastlt.data_prep.crawl.since_boot import boot_id, steady

SLOT = 600  # seconds
_REMEMBERED = 7 * DAY
USUAL_BYTES = 150_000  # that an image is taken to have where none of its host is known; iNaturalist's medium size has
_UNREAD = 2**17  # bytes of a body that come before it can be refused
_CLOCK = "clock"  # a setting


class Clock:
    """The time, as seconds since 1970, that no change of the machine's clock moves.

    The clock is read once. From then on, and in later processes until the machine starts anew, what passes is counted
    by a clock that nobody sets. After a new start the machine's clock is believed. Where it is behind what the catalog
    has from before, that is taken for counts of now (`Catalog.settle_used`): nothing is free, and no wait is longer
    than a day. Only a clock that a new start has set ahead cannot be told from days that have passed.
    """

    def __init__(self, catalog: Catalog) -> None:
        boot, now = boot_id(), steady()
        before = catalog.json_setting(_CLOCK)
        then, at = _seconds(before.get("steady")), _seconds(before.get("time"))
        if boot and before.get("boot") == boot and then is not None and at is not None and then <= now:
            self._ahead = at - then
        else:
            self._ahead = max(0.0, time.time()) - now
        catalog.remember(_CLOCK, json.dumps({"boot": boot, "steady": now, "time": now + self._ahead}))

    def now(self) -> float:
        """Now."""
        return steady() + self._ahead


def _seconds(value: object) -> float | None:
    """What a clock may have said, None for anything else."""
    return value if isinstance(value, float) and 0 <= value < 1e11 else None


class _Window(NamedTuple):
    """One limit: `most` requests (0) or bytes (1) in any `seconds`."""

    what: int
    seconds: int
    most: float
    said: str


class Wait(NamedTuple):
    """Why no request fits: seconds until one does, and the limit. Sooner, perhaps, where requests are under way."""

    seconds: float
    limit: str
    is_sure: bool


class Ledger:
    """The accounts of all hosts; of the process that crawls, and used by its event loop alone."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog, self._clock = catalog, Clock(catalog)
        self._pending: defaultdict[tuple[str, int], tuple[int, int]] = defaultdict(lambda: (0, 0))
        catalog.settle_used(self.slot() - _REMEMBERED // SLOT, self.slot())

    def now(self) -> float:
        """Seconds since 1970, as `Clock`."""
        return self._clock.now()

    def slot(self) -> int:
        """Which ten minutes it is."""
        return int(self.now() // SLOT)

    def account(self, host: str, limits: HostLimits) -> Account:
        """What the host was asked for."""
        account = Account(host, limits, self)
        if account.is_limited:
            account.remember(self._catalog.used(host))
        return account

    def put(self, host: str, slot: int, requests: int, num_bytes: int, at_once: bool) -> None:
        """Puts down what a host was asked for; with the next `flush` unless it is needed at once."""
        if at_once:
            with self._catalog.transaction():  # which only the owner of a part can
                self._catalog.add_used([(host, slot, requests, num_bytes)])
        else:
            asked, came = self._pending[host, slot]
            self._pending[host, slot] = asked + requests, came + num_bytes

    def flush(self) -> None:
        """Writes down what is not yet."""
        if self._pending:
            with self._catalog.transaction():
                self._catalog.add_used((host, slot, *counts) for (host, slot), counts in self._pending.items())
            self._pending.clear()


class NoRoomError(Exception):
    """A body that the limits of its host leave no room for, now or for good."""

    def __init__(self, for_good: bool) -> None:
        super().__init__("larger than what its host gives in an hour or a day (--policy)")
        self.for_good = for_good


class Account:
    """One host's: what it was asked for, what that leaves, and the requests that are under way."""

    def __init__(self, host: str, limits: HostLimits, ledger: Ledger) -> None:
        self._host, self._limits, self._ledger = host, limits, ledger
        named = (
            (0, DAY, limits.requests_per_day, f"{limits.requests_per_day or 0:,.0f} requests a day"),
            (1, HOUR, limits.bytes_per_hour, f"{amount(limits.bytes_per_hour or 0)} an hour"),
            (1, DAY, limits.bytes_per_day, f"{amount(limits.bytes_per_day or 0)} a day"),
        )
        self._windows = [_Window(what, seconds, most, said) for what, seconds, most, said in named if most is not None]
        self.is_limited = bool(self._windows)
        self._slots: dict[int, list[int]] = {}
        self._most_bytes = min((w.most for w in self._windows if w.what), default=math.inf)
        self._largest = self._under_way = 0

    def remember(self, used: list[tuple[int, int, int]]) -> None:
        """What the catalog has of the host."""
        self._slots = {slot: [max(0, requests), max(0, num_bytes)] for slot, requests, num_bytes in used}

    @property
    def _usual(self) -> float:
        """Bytes that a body has: as many as the largest so far."""
        return min(self._largest or USUAL_BYTES, self._most_bytes)

    def wait(self) -> Wait | None:
        """Why no request fits now; None where one does."""
        waits = [wait for window in self._windows if (wait := self._wait(window, self._usual if window.what else 1))]
        return max(waits, default=None)

    def _wait(self, window: _Window, wanted: float) -> Wait | None:
        counted = self._counted(window)
        over = sum(counted.values()) + min(wanted, window.most) - window.most
        if over <= 0:
            return None
        for slot in sorted(counted):
            over -= counted[slot]
            if over <= 0:
                break
        ends = (slot + 1) * SLOT + window.seconds
        return Wait(ends - self._ledger.now(), window.said, is_sure=not self._under_way)

    def _counted(self, window: _Window) -> dict[int, int]:
        """{slot: requests or bytes} of what counts now."""
        begins = self._ledger.now() - window.seconds
        return {slot: used[window.what] for slot, used in self._slots.items() if (slot + 1) * SLOT > begins}

    def seconds_for(self, requests: int, num_bytes: float) -> float:
        """How long the limits make so many requests and bytes take, with what the last day has left of them."""
        limits = self._limits
        takes = max(
            requests / limits.requests_per_second if limits.requests_per_second else 0.0,
            num_bytes / limits.bytes_per_second if limits.bytes_per_second else 0.0,
        )
        return max([takes, *(self._seconds_of(w, num_bytes if w.what else requests, takes) for w in self._windows)])

    def _seconds_of(self, window: _Window, wanted: float, takes: float) -> float:
        """The same, of one limit, where the work takes so many seconds without it."""
        used = sum(self._counted(window).values())
        over = wanted + used - window.most
        if not wanted or over <= 0 or (wanted * window.seconds <= window.most * takes and not used):
            return takes  # there is enough, or it is asked too slowly to use the limit up
        times = math.ceil(over / window.most)
        return times * window.seconds + takes * (over - (times - 1) * window.most) / wanted

    def begin(self) -> Transfer:
        """Books one request, with the bytes that it usually brings."""
        if self._slots:
            for slot in [slot for slot in self._slots if (slot + 1) * SLOT <= self._ledger.now() - DAY]:
                del self._slots[slot]
        self._under_way += 1
        return Transfer(self, self._ledger.slot(), int(self._usual) if self._most_bytes < math.inf else 0)

    def end(self) -> None:
        """A request is over."""
        self._under_way -= 1

    def put(self, slot: int, requests: int, num_bytes: int) -> None:
        """Counts."""
        if self._windows:
            counts = self._slots.setdefault(slot, [0, 0])
            counts[0] += requests
            counts[1] += num_bytes
        self._ledger.put(self._host, slot, requests, num_bytes, at_once=bool(self._windows))

    def fits(self, more: int) -> bool:
        """Whether so many bytes more than are booked may come now."""
        return not any(self._wait(window, more) for window in self._windows if window.what and more > 0)

    def is_ever_enough(self, num_bytes: int) -> bool:
        """Whether a body of so many bytes is within the limits when nothing else is."""
        return num_bytes <= self._most_bytes

    def expect(self, num_bytes: int) -> None:
        """Images of the host have so many bytes: no request begins before there is room for one of them."""
        self._largest = max(self._largest, num_bytes)

    def slot(self) -> int:
        """Which ten minutes it is."""
        return self._ledger.slot()


class Transfer:
    """One request: what is booked for it, what has come, and at the end only that.

    Attributes:
        received: bytes of the body so far.
        is_image: whether it came whole and is of the size that images of the host have.
    """

    def __init__(self, account: Account, slot: int, booked: int) -> None:
        self._account, self._slot, self._booked = account, slot, booked
        self.received, self.is_image = 0, False
        account.put(slot, 1, booked)

    def announce(self, num_bytes: int) -> None:
        """The body has so many bytes, it says.

        Raises:
            NoRoomError: so many may not come now, or not in any hour or day.
        """
        if self._account.is_limited:
            self._require(num_bytes, unread=min(num_bytes, _UNREAD))

    def take(self, num_bytes: int) -> None:
        """So many bytes of the body have come.

        Raises:
            NoRoomError: no more may come now, or not in any hour or day.
        """
        self.received += num_bytes
        if self.received > self._booked and self._account.is_limited:
            self._require(self.received)

    def _require(self, num_bytes: int, unread: int = 0) -> None:
        account, more = self._account, num_bytes - self._booked
        if account.fits(more) and account.is_ever_enough(num_bytes):
            if more > 0:
                account.put(self._slot, 0, more)
                self._booked += more
            return
        self.received += unread
        account.expect(num_bytes)
        raise NoRoomError(for_good=not account.is_ever_enough(num_bytes))

    def end(self) -> None:
        """Nothing more comes."""
        now = self._account.slot()
        if self._slot == now:
            self._account.put(now, 0, self.received - self._booked)
        else:
            self._account.put(self._slot, 0, -self._booked)
            self._account.put(now, 0, self.received)
        if self.is_image:
            self._account.expect(self.received)
        self._account.end()
