"""What one image may take of the process that decodes it: so much memory, so much of the processor's time.

Where the system has no such limits there are none, as on memory outside Linux.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

TIME_IS_UP = signal.SIGPROF
"""What ends a process that decodes for too long; no handler would run before the decoder returns."""
_MEMORY, _MEMORY_PER_PIXEL = 2**26, 12  # bytes; what decoders of JPEG, PNG, GIF, BMP and TIFF make do with
_OPENING = 8 * 2**28  # bytes that libwebp reserves for its largest image before anybody knows the size, and leaves be
_PAGE = resource.getpagesize()
_SECONDS, _SECONDS_PER_PIXEL = 2.0, 2e-7  # five times what sound images take, and more for small ones


class Cage:
    """Limits for images of at most so many pixels."""

    def __init__(self, max_pixels: int) -> None:
        self._most = _MEMORY + _MEMORY_PER_PIXEL * max_pixels
        self._at_first = 0
        self._statm = os.open("/proc/self/statm", os.O_RDONLY) if sys.platform == "linux" else None

    @contextmanager
    def one_image(self, num_bytes: int) -> Iterator[None]:
        """Inside, one file of that size is opened and decoded; past the limits it is a MemoryError, or `TIME_IS_UP`."""
        self._at_first = self._private_bytes() + 2 * num_bytes
        _limit_memory(self._at_first + self._most + _OPENING)
        _limit_time(_SECONDS)
        try:
            yield
        finally:
            _limit_time(0)

    def opened(self, num_pixels: int, is_roomy: bool = False) -> None:
        """The image has so many pixels, and is decoded now; by a decoder that takes more memory, if it is roomy."""
        _limit_memory(self._at_first + self._most * (1 + is_roomy))
        _limit_time(_SECONDS + _SECONDS_PER_PIXEL * num_pixels)

    def _private_bytes(self) -> int:
        """The memory of this process that RLIMIT_DATA is about."""
        return 0 if self._statm is None else int(os.pread(self._statm, 200, 0).split()[5]) * _PAGE

    def may_lack_memory(self, num_pixels: int) -> bool:
        """Whether a decoder that says no more than that it failed may have had too little."""
        return 2 * _MEMORY_PER_PIXEL * num_pixels > self._most


def _limit_memory(num_bytes: int) -> None:
    if sys.platform == "linux":  # elsewhere it holds for less, or for nothing
        resource.setrlimit(resource.RLIMIT_DATA, (num_bytes, resource.getrlimit(resource.RLIMIT_DATA)[1]))


def _limit_time(seconds: float) -> None:
    """SIGPROF after that much of the processor's time; 0 takes it back."""
    signal.setitimer(signal.ITIMER_PROF, seconds)
