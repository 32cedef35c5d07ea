"""Politeness towards hosts: how many transfers at once, how often, what opt-out headers say, when to give up.

This is the one place that holds requests back. All times are of the monotonic clock, so that a clock that is set
changes nothing.
"""

from __future__ import annotations

import asyncio
import re
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from multidict import CIMultiDictProxy

from fastlt.data_prep.crawl.budgets import SLOT, Account, Transfer
from fastlt.data_prep.crawl.host_limits import HOUR, HostLimits, shown

AGENT = "fastlt"
OPT_OUTS = frozenset({"noai", "noimageai", "noindex", "noimageindex", "none"})
_WITH_VALUES = frozenset({"unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"})
_GIVE_UP_AFTER = 20  # failures, one after another
_TOO_COSTLY = 5  # images that a decoder had to be stopped at, after which a host is given up
_SOUND = 10  # images that make up for one such
_MAX_WAIT = 600.0  # seconds, asked for by Retry-After or Crawl-delay, beyond which a host is given up
_WORTH_SAYING = 30.0  # seconds between requests that people should know of
PATIENCE = HOUR + SLOT  # seconds that a limit is waited out, as an hour's can be; for more the host rests
_MANY = 1000  # requests at once from a host without a limit
_UNDER_WAY = 0.1  # seconds after which it is seen whether a request that is under way left room


class HostGivenUpError(Exception):
    """A host that does not answer, or asks to wait too long; the message is the reason."""


class HostRestsError(Exception):
    """A host whose limit is used up for longer than one waits.

    Attributes:
        host: whose, as `Policies.key` has it.
        ends: when it may be asked again, by `time.monotonic`.
        limit: which.
    """

    def __init__(self, host: str, seconds: float, limit: str) -> None:
        super().__init__(f"{shown(host)} has given its {limit}")
        self.host, self.ends, self.limit = host, time.monotonic() + seconds, limit


@dataclass
class Host:
    """What is known of one host."""

    name: str
    limits: HostLimits
    account: Account
    next_at: float = 0.0
    failures: int = 0
    costly: int = 0
    decoded: int = 0
    given_up: str = ""
    slots: asyncio.Semaphore = field(init=False)
    interval: float = field(init=False)

    def __post_init__(self) -> None:
        self.slots = asyncio.Semaphore(self.at_once)
        self.interval = 1 / self.limits.requests_per_second if self.limits.requests_per_second else 0.0
        self._bytes_until = 0.0
        self._told_until = 0.0

    @property
    def at_once(self) -> int:
        """How many requests may be under way."""
        return min(self.limits.connections or _MANY, _MANY)

    @asynccontextmanager
    async def turn(self, connections: asyncio.Semaphore, room: asyncio.Event) -> AsyncIterator[Transfer]:
        """Waits until one more request is polite and there are a connection and room for its body; holds the first two.

        Raises:
            HostGivenUpError: the host was given up, perhaps while waiting.
            HostRestsError: a limit is used up for longer than one waits.
        """
        async with self.slots:
            while True:
                if (wait := self._wait()) > 0:
                    await asyncio.sleep(min(wait, 1.0))  # the pause may grow meanwhile
                    continue
                await room.wait()
                await connections.acquire()
                try:
                    is_due = room.is_set() and self._wait() <= 0  # still, after what may have been long
                except BaseException:
                    connections.release()
                    raise
                if is_due:
                    break
                connections.release()
            try:
                begins = time.monotonic()
                self.next_at = max(self.next_at, begins) + self.interval
                transfer = self.account.begin()
                try:
                    yield transfer
                finally:
                    transfer.end()
                    if self.limits.bytes_per_second:
                        takes = transfer.received / self.limits.bytes_per_second
                        self._bytes_until = max(self._bytes_until, begins) + takes
                        self.next_at = max(self.next_at, self._bytes_until)
            finally:
                connections.release()

    def _wait(self) -> float:
        """Seconds before which no request is polite."""
        if self.given_up:
            raise HostGivenUpError(self.given_up)
        held = self.account.wait()
        if held and not held.is_sure:
            return _UNDER_WAY
        if held and held.seconds > PATIENCE:
            raise HostRestsError(self.name, held.seconds, held.limit)
        now = time.monotonic()
        if held and held.seconds > _WORTH_SAYING and self._told_until <= now:
            self._told_until = now + held.seconds
            said = f"{shown(self.name)} has given its {held.limit}: it is asked again in {held.seconds / 60:,.0f} min"
            print(said, file=sys.stderr, flush=True)
        return max(self.next_at - now, held.seconds if held else 0.0)

    def pause(self, seconds: float) -> None:
        """Nobody asks before that many seconds have passed; gives the host up if that is too long."""
        if seconds > _MAX_WAIT:
            self.given_up = "host asks to wait too long"
        self.next_at = max(self.next_at, time.monotonic() + seconds)

    def answered(self) -> None:
        """The host is alive."""
        self.failures = 0

    def failed(self) -> None:
        """No connection, no or no useful answer; a host that fails many times in a row is given up."""
        self.failures += 1
        if self.failures >= _GIVE_UP_AFTER:
            self.given_up = "host does not answer"

    def served(self, is_costly: bool) -> None:
        """An image of the host was decoded, or the decoder had to be stopped at it; many such give the host up."""
        self.costly += is_costly
        self.decoded += not is_costly
        if self.costly >= _TOO_COSTLY and self.costly * _SOUND > self.decoded:
            self.given_up = "host serves images that are too much for decoders"

    def slow_down(self, delay: float) -> None:
        """At least `delay` seconds between requests; a host that asks for too many is given up, a slow one named."""
        if delay > _MAX_WAIT:
            self.given_up = f"robots.txt asks for {delay:,.0f} s between requests"
        elif delay >= _WORTH_SAYING:
            print(f"{shown(self.name)} asks for {delay:,.0f} s between requests", file=sys.stderr, flush=True)
        self.interval = max(self.interval, delay)


def our_rules(robots: str) -> str:
    """robots.txt with the groups for `fastlt` and `*` alone.

    RFC 9309, 2.2.1: a group is for a crawler if its product token is the crawler's, whole and in any case; parsers
    commonly take a part of it for the whole.
    """
    lines = []
    for line in robots.splitlines():
        named = re.match(r"\s*user-agent\s*:\s*(\*|[\w.-]*)", line, re.IGNORECASE)
        if named:
            agent = named[1] if named[1] == "*" else AGENT if named[1].lower() == AGENT else "somebody-else"
            line = f"User-agent: {agent}"
        lines.append(line)
    return "\n".join(lines)


def opts_out(headers: CIMultiDictProxy[str]) -> bool:
    """Whether the answer asks not to be used: X-Robots-Tag for all or for us, or the TDM reservation protocol."""
    if headers.get("TDM-Reservation", "").strip() == "1":
        return True
    for value in headers.getall("X-Robots-Tag", ()):
        for_us = True
        for token in value.lower().split(","):
            name, colon, rest = token.partition(":")
            if colon and name.strip() in _WITH_VALUES:
                continue
            if colon:  # "agent: directive, directive"
                for_us, token = name.strip() in (AGENT, "*"), rest
            if for_us and token.strip() in OPT_OUTS:
                return True
    return False
