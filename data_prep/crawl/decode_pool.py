"""Processes that decode images for the crawler: what hostile bytes do to a decoder, they do to one of these,
within the limits of its cage.

Bytes go to and fro in memory that both sides see, for which pipes would be slow. A request is their number; an answer
is a line of JSON, with the JPEG in that memory. Run as a program, this is such a process; it ends when its standard
input does.
"""

from __future__ import annotations

import asyncio
import json
import mmap
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from fastlt.data_prep.crawl import reasons
from fastlt.data_prep.crawl.cage import TIME_IS_UP, Cage
from fastlt.data_prep.crawl.options import ImageOptions
from fastlt.data_prep.crawl.prepare import Prepared, UnusableImageError, prepare

_SECONDS = 60.0  # for one image, however busy the machine is
_READY = b"ready\n"
_GIVES_BACK = {"MALLOC_MMAP_THRESHOLD_": str(2**23)}  # glibc: freed memory of large images is not kept for small ones
_MIN_SHARED = 64 * 2**20  # of address space; memory is taken where it is written to


class DecodePool:
    """A pool of processes; use as `async with`.

    Args:
        number: of processes.
        options, max_pixels: for `prepare`.
        max_bytes: of an image that is given.
    """

    def __init__(self, number: int, options: ImageOptions, max_pixels: int, max_bytes: int) -> None:
        self._number, self._told = number, json.dumps([asdict(options), max_pixels])
        self._shared_bytes = max(max_bytes, _MIN_SHARED)
        self._queue: asyncio.Queue[tuple[bytes, asyncio.Future[Prepared]]] = asyncio.Queue(maxsize=1)

    async def __aenter__(self) -> DecodePool:
        self._tasks = [asyncio.create_task(self._serve()) for _ in range(self._number)]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def prepare(self, data: bytes) -> Prepared:
        """As `prepare.prepare`, elsewhere.

        Raises:
            UnusableImageError: as there; also for an image that kills the process or takes too much time or memory.
        """
        future: asyncio.Future[Prepared] = asyncio.get_running_loop().create_future()
        await self._queue.put((data, future))
        return await future

    async def _serve(self) -> None:
        """Gives images to one process, and starts another when that one dies."""
        worker: _Worker | None = None
        try:
            while True:
                data, future = await self._queue.get()
                answer: Prepared | Exception
                try:
                    worker = worker or await _Worker.start(self._told, self._shared_bytes)
                    async with asyncio.timeout(_SECONDS):
                        answer = await worker.ask(data)
                except (asyncio.IncompleteReadError, ConnectionError):
                    assert worker
                    time_is_up = await worker.status() == -TIME_IS_UP
                    answer = UnusableImageError(reasons.TOO_SLOW_TO_DECODE if time_is_up else reasons.CRASHES)
                except TimeoutError:  # of the wall clock: the machine may be to blame
                    answer = UnusableImageError(reasons.NO_TIME)
                except OSError as error:
                    answer = error
                if worker and not worker.is_sound(answer):
                    await worker.end()
                    worker = None
                _settle(future, answer)
        finally:
            if worker:
                await worker.end()


class _Worker:
    """The crawler's side of one process."""

    def __init__(self, process: Process, shared: mmap.mmap) -> None:
        assert process.stdin
        assert process.stdout
        self._process, self._shared = process, shared
        self._requests, self._answers = process.stdin, process.stdout

    @classmethod
    async def start(cls, told: str, shared_bytes: int) -> _Worker:
        """Raises OSError when the process does not come up, or every image would seem to kill it."""
        descriptor = os.memfd_create("fastlt")
        try:
            os.ftruncate(descriptor, shared_bytes)
            words = [
                sys.executable,
                "-m",
                "fastlt.data_prep.crawl.decode_pool",
                str(descriptor),
                told,
            ]
            process = await asyncio.create_subprocess_exec(
                *words, stdin=PIPE, stdout=PIPE, pass_fds=[descriptor], env=os.environ | _GIVES_BACK
            )
            worker = cls(process, mmap.mmap(descriptor, shared_bytes))
        finally:
            os.close(descriptor)
        try:
            if await worker._answers.readline() != _READY:
                raise OSError("the processes that prepare images do not start; what they said stands above.")
        except BaseException:  # also when the crawl ends meanwhile
            await worker.end()
            raise
        return worker

    async def ask(self, data: bytes) -> Prepared | UnusableImageError:
        """Raises IncompleteReadError or ConnectionError when the process dies over it."""
        self._shared[: len(data)] = data
        self._requests.write(b"%d\n" % len(data))
        line = await self._answers.readuntil()
        found: dict[str, Any] = json.loads(line)
        if "unusable" in found:
            return UnusableImageError(found["unusable"])
        jpeg = self._shared[: found["num_bytes"]]
        return Prepared(jpeg, found["width"], found["height"], bytes.fromhex(found["sha256"]), found["hash"])

    @staticmethod
    def is_sound(answer: Prepared | Exception) -> bool:
        """Whether the process can go on after this: a decoder without memory may leave some behind."""
        return isinstance(answer, Prepared) or str(answer) not in {*reasons.COSTLY, reasons.NO_TIME}

    async def status(self) -> int | None:
        """How a process ended that says no more; to kill one that is ending would lose that."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_SECONDS):
                await self._process.wait()
        return self._process.returncode

    async def end(self) -> None:
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()
        self._shared.close()


def _settle(future: asyncio.Future[Prepared], answer: Prepared | Exception) -> None:
    if future.done():  # nobody waits any more
        return
    if isinstance(answer, Prepared):
        future.set_result(answer)
    else:
        future.set_exception(answer)


def _work(shared: mmap.mmap, options: ImageOptions, max_pixels: int) -> None:
    """Answers requests until there are no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the crawler's
    requests, answers, cage = sys.stdin.buffer, sys.stdout.buffer, Cage(max_pixels)
    answers.write(_READY)
    answers.flush()
    for line in requests:
        found: dict[str, Any]
        try:
            with cage.one_image(int(line)):
                made = prepare(shared[: int(line)], options, max_pixels, cage)
            if len(made.jpeg) > len(shared):
                raise UnusableImageError("too many bytes as JPEG")
            shared[: len(made.jpeg)] = made.jpeg
            found = {"num_bytes": len(made.jpeg), "width": made.width, "height": made.height}
            found |= {"sha256": made.sha256.hex(), "hash": made.hash}
        except UnusableImageError as error:
            found = {"unusable": str(error)}
        except MemoryError:
            found = {"unusable": reasons.TOO_LARGE_TO_DECODE}
        answers.write(json.dumps(found).encode() + b"\n")
        answers.flush()


if __name__ == "__main__":
    _descriptor = int(sys.argv[1])
    _options, _max_pixels = json.loads(sys.argv[2])
    _work(mmap.mmap(_descriptor, os.fstat(_descriptor).st_size), ImageOptions(**_options), _max_pixels)
