"""Which part a host belongs to: the same everywhere, and nearly the same when there is one part more.

Rendezvous hashing (Thaler and Ravishankar, A Name-Based Mapping Scheme for Rendezvous, 1996).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b

from fastlt.options import OptionError

MOST = 4096


@dataclass(frozen=True)
class Share:
    """One of several parts, counted from 1."""

    number: int
    parts: int

    @classmethod
    def parse(cls, said: str) -> Share:
        """Reads "3/64".

        Raises:
            OptionError: it is none of these.
        """
        found = re.fullmatch(r"([0-9]{1,4})/([0-9]{1,4})", said)
        share = cls(int(found[1]), int(found[2])) if found else None
        if share is None or not 1 <= share.number <= share.parts <= MOST:
            raise OptionError(f"--part {said}: give a number and how many parts there are, such as 3/64.")
        return share

    def __str__(self) -> str:
        return f"part {self.number} of {self.parts}"

    def owns(self, host: str) -> bool:
        """Whether the host, with its port, belongs to this part; all ports of a name do, with and without www."""
        return part_of(host, self.parts) == self.number

    def of(self, hosts: Iterable[str]) -> list[str]:
        """Those hosts that belong to this part."""
        return [host for host in hosts if self.owns(host)]


@lru_cache(2**16)  # asked at each request, and some microseconds for every ten parts
def part_of(host: str, parts: int) -> int:
    """The part of a host, with its port: the one that draws the highest number for its name.

    example.org and www.example.org mostly lead to each other, and a part may not follow to another part's host.
    """
    name = host.rpartition(":")[0].removeprefix("www.")
    begun = blake2b(name.encode(errors="replace"), digest_size=8)

    def drawn(part: int) -> bytes:
        hash = begun.copy()
        hash.update(part.to_bytes(2))
        return hash.digest()

    return max(range(1, parts + 1), key=drawn)
