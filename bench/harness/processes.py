"""Commands as a user starts them, how long they take and how much memory they hold; and a server for them."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import psutil

FASTLT = [sys.executable, "-m", "fastlt"]  # where no `fastlt` is installed, too


def timed(command: list[str], until: Callable[[], bool] | None = None) -> tuple[float, int]:
    """Seconds until the command ends, or until something is so, and the peak of its processes' memory in bytes.

    Memory is the proportional set size of the whole tree, looked at ten times a second.

    Raises:
        RuntimeError: the command failed.
    """
    environment = os.environ | {"NO_ALBUMENTATIONS_UPDATE": "1"}
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment)
    peak, seconds = 0, 0.0
    while process.poll() is None:
        try:
            process.wait(0.1 if until is None else 0.02)
        except subprocess.TimeoutExpired:
            peak = max(peak, tree_bytes(process.pid))
        if until and until():
            seconds = time.perf_counter() - started
            process.kill()
            process.wait()
            return seconds, peak
    seconds = time.perf_counter() - started
    if process.returncode:
        raise RuntimeError(f"{command[0]} failed: {process.stderr.read() if process.stderr else ''}")
    return seconds, peak


def tree_bytes(pid: int) -> int:
    """Memory of a process and its descendants, shared pages counted once."""
    total = 0
    try:
        root = psutil.Process(pid)
        for process in [root, *root.children(recursive=True)]:
            total += process.memory_full_info().pss
    except psutil.Error:  # one of them has just ended
        pass
    return total


class ProcessorSeconds(NamedTuple):
    """User and system time of processes that this one has started.

    Attributes:
        ended: of those that it has waited for, with all that they have waited for.
        running: of those that run, a server say, without what they have started.
    """

    ended: float
    running: float

    @classmethod
    def now(cls) -> ProcessorSeconds:
        """So far."""
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        running = sum(sum(process.cpu_times()[:2]) for process in psutil.Process().children())
        return cls(ended.ru_utime + ended.ru_stime, running)


@contextmanager
def served(archive: Path | None, most: int = 0) -> Iterator[int]:
    """The port of a loopback server of the first `most` images of an archive, see `bench/inputs/image_server.py`."""
    command = [
        sys.executable,
        str(Path(__file__).parent.parent / "inputs" / "image_server.py"),
        str(archive or ""),
        str(most),
    ]
    with running(command) as said:
        yield int(said)


@contextmanager
def running(command: list[str]) -> Iterator[str]:
    """The first line that a server says; it ends when its standard input does."""
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdin
        assert server.stdout
        yield server.stdout.readline()
        server.stdin.close()
