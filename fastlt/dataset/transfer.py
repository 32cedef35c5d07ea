"""What is said of a transfer that takes long: what, how much, how far after each half minute, and how long it took."""

from __future__ import annotations

import time

from fastlt.messages import in_bytes, in_time

_SECONDS = 30.0


class Transfer:
    """A copy or an upload that begins.

    Args:
        what: is transferred, from where to where.
        num_bytes: of all of it.
        there: how many of them are there from an earlier one.
    """

    def __init__(self, what: str, num_bytes: int, there: int) -> None:
        self._what, self._num_bytes, self._there, self._done = what, num_bytes, there, there
        self._began = self._said = time.monotonic()
        before = f", of which {in_bytes(there)} are there" if there else ""
        print(f"{what}: {in_bytes(num_bytes)}{before}", flush=True)

    def add(self, num_bytes: int) -> None:
        """So many more bytes are there."""
        self._done += num_bytes
        now = time.monotonic()
        if now - self._said >= _SECONDS and self._done < self._num_bytes:
            self._said = now
            speed = max(1.0, self._done - self._there) / (now - self._began)
            left = in_time((self._num_bytes - self._done) / speed)
            print(f"{self._done / self._num_bytes:.0%} are there, {in_bytes(speed)}/s; about {left} left", flush=True)

    def end(self) -> None:
        """All of it is there."""
        seconds = time.monotonic() - self._began
        speed = f", {in_bytes((self._done - self._there) / seconds)}/s" if seconds > 1 else ""
        print(f"{self._what}: done in {in_time(seconds)}{speed}", flush=True)
