"""What `bench/run.py scale` measures: bytes that are held of an image, and how far the model is from real crawls."""

from __future__ import annotations

import array
import sqlite3
import sys
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np

from bench.harness import crawl_model
from bench.harness.crawl_model import HostLimit
from bench.harness.processes import FASTLT, running, timed
from bench.harness.recorded_machine import CRAWL, MANY_HOSTS, Machine, Recorded, sound_hosts
from bench.harness.records import Record
from bench.inputs.hostile_server import ADDRESSES
from fastlt.data_prep.catalog import Candidate, Catalog
from fastlt.data_prep.crawl.options import Politeness
from fastlt.data_prep.crawl.prepared import Prepared
from fastlt.data_prep.crawl.writer import ImageWriter, Outcome
from fastlt.data_prep.perceptual.index import HashIndex

_BATCH = 256  # outcomes of a commit, as a crawl has it
_SLOW = 4.0  # requests a second to a host, so that a busy machine is no slower
_SERVER = Path(__file__).parent.parent / "inputs" / "hostile_server.py"


def measure_held(folder: Path, rows: int, hashes: int) -> Record:
    """Bytes that a catalog and the index of duplicates hold of an image, by their own code."""
    path = folder / "held.sqlite"
    rng = np.random.default_rng(0)
    with Catalog(path, create=True) as catalog:
        with catalog.transaction():
            category = catalog.add_category("genus_species", "Genus species")
            photos = (int(number) for number in rng.choice(500_000_000, rows, replace=False))
            catalog.add_candidates(_photo(category, number) for number in photos)
        before = _size(catalog)
        writer = ImageWriter(catalog, 10_000, radius=4)
        drawn, order = rng.integers(-(2**63), 2**63, rows), rng.permutation(rows) + 1
        for start in range(0, rows, _BATCH):
            writer.commit([_outcome(int(order[i]), int(drawn[i])) for i in range(start, min(start + _BATCH, rows))])
        writer.finish()
        after = _size(catalog)
    return {
        "case": f"catalog of {rows:,} images, index of {hashes:,} hashes", "impl": "fastlt",
        "candidate_bytes": before / rows, "catalog_bytes": after / rows, "index_bytes": _index_bytes(hashes),
    }  # fmt: skip


def _photo(category: int, number: int) -> Candidate:
    """As `--dump inaturalist` enters it."""
    host = "inaturalist-open-data.s3.amazonaws.com"
    page = f"https://www.inaturalist.org/photos/{number}"
    return Candidate(
        category, f"https://{host}/photos/{number}/medium.jpg", host, "inaturalist", page, "CC-BY-NC", "A. N. Observer"
    )


def _outcome(candidate: int, hash: int) -> Outcome:
    """An image of no bytes to speak of: shards are not what is measured."""
    return Outcome(
        candidate, Prepared(b"\xff\xd8\xff\xd9", 341, 256, candidate.to_bytes(32, "big"), hash), state="fetched"
    )


def _size(catalog: Catalog) -> int:
    catalog.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return catalog.path.stat().st_size


def _index_bytes(hashes: int) -> float:
    """The most that is held of a hash at any time, as a crawl adds them."""
    drawn = np.random.default_rng(0).integers(-(2**63), 2**63, hashes)
    tracemalloc.start()
    try:
        index, ids = HashIndex(4), array.array("q")
        for start in range(0, hashes, _BATCH):
            part = drawn[start : start + _BATCH]
            index.add(part)
            ids.frombytes(part.tobytes())
        return tracemalloc.get_traced_memory()[1] / hashes
    finally:
        tracemalloc.stop()


