"""Keeps what was measured: one JSON line per case, with device, versions and commit."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fastlt.provenance import commit, processor, versions

if TYPE_CHECKING:
    import torch

VERSIONED = (
    "torch", "triton", "numpy", "numba", "deepspeed", "liger-kernel", "cut-cross-entropy", "aiohttp", "timm",
    "torchvision", "pillow", "ffcv", "spdl-io", "opencv-python", "nvidia-dali-cuda130", "nvidia-dali-cuda120",
)  # fmt: skip
CODE = ("fastlt", "kernels", "data_prep", "bench", ":(exclude)bench/results")  # suites follow each other
SCALED = "ffcv scaled"  # with `data.scaled_decoding`
OUR_LOADERS = ("ffcv", SCALED, "dali", "plain")
# What the suite of that name counts, with units; the fewer the better.
COUNTED = {"operators": "operators", "allocated_bytes": "bytes allocated", "page_faults": "page faults"}
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
    return f"{processor()}, {torch.get_num_threads()} threads"


def path(folder: Path, suite: str, device: torch.device | str, ending: str) -> Path:
    """`<suite>-<device><ending>` in the folder, the device as a word for file names."""
    slug = device_name(device).split(",")[0].split("@")[0].lower()
    return folder / f"{suite}-{re.sub(r'[^a-z0-9]+', '-', slug).strip('-')}{ending}"


@cache
def code_commit() -> str:
    """The commit of what this process measures; to be asked before, as commits and edits may come meanwhile."""
    return commit(*CODE)


def append(folder: Path, suite: str, device: torch.device | str, records: list[Record]) -> Path:
    """Appends the records to `<suite>-<device>.jsonl`; returns the file."""
    folder.mkdir(parents=True, exist_ok=True)
    file = path(folder, suite, device, ".jsonl")
    about = {"suite": suite, "device": device_name(device), "versions": versions(VERSIONED), "commit": code_commit()}
    with file.open("a") as out:
        for record in records:
            out.write(json.dumps(about | record) + "\n")
    return file


def of_last_commit(file: Path) -> list[Record]:
    """The last record of each measurement in a file, of those that were made at the commit of its last line."""
    found = [json.loads(line) for line in file.read_text().splitlines()]
    found = [record for record in found if record["commit"] == found[-1]["commit"]]
    return list({tuple(record.get(part) for part in ("case", "impl", "storage")): record for record in found}.values())
