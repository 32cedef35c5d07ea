"""What `bench/run.py counts` counts: what a call of the loss and a step of the trainer cost a CPU, however busy it is.

All of it is counted on one thread, after calls that warm up: operators that torch runs, bytes that its allocator gives,
and pages that are touched for the first time. `tests/bench/test_run.py` holds the line of the last record.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import resource
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from bench.harness import records
from bench.harness.processes import FASTLT
from bench.harness.records import COUNTED, Record
from bench.inputs import image_sets, label_spaces
from bench.peers import losses as peers
from bench.suites import train_arms
from bench.suites.kernels import PASSES, passes_of

SPACE, BATCH, DIM = "imagenet_lt", 64, 64
WARM_UP, TIMES = 6, 5  # calls
RECIPE = image_sets.ROOT / "configs" / "tiny_imagenet_lt" / "resnet_smoke.yaml"
WORDS = (
    "optimizer.batch_size=16", "engine.precision=float32", "log.steps=1000000", "data.workers=0", *train_arms.FOREVER,
)  # fmt: skip


def run(device: torch.device, quick: bool, results: Path) -> None:
    """Counts everything in a process of its own; appends the records and prints them."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), initializer=_alone) as process:
        found = [*process.submit(count_losses).result(), *process.submit(count_step).result()]
    table = Table(title="on the CPU, one thread", title_justify="left")
    for column in ("case", "impl", *COUNTED):
        table.add_column(column.replace("_", " "), justify="right" if column in COUNTED else "left")
    for record in found:
        table.add_row(record["case"], record["impl"], *(f"{record[what]:,}" for what in COUNTED))
    Console(width=120).print(table)
    print(f"appended {len(found)} records to {records.append(results, 'counts', 'cpu', found)}")


def count_losses() -> list[Record]:
    """Forward and backward of the loss: on logits, in their place, and on features and weight."""
    found = []
    for dim, impls in ((0, ("fastlt", "fastlt-inplace")), (DIM, ("fastlt",))):
        case = label_spaces.draw(SPACE, BATCH, dim, torch.float32, torch.device("cpu"))
        inputs = case.inputs if case.linear else (torch.empty_like(case.inputs[0], requires_grad=True),)
        for impl in impls:
            work = passes_of(peers.build(impl, case).loss, case, inputs)[PASSES[-1]]
            record = _record(case.name, impl)
            for _ in _counting(record):
                work.call(work.prepare())
            found.append(record)
    return found


def count_step() -> list[Record]:
    """A step of the trainer, on one batch of drawn species again and again."""
    from fastlt.recipe import load_recipe
    from fastlt.training.trainer import Trainer

    with tempfile.TemporaryDirectory() as scratch:
        images, encoded = image_sets.drawn(Path(scratch) / "drawn"), Path(scratch) / "encoded"
        words = [*FASTLT, "encode", str(encoded), *images.encode_words(), "--format", "plain"]
        subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
        recipe = load_recipe(RECIPE, [*WORDS, f"data.path={encoded}", f"output={scratch}/run"])
        trainer = Trainer(recipe)
        size, batch = recipe.data.image_size, recipe.optimizer.batch_size
        record = _record(f"step of {recipe.model.name} {size} px B={batch}", "fastlt")
        trainer.train_loader = _Counted(trainer.train_loader, record)  # type: ignore[assignment]
        with suppress(_Enough):
            trainer.run()
    return [record]


def _record(case: str, impl: str) -> Record:
    return {"case": case, "impl": impl, "instructions": torch.backends.cpu.get_cpu_capability()}


def _counting(record: Record) -> Iterator[None]:
    """Wants a call each time it is asked for more, and writes into the record what a call cost."""
    yield from itertools.repeat(None, WARM_UP)
    faults = []
    for _ in range(TIMES):
        before = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt
        yield
        faults.append(resource.getrusage(resource.RUSAGE_THREAD).ru_minflt - before)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        yield from itertools.repeat(None, TIMES)
    events: list[Any] = list(seen.profiler.kineto_results.events())  # type: ignore[union-attr]
    given = [event.nbytes() for event in events if event.name() == "[memory]" and event.nbytes() > 0]
    record["operators"] = sum(event.name().startswith("aten::") for event in events) // TIMES
    record["allocated_bytes"] = sum(given) // TIMES
    record["page_faults"] = min(faults)  # more are others' doing


class _Enough(Exception):
    """All is counted."""


class _Counted:
    """The first batch of a loader, until what a step costs is counted."""

    def __init__(self, batches: Any, record: Record) -> None:
        started = iter(batches)
        self._batch, self._record = next(started), record
        started.close()

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for _ in _counting(self._record):
            yield self._batch
        raise _Enough


def _alone() -> None:
    """One thread, as more of them allocate as they come."""
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    train_arms.settle("cpu")
