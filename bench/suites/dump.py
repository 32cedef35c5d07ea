"""What `bench/run.py dump` measures: `fastlt crawl --dump` of a made dump, joined to 24,426 categories.

The dump has iNaturalist's form and is made by DuckDB: 20 million photos of 10 million observations of a million taxa,
and as many observers; or in proportion, with no more categories than that. The time ends when the catalog has the
candidates; nothing is fetched.
"""

from __future__ import annotations

import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path

import duckdb
import torch
from rich.console import Console

from bench.harness import records, tables
from bench.harness.processes import FASTLT, timed
from bench.inputs.image_sets import BUILD
from fastlt.data_prep.catalog import Catalog

PHOTOS, CATEGORIES = 20_000_000, 24_426
QUICK = 20_000
SECONDS_GOAL, BYTES_GOAL = 600, 4e9
_TABLES = {  # {table: query of its rows for `photos` of them}
    "taxa": "SELECT i AS taxon_id, CASE WHEN i < 1000 THEN '' WHEN i < 20000 THEN (i % 999 + 1) || ''"
    " ELSE ((i % 19000 + 1000) % 999 + 1) || '/' || (i % 19000 + 1000) END AS ancestry, 10 AS rank_level,"
    " 'species' AS rank, 'Genus' || (i % 19000) || ' species' || i AS name, 'true' AS active"
    " FROM range(1, {photos} // 20 + 1) AS made(i)",
    "observations": "SELECT {uuid} AS observation_uuid, hash(i) % ({photos} // 20) AS observer_id, 1.5 AS latitude,"
    " 2.5 AS longitude, 10 AS positional_accuracy, hash(i * 7) % ({photos} // 20) + 1 AS taxon_id,"
    " CASE WHEN i % 3 = 0 THEN 'needs_id' ELSE 'research' END AS quality_grade, DATE '2020-01-01' + (i % 2000)::INT"
    " AS observed_on, 0.5 AS anomaly_score FROM range({photos} // 2) AS made(i)",
    "photos": "SELECT md5('p' || j)::UUID AS photo_uuid, j AS photo_id, {uuid} AS observation_uuid,"
    " hash(i) % ({photos} // 20) AS observer_id, 'jpg' AS extension, CASE WHEN j % 10 = 0 THEN 'CC0'"
    " ELSE 'CC-BY-NC' END AS license, 2048 AS width, 1536 AS height, 0 AS position"
    " FROM (SELECT j, hash(j) % ({photos} // 2) AS i FROM range({photos}) AS made(j))",
    "observers": "SELECT i AS observer_id, 'login' || i AS login, 'Some Body ' || i AS name"
    " FROM range({photos} // 20) AS made(i)",
}


def run(device: torch.device, quick: bool, results: Path, rows: int = PHOTOS) -> None:
    """Makes the dump, joins it, appends a record and prints what it says."""
    photos = QUICK if quick else rows
    BUILD.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=BUILD) as folder:
        dump, catalog = Path(folder, "dump"), Path(folder, "c.sqlite")
        _make(dump, photos)
        _make_catalog(catalog, max(1, min(CATEGORIES, CATEGORIES * photos // PHOTOS)), photos // 20)
        words = ["crawl", str(catalog), "--dump", "inaturalist", str(dump), "--contact", "bench@example.org"]
        words += ["--source-url", "inaturalist=http://127.0.0.1:9"]
        seconds, peak = timed([*FASTLT, *words], until=lambda: _is_joined(catalog))
        with Catalog(catalog) as opened:
            found = opened.num_candidates()
        size = sum(file.stat().st_size for file in dump.iterdir())
    about = {"case": f"{photos:,} photos", "impl": "fastlt", "candidates": found, "dump_bytes": size}
    record = about | records.milliseconds([seconds]) | {"peak_bytes": peak}
    console = Console(width=120)
    tables.print_target(console, f"seconds for {photos:,} photos", seconds, SECONDS_GOAL, at_most=True)
    tables.print_target(console, "GB of memory", peak / 1e9, BYTES_GOAL / 1e9, at_most=True)
    print(f"{found:,} candidates; appended a record to {records.append(results, 'dump', device, [record])}")
    if not found:
        raise RuntimeError("nothing was found.")


def _make(folder: Path, photos: int) -> None:
    folder.mkdir()
    with duckdb.connect(config={"memory_limit": "1GB", "preserve_insertion_order": False}) as database:
        for table, query in _TABLES.items():
            rows = query.format(photos=photos, uuid="md5('o' || i)::UUID")
            where = str(folder / f"{table}.csv.gz").replace("'", "''")
            how = "FORMAT csv, DELIMITER '\t', QUOTE '', ESCAPE '', HEADER, COMPRESSION gzip"
            database.execute(f"COPY ({rows}) TO '{where}' ({how})")


def _make_catalog(file: Path, categories: int, taxa: int) -> None:
    """Species that lie all over the taxa."""
    with Catalog(file, create=True) as catalog, catalog.transaction():
        for number in range(categories):
            taxon = min(1 + number * taxa // categories, taxa)
            title = f"Genus{taxon % 19000} species{taxon}"
            catalog.add_category(title.lower().replace(" ", "_"), title)


def _is_joined(file: Path) -> bool:
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as opened:
        return bool(opened.execute("SELECT 1 FROM setting WHERE name LIKE 'dump %'").fetchone())
