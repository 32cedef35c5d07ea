"""What `bench/run.py captions` measures: captions/s in which 30,000 names are sought, of made captions of web images.

Words come as often as Zipf says, a caption has about eleven, one in twenty gets a name on top, and names are of two or
three words, one in thirty of one. "matcher" is the search alone by one thread, on captions in memory; "search" reads
Parquet files and searches them on all cores; "command" is `fastlt crawl --captions` of these files, from its start
until the catalog has the candidates, most of which it takes to enter what was found.
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from pyarrow import parquet
from rich.console import Console

from bench.harness import records, tables
from bench.harness.processes import FASTLT, timed, tree_bytes
from bench.harness.records import Record
from bench.inputs.image_sets import BUILD
from fastlt.data_prep.catalog import Catalog
from fastlt.data_prep.crawl.captions.add import searched
from fastlt.data_prep.crawl.captions.files import AskedOfCaptions, Captions, open_captions
from fastlt.data_prep.crawl.captions.matcher import TitleMatcher

CAPTIONS, NAMES, WORDS, FILES = 4_000_000, 30_000, 60_000, 4
QUICK = 40_000
ROUNDS = 3
GOAL, LEAST = 1e6, 3e5
_NAMING = 0.05


def run(device: torch.device, quick: bool, results: Path) -> None:
    """Makes names and captions, measures both, appends the records and prints them."""
    number = QUICK if quick else CAPTIONS
    BUILD.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=BUILD) as scratch:
        folder, catalog = Path(scratch, "captions"), Path(scratch, "c.sqlite")
        names = _make(folder, number)
        with Catalog(catalog, create=True) as made, made.transaction():
            for name in names:
                made.add_category(name.replace(" ", "_"), name)
        matcher = TitleMatcher({at: [name] for at, name in enumerate(names)})
        found = [_matcher(matcher, folder, names, number), _search(matcher, folder, names, number)]
        found.append(_command(folder, catalog, number))
    console = Console(width=120)
    tables.print_rates(console, f"images whose captions are searched, on {records.device_name(device)}", found)
    for what, goal in (("captions/s searched", GOAL), ("the least of it", LEAST)):
        tables.print_target(console, what, found[1]["images_per_s"], goal)
    print(f"appended {len(found)} records to {records.append(results, 'captions', device, found)}")


def _make(folder: Path, number: int) -> list[str]:
    """Writes files of captions, and returns the names that are to be sought."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    letters = rng.integers(97, 123, (WORDS, 9), np.uint8)
    lengths = np.minimum(3 + rng.poisson(3, WORDS), 9)  # a common word is no shorter than others
    words = np.array([bytes(row[:length]).decode() for row, length in zip(letters, lengths, strict=True)])
    rarer = words[5_000:]
    names = list(dict.fromkeys(" ".join(rng.choice(rarer, 1 if i % 30 == 0 else 2 + i % 2)) for i in range(NAMES)))
    frequency = 1 / np.arange(1, WORDS + 1)
    cumulated = np.cumsum(frequency / frequency.sum())
    for at in range(FILES):
        rows = number // FILES
        counts = np.maximum(1, rng.poisson(11, rows))
        drawn = words[np.minimum(np.searchsorted(cumulated, rng.random(counts.sum())), WORDS - 1)]
        ends = np.cumsum(counts)
        captions = [" ".join(drawn[end - n : end]) for end, n in zip(ends, counts, strict=True)]
        for row, name in zip(*_naming(rng, rows), strict=True):
            captions[row] += f" {names[name % len(names)].title()}, {captions[row][:9]}"
        urls = [f"https://host{i % 997}.example.org/{at}/{i}.jpg" for i in range(rows)]
        table = pa.table({"url": urls, "text": captions, "similarity": rng.random(rows, np.float32)})
        parquet.write_table(table, folder / f"{at:03}.parquet")
    return names


def _naming(rng: np.random.Generator, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """(rows that name a category, the name of each)."""
    chosen = np.flatnonzero(rng.random(rows) < _NAMING)
    return chosen, rng.integers(0, NAMES, len(chosen))


def _matcher(matcher: TitleMatcher, folder: Path, names: list[str], number: int) -> Record:
    batches = [batch.captions for batch in _batches(folder)]
    rates = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        found = sum(len(matcher.find(batch).rows) for batch in batches)
        rates.append(number / (time.perf_counter() - started))
    return _record("matcher", number, len(names), rates, found, tree_bytes(os.getpid()))


def _search(matcher: TitleMatcher, folder: Path, names: list[str], number: int) -> Record:
    rates = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        found = sum(len(found.rows) for _, found in searched(matcher, _batches(folder)))
        rates.append(number / (time.perf_counter() - started))
    return _record("search", number, len(names), rates, found, tree_bytes(os.getpid()))


def _batches(folder: Path) -> Iterator[Captions]:
    for file in sorted(folder.iterdir()):
        yield from open_captions(file, AskedOfCaptions())[1]


def _command(folder: Path, catalog: Path, number: int) -> Record:
    words = ["crawl", str(catalog), "--captions", str(folder / "*.parquet"), "--contact", "bench@example.org"]
    seconds, peak = timed([*FASTLT, *words], until=lambda: _is_read(catalog))
    with Catalog(catalog) as opened:
        found, names = opened.num_candidates(), sum(1 for _ in opened.categories(kept=True))
    return _record("command", number, names, [number / seconds], found, peak)


def _record(impl: str, number: int, names: int, rates: list[float], found: int, peak: int) -> Record:
    case = f"{number:,} captions, {names:,} names"
    return {"case": case, "impl": impl, **records.rate(rates), "found": found, "peak_bytes": peak}


def _is_read(file: Path) -> bool:
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as opened:
        return bool(opened.execute("SELECT 1 FROM setting WHERE name LIKE 'captions %'").fetchone())
