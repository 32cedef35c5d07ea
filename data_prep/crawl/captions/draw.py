"""The best captions of each category: those most like their image, or, where nobody says how like, drawn by a hash."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterator
from typing import NamedTuple


class Captioned(NamedTuple):
    """A URL whose caption names a category."""

    url: str
    license: str | None


class Draw:
    """At most `most` URLs of each category; where none is offered twice, the same whatever the order.

    Of a URL that is offered twice for a category, the first offer counts, however alike the second says they are.

    Attributes:
        over: how many URLs were offered beyond these.
        repeated: how many were offered before for the same category.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._best: dict[int, list[tuple[float, int, Captioned]]] = {}
        self._urls: dict[int, set[str]] = {}
        self.over = self.repeated = 0

    def offer(self, category: int, similarity: float, offered: Captioned) -> None:
        """Takes the URL in if it is better than the worst; of equal similarity, the hash of the URL decides."""
        best, urls = self._best.setdefault(category, []), self._urls.setdefault(category, set())
        if offered.url in urls:
            self.repeated += 1
            return
        if len(best) == self._most and similarity < best[0][0]:
            self.over += 1
            return
        entry = (similarity, _hash(offered.url), offered)
        if len(best) < self._most:
            heapq.heappush(best, entry)
            urls.add(offered.url)
            return
        self.over += 1
        worst = heapq.heappushpop(best, entry)
        if worst is not entry:
            urls.remove(worst[2].url)
            urls.add(offered.url)

    def drawn(self) -> Iterator[tuple[int, list[Captioned]]]:
        """(category, its URLs, best first)."""
        for category, best in self._best.items():
            yield category, [captioned for _, _, captioned in sorted(best, reverse=True)]


def _hash(url: str) -> int:
    return int.from_bytes(hashlib.blake2b(url.encode(errors="replace"), digest_size=8).digest())
