"""Politeness towards hosts: how many transfers at once, how often, what opt-out headers say, when to give up.

All times are of the monotonic clock, so that a clock that is set changes nothing.
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

from fastlt.data_prep.crawl.options import Politeness

AGENT = "fastlt"
OPT_OUTS = frozenset({"noai", "noimageai", "noindex", "noimageindex", "none"})
_WITH_VALUES = frozenset({"unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"})
_GIVE_UP_AFTER = 20  # failures, one after another
_TOO_COSTLY = 5  # images that a decoder had to be stopped at, after which a host is given up
_SOUND = 10  # images that make up for one such
_MAX_WAIT = 600.0  # seconds, asked for by Retry-After or Crawl-delay, beyond which a host is given up
_WORTH_SAYING = 30.0  # seconds between requests that people should know of


class HostGivenUpError(Exception):
    """A host that does not answer, or asks to wait too long; the message is the reason."""


@dataclass
class Host:
    """What is known of one host."""

    name: str
    politeness: Politeness
    next_at: float = 0.0
    failures: int = 0
    costly: int = 0
    decoded: int = 0
    given_up: str = ""
    slots: asyncio.Semaphore = field(init=False)
    interval: float = field(init=False)

    def __post_init__(self) -> None:
        self.slots = asyncio.Semaphore(self.politeness.per_host)
        self.interval = 1 / self.politeness.rate if self.politeness.rate else 0.0

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Waits until one more request is polite.

        Raises:
            HostGivenUpError: the host was given up, perhaps while waiting.
        """
        async with self.slots:
            while True:
                if self.given_up:
                    raise HostGivenUpError(self.given_up)
                wait = self.next_at - time.monotonic()
                if wait <= 0:
                    break
                await asyncio.sleep(min(wait, 1.0))  # the pause may grow meanwhile
            self.next_at = max(self.next_at, time.monotonic()) + self.interval
            yield

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
            print(f"{self.name} asks for {delay:,.0f} s between requests", file=sys.stderr, flush=True)
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
