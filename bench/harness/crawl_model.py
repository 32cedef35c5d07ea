"""How long a crawl takes on machines and for numbers of URLs that are not at hand: a simulation of discrete events.

The entities are hosts, as a billion URLs are too many for events of their own. An event is a host that has given all
it has, or all it may in a day; in between, images flow at a speed that does not change. Of a machine it is known how
fast it is, of a host how fast it may be asked. A machine's hosts share its speed evenly, and as many are asked at once
as it has connections.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

DAY = 86_400.0
_STEPS = 60  # of the search for an instant: 2^-60 of the whole


@dataclass(frozen=True)
class HostLimit:
    """How fast one host is asked.

    Attributes:
        rate: requests a second.
        a_day: requests in 24 hours from the first.
    """

    rate: float
    a_day: float = math.inf


@dataclass(frozen=True)
class Part:
    """What one machine did.

    Attributes:
        seconds, done: float [events + 1]; so many requests were answered by then, and evenly in between.
    """

    seconds: np.ndarray
    done: np.ndarray


def zipf(urls: int, hosts: int, exponent: float) -> np.ndarray:
    """URLs of each host, the largest first, in proportion to rank ** -exponent; int64, without hosts that have none."""
    shares = np.arange(1, hosts + 1, dtype=np.float64) ** -exponent
    ends = np.rint(np.cumsum(shares) / shares.sum() * urls).astype(np.int64)
    sizes = np.diff(ends, prepend=0)
    return sizes[sizes > 0]


def crawl(requests: Sequence[int], speed: float, limit: HostLimit, connections: int) -> Part:
    """One machine's part.

    Args:
        requests: of each host, in the order in which hosts are begun.
        speed: requests a second that the machine manages.
        limit: of every host.
        connections: hosts that are asked at once; one that waits for its next day keeps its place.
    """
    now, given = 0.0, 0.0
    seconds, done, total, begun = [0.0], [0.0], 0.0, 0
    asked: list[tuple[float, float, float]] = []  # (what each host was given when it stops, left then, since when)
    resting: list[tuple[float, float]] = []  # (until when, requests left)
    while begun < len(requests) or asked or resting:
        while begun < len(requests) and len(asked) + len(resting) < connections:
            _ask(asked, given, float(requests[begun]), now, limit)
            begun += 1
        each = min(limit.rate, speed / len(asked)) if asked else 0.0  # requests a second of every host
        stops = now + (asked[0][0] - given) / each if asked else math.inf
        wakes = resting[0][0] if resting else math.inf
        lasts, now = min(stops, wakes) - now, min(stops, wakes)
        total += lasts * each * len(asked)
        given = asked[0][0] if stops <= wakes else given + lasts * each
        if stops <= wakes:
            _, left, since = heapq.heappop(asked)
            if left:
                heapq.heappush(resting, (max(now, since + DAY), left))
        else:
            _ask(asked, given, heapq.heappop(resting)[1], now, limit)
        seconds.append(now)
        done.append(total)
    return Part(np.array(seconds), np.array(done))


def _ask(asked: list[tuple[float, float, float]], given: float, left: float, now: float, limit: HostLimit) -> None:
    today = min(left, limit.a_day)
    heapq.heappush(asked, (given + today, left - today, now))


def owners(hosts: int, machines: int, seed: int) -> np.ndarray:
    """The machine of each host, int64 [hosts]: as by the hash of a name, which knows nothing of its size."""
    return np.random.default_rng(seed).integers(machines, size=hosts)


def seconds_until(parts: Sequence[Part], share: float) -> float:
    """When so much of everything was there, over all machines."""
    wanted, low, high = share * sum(part.done[-1] for part in parts), 0.0, max(part.seconds[-1] for part in parts)
    for _ in range(_STEPS):
        middle = (low + high) / 2
        if sum(np.interp(middle, part.seconds, part.done) for part in parts) < wanted:
            low = middle
        else:
            high = middle
    return high
