"""What `bench/run.py embed` measures: images/s of filter's embedding, beside the model alone on batches in memory.

The embedding also reads, decodes, resizes and hashes the images, and stores what it found. Its processes are warm.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import tempfile
import time
import zipfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from bench.harness import records, tables
from bench.harness.processes import tree_bytes
from bench.harness.records import Record
from bench.inputs.image_sets import BUILD
from bench.suites.filter import ARCHIVE, MODEL, WEIGHTS
from fastlt.cores import available_cores, keep_freed_memory
from fastlt.data_prep.filter.embed import Encoder, embed, open_embeddings, timm_encoder
from fastlt.data_prep.filter.embedding_store import file_keys
from fastlt.data_prep.filter.options import FilterOptions

IMAGES, QUICK_IMAGES, ROUNDS = 4_000, 512, 3
SIZE, BATCH = 128, FilterOptions.batch_size
GOAL = 0.95


def run(device: torch.device, quick: bool, results: Path) -> None:
    """Measures both in turn; appends the records and prints them."""
    for needed in (ARCHIVE, WEIGHTS):
        if not needed.is_file():
            print(f"skipped: there is no {needed}.")
            return
    console = Console(width=120)
    BUILD.mkdir(exist_ok=True)
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(dir=BUILD) as folder, ProcessPoolExecutor(1, spawn) as process:
        files = _extract(Path(folder), QUICK_IMAGES if quick else IMAGES)
        found = process.submit(measure, files, Path(folder), device.type).result()
    tables.print_rates(console, f"embedding, on {records.device_name(device)}", found)
    ours, _ = found
    tables.print_target(console, f"{ours['case']}, over the bare model", ours["over_bare"], GOAL)
    print(f"appended {len(found)} records to {records.append(results, 'embed', device, found)}")


def _extract(folder: Path, number: int) -> list[Path]:
    with zipfile.ZipFile(ARCHIVE) as zipped:
        names = sorted(name for name in zipped.namelist() if name.endswith(".jpg"))[:number]
        return [Path(zipped.extract(name, folder)) for name in names]


def measure(files: list[Path], folder: Path, device: str) -> list[Record]:
    """Records of both; to be called in a process of its own."""
    if device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        keep_freed_memory()  # for the bare model as for the other
    encoder = timm_encoder(MODEL, WEIGHTS, SIZE)
    _embedding(encoder, files[: 2 * BATCH], folder)  # starts what is started once, and compiles
    bare, ours = [_bare(encoder, len(files) // 4)], []
    for _ in range(ROUNDS):
        ours.append(_embedding(encoder, files, folder))
        bare.append(_bare(encoder, len(files) // 4))
    shares = [2 * rate / (before + after) for rate, before, after in zip(ours, bare[:-1], bare[1:], strict=True)]
    about = {"case": f"embedding {len(files):,} images, {encoder.title}", "peak_bytes": tree_bytes(os.getpid())}
    return [
        about | {"impl": "fastlt", **records.rate(ours), "over_bare": float(np.median(shares))},
        about | {"impl": "bare", **records.rate(bare)},
    ]


def _embedding(encoder: Encoder, files: list[Path], folder: Path) -> float:
    """Images/s from start to end."""
    stored = folder / "embeddings"
    with open_embeddings(stored, encoder) as store:
        started = time.perf_counter()
        embed(encoder, [*map(str, files)], file_keys(files), store, BATCH, available_cores(), "for its speed")
        rate = len(files) / (time.perf_counter() - started)
    shutil.rmtree(stored)
    return rate


def _bare(encoder: Encoder, number: int) -> float:
    """Images/s of the model on batches that are there."""
    batch = torch.randint(0, 256, (BATCH, 3, SIZE, SIZE), dtype=torch.uint8)
    encoder(batch)
    steps = max(1, number // BATCH)
    started = time.perf_counter()
    for _ in range(steps):
        encoder(batch)
    return steps * BATCH / (time.perf_counter() - started)
