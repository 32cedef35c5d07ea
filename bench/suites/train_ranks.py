"""`fastlt train` on one rank and on more, each with as many images a step: what is lost when GPUs learn together?"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from bench.harness import records
from bench.harness.processes import tree_bytes
from bench.harness.records import Record
from fastlt.run_folder import RunFolder

_STEPS = 5  # between two records of the log
_WARM_UP = 2  # records that do not count: the first step compiles
_PATIENCE = 240.0  # seconds for the first records to come, and for the end
_QUOTED = 2000  # characters of what a training that failed said last


def to_measure(named: Sequence[int] | None, device: str) -> list[int]:
    """Numbers of ranks, the smallest first: those named, or 1, 2, 4 and so on up to the GPUs if there are several."""
    if named:
        return sorted(set(named))
    gpus = torch.cuda.device_count() if device == "cuda" else 1
    return [1 << power for power in range(gpus.bit_length())] if gpus > 1 else []


def measure(
    case: str, command: list[str], batch_size: int, ranks: list[int], device: str, scratch: Path, seconds: float
) -> list[Record]:
    """Records of images/s over all ranks, for each number of them.

    `efficiency` is that over so many times what one rank does, as the smallest number shows it.

    Args:
        case: what is trained, for people.
        command: `fastlt train` with its words, but for output and batch size.
        batch_size: images a step of each rank.
        ranks: numbers of ranks, the smallest first.
        device: "cpu" or "cuda".
        scratch: folder for the runs.
        seconds: for each number, after the warm-up.

    Raises:
        RuntimeError: a training ended, or logs nothing.
    """
    found: list[Record] = []
    for number in ranks:
        folder = RunFolder(scratch / f"{number}-ranks")
        own = [f"optimizer.batch_size={number * batch_size}", f"log.steps={_STEPS}", f"output={folder.path}"]
        rates, peak = _rates([*command, *own, "--ranks", str(number)], folder, device, seconds)
        alone = found[0]["images_per_s"] / found[0]["ranks"] if found else records.spread(rates)[1] / number
        low, efficiency, high = records.spread([rate / (number * alone) for rate in rates])
        record = {"case": case, "impl": f"fastlt-{number}-ranks", "ranks": number, **records.rate(rates)}
        found.append(record | {"efficiency": efficiency, "efficiency_p20_p80": [low, high], "peak_bytes": peak})
    return found


def _rates(command: list[str], folder: RunFolder, device: str, seconds: float) -> tuple[list[float], int]:
    """(images/s of the records that a training logs within so many seconds, host memory in bytes); then it is ended."""
    environment = os.environ | {"DS_ACCELERATOR": device}
    said = folder.path.with_name(f"{folder.path.name}.stderr")
    with said.open("w") as file:  # of a pipe that nobody reads, 64 kB would stop the training
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=file)
    deadline, until = time.monotonic() + _PATIENCE, 0.0
    try:
        while not until or time.monotonic() < until or len(_logged(folder)) <= _WARM_UP:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{' '.join(command)} did not train: {said.read_text(errors='replace')[-_QUOTED:]}")
            time.sleep(0.1)
            if not until and len(_logged(folder)) >= _WARM_UP:
                until = time.monotonic() + seconds
                deadline = until + _PATIENCE
        return _logged(folder)[_WARM_UP:], tree_bytes(process.pid)
    finally:
        process.send_signal(signal.SIGTERM)  # has the ranks save and end; a second one kills them
        try:
            process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGTERM)
            process.wait(_PATIENCE)


def _logged(folder: RunFolder) -> list[float]:
    if not folder.log.exists():
        return []
    return [record["images_per_s"] for record in folder.records() if record["kind"] == "train"]
