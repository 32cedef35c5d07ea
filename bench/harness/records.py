"""Keeps what was measured: one JSON line per case, with device, versions and commit."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import subprocess
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

VERSIONED = (
    "torch", "triton", "numpy", "numba", "deepspeed", "liger-kernel", "cut-cross-entropy", "aiohttp", "timm",
    "torchvision", "pillow", "ffcv", "opencv-python", "nvidia-dali-cuda130", "nvidia-dali-cuda120",
)  # fmt: skip
DIRTY = "-dirty"  # ends what a record has for its commit, where the tree had changes
OUR_LOADERS = ("ffcv", "dali", "plain")
Record = dict[str, Any]


def is_ours(record: Record) -> bool:
    """Whether the record is of this project and not of a peer."""
    return record["impl"].startswith("fastlt") or record["impl"] in OUR_LOADERS


def parse(text: str, where: str) -> Iterator[Record]:
    """The records of a file's text.

    Raises:
        ValueError: a line is no record.
    """
    for line in text.splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            record = None
        if not isinstance(record, dict) or not {"suite", "case", "impl", "device"} <= record.keys():
            raise ValueError(f"{where} has a line that is not a record: {line[:60]!r}.")
        yield record


def spread(values: Sequence[float] | np.ndarray) -> tuple[float, float, float]:
    """p20, median and p80."""
    low, middle, high = (float(value) for value in np.quantile(values, [0.2, 0.5, 0.8]))
    return low, middle, high


def rate(images_per_s: list[float]) -> dict[str, float]:
    """Median, p20 and p80 of images/s, as records have them."""
    low, middle, high = spread(images_per_s)
    return {"images_per_s": middle, "p20_images_per_s": low, "p80_images_per_s": high}


def milliseconds(seconds: list[float]) -> dict[str, float]:
    """Median, p20 and p80 of times in ms, as records have them."""
    low, middle, high = (1000 * value for value in spread(seconds))
    return {"median_ms": middle, "p20_ms": low, "p80_ms": high}


def device_name(device: torch.device | str) -> str:
    """The GPU's name, or the CPU's with the number of threads in use; a name is one already."""
    if isinstance(device, str):
        return device
    import torch  # here, as comparing needs none of it

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    model = re.search(r"model name\s*:\s*(.+)", info)
    return f"{model[1] if model else platform.machine()}, {torch.get_num_threads()} threads"


def path(folder: Path, suite: str, device: torch.device | str, ending: str) -> Path:
    """`<suite>-<device><ending>` in the folder, the device as a word for file names."""
    slug = device_name(device).split(",")[0].split("@")[0].lower()
    return folder / f"{suite}-{re.sub(r'[^a-z0-9]+', '-', slug).strip('-')}{ending}"


def append(folder: Path, suite: str, device: torch.device | str, records: list[Record]) -> Path:
    """Appends the records to `<suite>-<device>.jsonl`; returns the file."""
    folder.mkdir(parents=True, exist_ok=True)
    file = path(folder, suite, device, ".jsonl")
    about = {"suite": suite, "device": device_name(device), "versions": _versions(), "commit": commit()}
    with file.open("a") as out:
        for record in records:
            out.write(json.dumps(about | record) + "\n")
    return file


@cache
def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in VERSIONED:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


@cache
def commit() -> str:
    """What FASTLT_COMMIT says, for a copy of a checkout; else the checkout's commit, and whether it had changes.

    As it was when first asked: later changes are not in what has been imported.
    """
    if told := os.environ.get("FASTLT_COMMIT"):
        return told
    named = _git("describe", "--always").strip()
    return named + DIRTY if named and changes() else named


@cache
def changes() -> list[str]:
    """The files whose changes are not committed, but for records, which suites that follow each other write.

    None where FASTLT_COMMIT says what this is.
    """
    if os.environ.get("FASTLT_COMMIT"):
        return []
    kept = ":(exclude)bench/results"
    return [line[3:] for line in _git("status", "--porcelain", "--untracked-files=no", "--", ".", kept).splitlines()]


def _git(*words: str) -> str:
    """What git says of this checkout; nothing where there is no git, or no repository."""
    command = ["git", "-C", str(Path(__file__).resolve().parents[2]), *words]
    try:
        return subprocess.run(command, capture_output=True, text=True).stdout
    except FileNotFoundError:
        return ""
