"""What `bench/run.py crawl` measures: `fastlt crawl` beside img2dataset, a catalog of a million URLs, duplicate search.

Both crawlers are started as a user starts them, fetch the same images from the same loopback server, shrink them to
the same size and quality, and write WebDataset shards; the clock runs from start to end of the process. The server has
its share of the same cores, so what counts is how much of a processor each of them takes, without the server.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from bench.harness import records
from bench.harness.processes import FASTLT, ProcessorSeconds, served, timed
from bench.harness.records import Record
from bench.inputs.image_sets import BUILD, DATA
from bench.peers import img2dataset
from fastlt.data_prep.catalog import Catalog
from fastlt.data_prep.perceptual.index import HashIndex

ROUNDS, CORES, QUALITY = 3, 2, 95
MILLION = 1_000_000
# name: archive, images of it, URLs, shorter side
CASES = {
    "photographs 500 px to 256 px": ("jpeg_sample.zip", 64, 6000, 256),
    "Tiny-ImageNet 64 px to 48 px": ("tin_lt.zip", 10_000, 10_000, 48),
}


def run(device: torch.device, quick: bool, results: Path) -> None:
    """Measures everything; appends the records and prints the tables."""
    BUILD.mkdir(exist_ok=True)  # on the disk, as a real crawl is
    console, found = Console(width=150), []
    peers = ["fastlt", "img2dataset"]
    try:
        if not quick:
            img2dataset.make()
        elif not img2dataset.is_there():
            raise RuntimeError("--quick does not install it")
    except RuntimeError as error:
        print(f"img2dataset is skipped: {error}.")
        peers.remove("img2dataset")
    for name, (archive, most, urls, size) in CASES.items():
        if not (DATA / archive).is_file():
            print(f"{name}: skipped, there is no {archive}.")
            continue
        found += _crawls(name, DATA / archive, most, 300 if quick else urls, size, peers, 1 if quick else ROUNDS)
    found += _large_catalog(10_000 if quick else MILLION)
    found += _duplicates(10_000 if quick else MILLION)
    _print(console, found, device)
    print(f"appended {len(found)} records to {records.append(results, 'crawl', device, found)}")


def _crawls(case: str, archive: Path, most: int, urls: int, size: int, peers: list[str], rounds: int) -> list[Record]:
    """Crawls of the peers in turn."""
    rates: dict[str, list[float]] = {peer: [] for peer in peers}
    taken: dict[str, list[float]] = {peer: [] for peer in peers}  # seconds of a processor for an image
    servers: dict[str, list[float]] = {peer: [] for peer in peers}  # the server's
    peaks: dict[str, int] = dict.fromkeys(peers, 0)
    with served(archive, most) as port, tempfile.TemporaryDirectory(dir=BUILD) as folder:
        listed = Path(folder, "list.csv")
        listed.write_text("url\n" + "".join(f"http://127.0.0.1:{port}/{i}.jpg\n" for i in range(urls)))
        for _ in range(rounds):
            for peer in peers:
                out = Path(folder, peer)
                if peer == "fastlt":
                    command = _fastlt(listed, out, size)
                else:
                    command = img2dataset.command(listed, out, size, QUALITY, CORES)
                before = ProcessorSeconds.now()
                seconds, peak = timed(command)
                after = ProcessorSeconds.now()
                _check(out, urls)
                rates[peer].append(urls / seconds)
                taken[peer].append((after.ended - before.ended) / urls)
                servers[peer].append((after.running - before.running) / urls)
                peaks[peer] = max(peaks[peer], peak)
                shutil.rmtree(out)
    return [
        {"case": case, "impl": peer, **records.rate(rates[peer]), **_processor(taken[peer])}
        | {"server_processor_ms": records.spread(servers[peer])[1] * 1000, "peak_bytes": peaks[peer], "urls": urls}
        for peer in peers
    ]


def _processor(seconds: list[float]) -> Record:
    """Median, p20 and p80 of the milliseconds of a processor that an image takes."""
    low, middle, high = (1000 * value for value in records.spread(seconds))
    return {"processor_ms": middle, "p20_processor_ms": low, "p80_processor_ms": high}


def _fastlt(listed: Path, out: Path, size: int) -> list[str]:
    out.mkdir()
    command = [*FASTLT, "crawl", str(out / "c.sqlite"), "--urls", str(listed)]
    limits = ["--contact", "bench@example.org", "--allow-private", "--rate", "0", "--per-host", "64"]
    kept = ["--size", str(size), "--quality", str(QUALITY), "--images-per-shard", "1000"]
    # The few photographs are served again and again; equal bytes are still looked for.
    return [*command, *limits, *kept, "--duplicates", "-1"]


def _check(out: Path, urls: int) -> None:
    """All images are there, or the rate means nothing."""
    import tarfile

    images = 0
    for shard in out.rglob("*.tar"):
        with tarfile.open(shard) as tar:
            images += sum(name.endswith(".jpg") for name in tar.getnames())
    if images != urls:
        raise RuntimeError(f"{out.name} wrote {images:,} of {urls:,} images: nothing to compare.")


def _large_catalog(urls: int) -> list[Record]:
    """Start of a crawl until its first outcomes are committed, its memory, and a status, with so many URLs to go.

    One of a thousand hosts answers, with 404; at the others nobody listens.
    """
    with tempfile.TemporaryDirectory(dir=BUILD) as folder, served(None) as port:
        path = Path(folder, "c.sqlite")
        with Catalog(path, create=True) as catalog, catalog.transaction():
            category = catalog.add_category("a", "a")
            hosts = [f"127.0.{i // 250}.{1 + i % 250}:{port}" for i in range(1000)]
            rows = ((f"http://{hosts[i % 1000]}/absent{i}.jpg", hosts[i % 1000]) for i in range(urls))
            catalog.add_candidates((category, url, host, "list", "", "", "") for url, host in rows)
        status = [timed([*FASTLT, "status", str(path)])[0] for _ in range(ROUNDS)]
        watching = Catalog(path)
        first = "SELECT 1 FROM candidate WHERE state <> 'new' LIMIT 1"
        crawl = [*FASTLT, "crawl", str(path), "--contact", "bench@example.org", "--allow-private", "--ignore-robots"]
        started, _ = timed(crawl, until=lambda: watching.connection.execute(first).fetchone() is not None)
        ends = time.perf_counter() + 15
        _, peak = timed(crawl, until=lambda: time.perf_counter() > ends)
        watching.connection.close()
    about = {"impl": "fastlt", "urls": urls}
    return [
        _time_record(f"start of a crawl, {urls:,} URLs", [started], peak) | about,
        _time_record(f"status, {urls:,} URLs", status, 0) | about,
    ]


def _duplicates(hashes: int) -> list[Record]:
    """For each of one half of so many hashes, of which a fifth are near copies, the nearest one of the other half."""
    rng = np.random.default_rng(0)
    drawn = rng.integers(-(2**63), 2**63, hashes)
    half = hashes // 2
    copies = rng.choice(half, hashes // 10, replace=False)
    drawn[copies + half] = drawn[copies] ^ (np.int64(1) << rng.integers(64, size=len(copies)))
    warm = HashIndex(4)
    warm.add(drawn[:100])
    warm.nearest(drawn[:100])
    times = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        index = HashIndex(4)
        index.add(drawn[:half])
        found = index.nearest(drawn[half:])
        times.append(time.perf_counter() - started)
    if (found >= 0).sum() < len(copies):
        raise RuntimeError("the search missed duplicates: nothing to compare.")
    case = f"nearest of {half:,} hashes for {half:,}, radius 4"
    return [_time_record(case, times, 0) | {"impl": "fastlt", "hashes": hashes}]


def _time_record(case: str, seconds: list[float], peak: int) -> Record:
    return {"case": case, **records.milliseconds(seconds), "peak_bytes": peak}


def _print(console: Console, found: list[Record], device: torch.device) -> None:
    table = Table(title=f"crawl, on {records.device_name(device)}", title_justify="left")
    for column in ("case", "impl", "images/s", "p20..p80", "CPU ms/image", "p20..p80", "seconds", "peak MB"):
        table.add_column(column, justify="left" if column in ("case", "impl") else "right", no_wrap=True)
    for r in found:
        rate = f"{r['images_per_s']:.0f}" if "images_per_s" in r else ""
        spread = f"{r['p20_images_per_s']:.0f}..{r['p80_images_per_s']:.0f}" if rate else ""
        seconds = f"{r['median_ms'] / 1000:.2f}" if "median_ms" in r else ""
        taken = f"{r['processor_ms']:.2f}" if rate else ""
        taken_spread = f"{r['p20_processor_ms']:.2f}..{r['p80_processor_ms']:.2f}" if rate else ""
        peak = f"{r['peak_bytes'] / 1e6:.0f}" if r["peak_bytes"] else ""
        table.add_row(r["case"], r["impl"], rate, spread, taken, taken_spread, seconds, peak)
    console.print(table)
    for case in CASES:
        of = {r["impl"]: r for r in found if r["case"] == case}
        if len(of) == 2:
            ours, theirs = of["fastlt"], of["img2dataset"]
            rate, taken, memory = (ours[key] / theirs[key] for key in ("images_per_s", "processor_ms", "peak_bytes"))
            room = 1000 * CORES / (ours["processor_ms"] + ours["server_processor_ms"])
            print(
                f"{case}: {taken:.2f} of img2dataset's processor seconds an image (target at most 0.5), {memory:.0%} of"
                f" its memory (target at most 100%), {rate:.2f}x its rate (target 2x, {2 * theirs['images_per_s']:.0f}"
                f" images/s, where {CORES} cores with the server have room for {room:.0f})"
            )
