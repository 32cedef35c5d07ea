"""Times a function and keeps what was measured: one JSON line per case, with device, versions and commit."""

from __future__ import annotations

import ctypes
import importlib.metadata
import json
import platform
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

VERSIONED = ("torch", "triton", "numpy", "numba", "deepspeed")


def measure(work: Callable[[], Any], device: torch.device, seconds: float = 2.0) -> dict[str, float]:
    """Median, p20 and p80 in milliseconds over at least 5 calls and about `seconds`, after one warm-up call."""
    if device.type == "cuda":
        from triton.testing import do_bench  # clears the L2 cache between calls

        middle, low, high = do_bench(work, quantiles=[0.5, 0.2, 0.8])
        return {"median_ms": middle, "p20_ms": low, "p80_ms": high}
    work()
    taken: list[float] = []
    while len(taken) < 5 or (sum(taken) < seconds and len(taken) < 1000):
        started = time.perf_counter()
        work()
        taken.append(time.perf_counter() - started)
    low, middle, high = np.quantile(taken, [0.2, 0.5, 0.8]) * 1000
    return {"median_ms": middle, "p20_ms": low, "p80_ms": high}


def peak_bytes(work: Callable[[], Any], device: torch.device) -> int:
    """What one call allocates at its peak beyond what was there before.

    On a GPU from torch's allocator; on the CPU from the kernel's high-water mark of this process.
    """
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    ctypes.CDLL(None).malloc_trim(0)  # or freed memory that the process still holds would be used unseen
    Path("/proc/self/clear_refs").write_text("5")  # resets the mark, see proc(5)
    before = _status_bytes("VmRSS")
    work()
    return max(0, _status_bytes("VmHWM") - before)


def _status_bytes(field: str) -> int:
    line = re.search(rf"^{field}:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert line, f"no {field} in /proc/self/status"
    return int(line[1]) * 1024


def device_name(device: torch.device) -> str:
    """The GPU's name, or the CPU's with the number of threads in use."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    model = re.search(r"model name\s*:\s*(.+)", info)
    return f"{model[1] if model else platform.machine()}, {torch.get_num_threads()} threads"


def append(folder: Path, suite: str, device: torch.device, records: list[dict[str, Any]]) -> Path:
    """Appends the records to `<suite>-<device>.jsonl`; returns the file."""
    folder.mkdir(parents=True, exist_ok=True)
    slug = device_name(device).split(",")[0].split("@")[0].lower()
    file = folder / f"{suite}-{re.sub(r'[^a-z0-9]+', '-', slug).strip('-')}.jsonl"
    about = {"suite": suite, "device": device_name(device), "versions": _versions(), "commit": _commit()}
    with file.open("a") as out:
        for record in records:
            out.write(json.dumps(about | record) + "\n")
    return file


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in VERSIONED:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _commit() -> str:
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()
