"""Processes that decode images for the crawler: what hostile bytes do to a decoder, they do to one of these,
within the limits of its cage.

Bytes go to and fro in memory that both sides see, for which pipes would be slow. A request is their number; an answer
is what `prepared.py` packs, with the JPEG in that memory. The processes run `decode_worker.py`, and end when their
standard input does.
"""

from __future__ import annotations

import asyncio
import json
import mmap
import os
import sys
from asyncio.subprocess import PIPE, Process
from contextlib import suppress
from dataclasses import asdict

from fastlt.data_prep.crawl import reasons
from fastlt.data_prep.crawl.cage import TIME_IS_UP
from fastlt.data_prep.crawl.image_options import ImageOptions
from fastlt.data_prep.crawl.prepared import (
    ANSWER_BYTES,
    READY,
    REQUEST_BYTES,
    Prepared,
    UnusableImageError,
    beside,
    unpacked,
)

_SECONDS = 60.0  # for one image, however busy the machine is
# glibc: memory of large images goes back to the system when it is freed, that of others is kept for the next one.
_GIVES_BACK = {"MALLOC_MMAP_THRESHOLD_": str(2**23), "MALLOC_TRIM_THRESHOLD_": str(2**24)}
_ENDS = {*reasons.COSTLY, reasons.NO_TIME}  # a decoder without memory may leave some behind
_MIN_SHARED = 64 * 2**20  # of address space; memory is taken where it is written to


class DecodePool:
    """A pool of processes; use as `async with`, and let every `prepare` end inside.

    Args:
        number: of processes.
        options, max_pixels: for `prepare`.
        max_bytes: of an image that is given.
    """

    def __init__(self, number: int, options: ImageOptions, max_pixels: int, max_bytes: int) -> None:
        self._told = json.dumps([asdict(options), max_pixels])
        self._shared_bytes = max(max_bytes, _MIN_SHARED)
        self._turns = asyncio.Semaphore(number)
        self._idle: list[_Worker] = []

    async def __aenter__(self) -> DecodePool:
        return self

    async def __aexit__(self, *_: object) -> None:
        while self._idle:
            await self._idle.pop().end()

    async def prepare(self, data: bytes) -> Prepared:
        """As `prepare.prepare`, elsewhere.

        Raises:
            UnusableImageError: as there; also for an image that kills the process or takes too much time or memory.
        """
        async with self._turns:
            worker = self._idle.pop() if self._idle else await _Worker.start(self._told, self._shared_bytes)
            is_sound = False
            try:
                answer = await worker.ask(data)
                is_sound = isinstance(answer, Prepared) or str(answer) not in _ENDS
            finally:
                if is_sound:
                    self._idle.append(worker)
                else:
                    await worker.end()
        if isinstance(answer, Prepared):
            return answer
        raise answer


class _Worker:
    """The crawler's side of one process."""

    def __init__(self, process: Process, shared: mmap.mmap) -> None:
        assert process.stdin
        assert process.stdout
        self._process, self._shared = process, shared
        self._requests, self._answers = process.stdin, process.stdout
        self._is_late = False

    @classmethod
    async def start(cls, told: str, shared_bytes: int) -> _Worker:
        """Raises OSError when the process does not come up, or every image would seem to kill it."""
        descriptor = os.memfd_create("fastlt")
        try:
            os.ftruncate(descriptor, shared_bytes)
            words = [sys.executable, "-m", "fastlt.data_prep.crawl.decode_worker", str(descriptor), told]
            process = await asyncio.create_subprocess_exec(
                *words, stdin=PIPE, stdout=PIPE, pass_fds=[descriptor], env=os.environ | _GIVES_BACK
            )
            worker = cls(process, mmap.mmap(descriptor, shared_bytes))
        finally:
            os.close(descriptor)
        try:
            if await worker._answers.readline() != READY:
                raise OSError("the processes that prepare images do not start; what they said stands above.")
        except BaseException:  # also when the crawl ends meanwhile
            await worker.end()
            raise
        return worker

    async def ask(self, data: bytes) -> Prepared | UnusableImageError:
        """What becomes of an image; where that was the end of the process, the reason is one of `_ENDS`."""
        self._shared[: len(data)] = data
        self._requests.write(len(data).to_bytes(REQUEST_BYTES, "little"))
        ends = asyncio.get_running_loop().call_later(_SECONDS, self._give_up)
        try:
            form = await self._answers.readexactly(ANSWER_BYTES)
        except (asyncio.IncompleteReadError, ConnectionError):
            return UnusableImageError(await self._why_it_ended())
        finally:
            ends.cancel()
        return unpacked(form, self._shared[: beside(form)])

    def _give_up(self) -> None:
        """The time of the wall clock is over: the machine may be to blame."""
        self._is_late = True
        self._process.kill()

    async def _why_it_ended(self) -> str:
        """The reason, from how the process ended, which says no more; to kill one that is ending would lose that."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_SECONDS):
                await self._process.wait()
        if self._is_late:
            return reasons.NO_TIME
        return reasons.TOO_SLOW_TO_DECODE if self._process.returncode == -TIME_IS_UP else reasons.CRASHES

    async def end(self) -> None:
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()
        self._shared.close()