def against_records(recorded: Recorded, machine: Machine) -> Iterator[Record]:
    """The model of what was recorded. Two of these gave the machine its figures and show that the model keeps them."""
    crawl, many = recorded.find("crawl", CRAWL), recorded.find("hostile", MANY_HOSTS)
    assert crawl  # or there would be no machine
    took = crawl["urls"] / crawl["images_per_s"]
    yield _check(f"crawl: {CRAWL}", "gave a figure", took, _bench(crawl["urls"], machine))
    if many:
        each = np.full(sound_hosts(many), many["good"] / sound_hosts(many))
        speed = (each.sum() + len(each)) / (each.sum() * machine.per_image + len(each) * machine.per_host)
        part = crawl_model.crawl((each + 1).tolist(), speed, HostLimit(Politeness.rate), Politeness.connections)
        seconds = machine.start + float(part.seconds[-1])
        yield _check(f"hostile: {MANY_HOSTS}", "gave a figure", many["median_ms"] / 1000, seconds)
    request = recorded.find("crawl", "Tiny-ImageNet 64 px to 48 px")
    decode = recorded.find("loaders", "photographs 224 px, crop", "turbojpeg", "jpg")
    raw, jpeg = (recorded.find("loaders", "encode photographs", "recompress", f"{kind} 400") for kind in ("raw", "jpg"))
    if request and decode and raw and jpeg:
        per_image = 1 / request["images_per_s"] - machine.start / request["urls"] + 1 / decode["images_per_s"]
        per_image += 1 / jpeg["images_per_s"] - 1 / raw["images_per_s"]  # writing a JPEG
        seconds = _bench(crawl["urls"], replace(machine, per_image=per_image))
        yield _check(f"crawl: {CRAWL}, by its parts", "held out", took, seconds)


def _bench(urls: int, machine: Machine) -> float:
    """Seconds of `bench/run.py crawl`: one host, without a limit."""
    return machine.start + float(crawl_model.crawl([urls], 1 / machine.per_image, HostLimit(np.inf), 1).seconds[-1])


def against_crawls(folder: Path, quick: bool) -> Iterator[Record]:
    """Crawls of loopback hosts, made now, in which politeness takes the time and no figure of the model comes from."""
    with running([sys.executable, str(_SERVER)]) as port:
        for hosts, urls, connections in [(6, 40, 256)] if quick else [(12, 720, 256), (32, 720, 4)]:
            names = sorted(f"{address}:{int(port)}" for address in ADDRESSES[:hosts])  # as a crawl begins them
            sizes = np.random.default_rng(0).permutation(crawl_model.zipf(urls, hosts, 1.0))
            listed, catalog = folder / f"{hosts}.csv", folder / f"{hosts}.sqlite"
            numbered = ((name, 100_000 * k + i) for k, name in enumerate(names, 1) for i in range(sizes[k - 1]))
            listed.write_text("url\n" + "".join(f"http://{name}/{number}.jpg\n" for name, number in numbered))
            words = ["--contact", "bench@example.org", "--allow-private", "--duplicates", "-1", "--size", "64"]
            words += ["--rate", f"{_SLOW:g}", "--connections", str(connections)]
            watch = _Watch(catalog, urls)
            timed([*FASTLT, "crawl", str(catalog), "--urls", str(listed), *words], until=watch)
            if watch.there != urls:
                raise RuntimeError(f"the crawl of {hosts} hosts has {watch.there:,} of {urls:,} images.")
            part = crawl_model.crawl((sizes + 1).tolist(), np.inf, HostLimit(_SLOW), connections)
            case = f"{urls:,} URLs of {hosts} hosts, {connections} at once"
            yield _check(case, "held out", watch.seconds, float(part.seconds[-1]))


class _Watch:
    """Whether all images of a crawl are in its catalog, and how long after the first ones they were."""

    def __init__(self, catalog: Path, images: int) -> None:
        self._catalog, self._images, self._first = catalog, images, 0.0
        self.there, self.seconds = 0, 0.0

    def __call__(self) -> bool:
        try:
            with closing(sqlite3.connect(f"file:{self._catalog}?mode=ro", uri=True)) as opened:
                self.there = opened.execute("SELECT count(*) FROM image").fetchone()[0]
        except sqlite3.OperationalError:  # no file, no table yet
            return False
        now = time.perf_counter()
        self._first = self._first or (now if self.there else 0.0)
        self.seconds = now - self._first
        return self.there == self._images


def _check(case: str, how: str, measured: float, simulated: float) -> Record:
    about = {"case": f"check, {case}", "impl": "fastlt", "how": how, "measured_s": measured, "simulated_s": simulated}
    return about | {"error": simulated / measured - 1}
