"""Times calls fairly and finds their peak memory, on a CPU or a GPU."""

from __future__ import annotations

import ctypes
import re
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import torch

from bench.harness import records

ROUNDS = 3
_MAX_CALLS = 300  # a round
_L2_BYTES = 2**28  # more than any GPU's second-level cache
_AHEAD_SECONDS, _CLOCK = 2e-3, 1.8e9  # how long, and at what rate, a GPU is kept busy while the host launches
Key = TypeVar("Key", bound=Hashable)


class Unavailable(Exception):
    """An implementation cannot run on this case or machine; the message says why."""


@dataclass(frozen=True)
class Work:
    """What is measured: `call`, given what `prepare` returns, which is not measured."""

    call: Callable[[Any], Any]
    prepare: Callable[[], Any] = lambda: None


def measure(works: dict[Key, Work], device: torch.device, seconds: float) -> dict[Key, dict[str, float]]:
    """Median, p20 and p80 in ms of each work over at least 6 calls and about `seconds`.

    Works take turns in rounds, so that a machine that slows down slows them all down. On a GPU these are the times of
    the GPU, which finds its work launched; `host_ms` is the median of what a call takes to launch it.
    """
    taken: dict[Key, list[float]] = {key: [] for key in works}
    launching: dict[Key, list[float]] = {key: [] for key in works}
    for work in works.values():
        work.call(work.prepare())  # compiles, and touches memory for the first time
    for _ in range(ROUNDS):
        for key, work in works.items():
            if device.type == "cuda":
                on_device, on_host = _round_on_gpu(work, seconds / ROUNDS)
                launching[key] += on_host
            else:
                on_device = _round_on_cpu(work, seconds / ROUNDS)
            taken[key] += on_device
    host = {key: {"host_ms": records.milliseconds(times)["median_ms"]} for key, times in launching.items() if times}
    return {key: records.milliseconds(times) | host.get(key, {}) for key, times in taken.items()}


def _round_on_cpu(work: Work, seconds: float) -> list[float]:
    """Seconds of each call."""
    taken: list[float] = []
    end = time.perf_counter() + seconds
    while len(taken) < 2 or (time.perf_counter() < end and len(taken) < _MAX_CALLS):
        given = work.prepare()
        started = time.perf_counter()
        result = work.call(given)
        taken.append(time.perf_counter() - started)
        del given, result  # freed before the next call, and outside of the clock
    return taken


def _round_on_gpu(work: Work, seconds: float) -> tuple[list[float], list[float]]:
    """Seconds of each call, on the GPU and on the host."""
    torch.cuda.synchronize()
    started = time.perf_counter()
    work.call(work.prepare())
    torch.cuda.synchronize()
    estimate = time.perf_counter() - started + _AHEAD_SECONDS
    events, launching = [], []
    for _ in range(min(max(int(seconds / estimate), 2), _MAX_CALLS)):
        given = work.prepare()
        _l2_filler().zero_()  # so that no call finds its input in the cache
        torch.cuda._sleep(int(_AHEAD_SECONDS * _CLOCK))  # or the events would show how fast the host launches
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        started = time.perf_counter()
        work.call(given)
        launching.append(time.perf_counter() - started)
        end.record()
        events.append((begin, end))
        del given
    torch.cuda.synchronize()
    return [begin.elapsed_time(end) / 1000 for begin, end in events], launching


@cache
def _l2_filler() -> torch.Tensor:
    return torch.empty(_L2_BYTES, dtype=torch.int8, device="cuda")


def peak_bytes(work: Work, device: torch.device) -> int:
    """What one call allocates at its peak beyond what was there before; gradients it must return are included.

    On a GPU from torch's allocator; on the CPU from the kernel's high-water mark of this process, which is right to
    some 100 kB and only after a call has been made before, as `measure` does.
    """
    given = work.prepare()
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work.call(given)
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    ctypes.CDLL(None).malloc_trim(0)  # or freed memory that the process still holds would be used unseen
    Path("/proc/self/clear_refs").write_text("5")  # resets the mark, see proc(5)
    before = _status_bytes("VmRSS")
    work.call(given)
    return max(0, _status_bytes("VmHWM") - before)


def _status_bytes(field: str) -> int:
    line = re.search(rf"^{field}:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert line, f"no {field} in /proc/self/status"
    return int(line[1]) * 1024
