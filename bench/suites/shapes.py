"""What `bench/run.py shapes` measures: the row kernels in every shape worth trying, for the tables in `triton_rows.py`.

Shapes: B samples, C classes.
"""

from __future__ import annotations

import math
import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import torch
from rich.console import Console

from bench.harness import records, timing
from bench.harness.timing import Work
from fastlt.kernels import NeighborTable, log_prior
from fastlt.kernels import triton_rows as kernels
from fastlt.kernels.rows import Rows

CLASSES = {1000: (250, 2048), 3000: (1000, 5120), 8144: (2036, 16384), 32568: (8142, 65536), 131072: (32768, math.inf)}
KINDS = {"loss": 1, "gradient": 2, "both": 2}  # times that the logits are read or written
BATCH = 4096
Shape = tuple[int, int, int, int | None]  # rows, classes a thread, warps, registers


def run(device: torch.device, quick: bool, results: Path) -> None:
    """Compiles all on all cores, measures them one by one, and prints the fastest as the tables have them."""
    console = Console(width=160)
    jobs = [
        (kind, C, shape) for C in list(CLASSES)[: 1 if quick else None] for kind in KINDS for shape in shapes(kind, C)
    ]
    new = list(dict.fromkeys((kind, shape) for kind, _, shape in jobs))
    workers = min(len(os.sched_getaffinity(0)), 16)
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        list(pool.map(_compile, [new[i::workers] for i in range(workers)]))
    ceiling = _copy_rate(device)
    console.print(f"{records.device_name(device)}: copies at {ceiling:.0f} GB/s")
    fastest: dict[tuple[str, int], tuple[float, Shape]] = {}
    for C in dict.fromkeys(C for _, C, _ in jobs):
        call = _calls(BATCH, C, device)
        for kind, passes in KINDS.items():
            tried = [shape for k, c, shape in jobs if (k, c) == (kind, C)]
            works = {shape: Work(partial(_ignoring, call, kind, shape)) for shape in tried}
            times = timing.measure(works, device, 0.003)
            found = sorted((times[shape]["median_ms"], shape) for shape in works)
            fastest[kind, C] = found[0]
            moved = passes * BATCH * C * 2
            lines = [
                {"case": f"{kind} C={C} B={BATCH} bfloat16", "impl": "fastlt", "pass": kind, "C": C, "B": BATCH}
                | {"shape": shape, **times[shape], "fraction": moved / times[shape]["median_ms"] / 1e6 / ceiling}
                for _, shape in found
            ]
            records.append(results, "shapes", device, lines)
            best = "  ".join(f"{shape} {moved / ms / 1e6 / ceiling:.2f}" for ms, shape in found[:6])
            console.print(f"C={C} {kind}: {best}", highlight=False, soft_wrap=True)
    for kind in KINDS:
        console.print(f'"{kind}": [')
        for C, (_, limit) in CLASSES.items():
            if (kind, C) in fastest:
                ms, shape = fastest[kind, C]
                apart = fastest["loss", C][0] + fastest["gradient", C][0]
                limit = "math.inf" if limit == math.inf else limit
                console.print(f"    ({limit}, {None if kind == 'both' and apart < ms else shape}),", highlight=False)
        console.print("],")


def _copy_rate(device: torch.device) -> float:
    """GB/s of a copy, bytes read and written."""
    source = torch.empty(2**29, dtype=torch.bfloat16, device=device).normal_()
    target = torch.empty_like(source)
    ms = timing.measure({"copy": Work(lambda _: target.copy_(source))}, device, 0.05)["copy"]["median_ms"]
    return 2 * source.nbytes / ms / 1e6


def _ignoring(call: Callable[[str, Shape], None], kind: str, shape: Shape, _: None) -> None:
    call(kind, shape)


def shapes(kind: str, C: int) -> list[Shape]:
    """What may be fast: some 32 warps a multiprocessor, and blocks that a row fills."""
    tried = [(1, 8, w, None) for w in (1, 2, 4, 8)] + [(1, 16, w, None) for w in (1, 2, 4, 8)]
    if kind == "both":
        tried += [(1, 8, w, 64) for w in (4, 8, 16)] + [(1, 8, 16, None), (1, 16, 8, 96), (1, 16, 16, None)]
        return [shape for shape in tried if C / 16384 <= shape[2] <= max(C / 512, 2)]
    tried += [(1, 8, 4, 64), (2, 8, 2, None), (2, 8, 4, None), (2, 8, 4, 80), (4, 8, 2, None), (4, 8, 4, None)]
    tried += [(4, 8, 4, 96), (4, 8, 4, 128), (4, 16, 4, None)]
    return [shape for shape in tried if shape[2] <= max(C / 512, 2)]


def _calls(B: int, C: int, device: torch.device) -> Callable[[str, Shape], None]:
    """Runs a kernel in a shape: balanced softmax with one neighbor an auxiliary class."""
    targets = CLASSES[C][0]
    table = NeighborTable.from_pairs(C, torch.stack([torch.arange(C - targets) % targets, torch.arange(targets, C)], 1))
    counts = torch.cat([1 + 1000 / torch.arange(1, targets + 1), torch.full((C - targets,), 50.0)])
    labels = torch.multinomial(counts, B, replacement=True, generator=torch.Generator().manual_seed(0))
    table, bias = table.to(device), log_prior(counts).to(device)
    rows = Rows(labels[None].to(device), None, table.indptr, table.indices, None, C, bias, math.log(0.1), 0.0, -100)
    logits = torch.randn(B, C, device=device, dtype=torch.bfloat16).mul_(3)
    out, (loss, saved) = torch.empty_like(logits), kernels.loss_of(logits, rows)
    scale, total = torch.ones(2, device=device).unbind()
    arrived = torch.zeros((), dtype=torch.int32, device=device)
    upstream = torch.full((B,), 1 / B, device=device)

    def call(kind: str, shape: Shape) -> None:
        kernels.run_in_shape(kind, logits, rows, loss, saved, upstream, (scale, arrived, total, out), shape)

    return call


def _compile(jobs: list[tuple[str, Shape]]) -> None:
    call = _calls(16, 1000, torch.device("cuda"))
    for kind, shape in jobs:
        call(kind, shape)
