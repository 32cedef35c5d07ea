"""What `bench/run.py scale` says: how a crawl goes on more machines than there are, by simulation, and what it needs.

Speeds are those of bench/results; where a record is missing, what follows from it is left out. What the catalog and the
duplicate index hold of an image is measured here, and the simulation is held against crawls of loopback hosts, in which
nothing but politeness takes time. `bench/harness/crawl_model.py` has the model, docs/scale.md the assumptions.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from bench.harness import crawl_model, records, scale_page
from bench.harness.crawl_model import HostLimit
from bench.harness.recorded_machine import IMAGE_BYTES, Machine, Recorded
from bench.harness.records import Record
from bench.harness.scale_page import SHARES
from bench.inputs.image_sets import BUILD
from bench.suites import scale_checks
from fastlt.data_prep.crawl.host_limits import Policies
from fastlt.data_prep.crawl.options import Politeness

RESULTS = Path(__file__).resolve().parents[1] / "results"
URLS, MACHINES = (10**6, 10**8, 10**9), (1, 2, 4, 8, 16, 32, 64, 128, 256)
OTHERWISE = (10**8, 4)  # where other assumptions are tried: URLs and machines
DRAWS = 3  # of which machine has which host, and in which order
INATURALIST_BYTES = 19.6e9 + 12.7e9  # photos and observations of its open data, July 2026, as they are compressed
ROWS, HASHES = 100_000, 1_000_000


@dataclass(frozen=True)
class World:
    """What is assumed, and can be given on the command line.

    Attributes:
        hosts, exponent: of the Zipf distribution of URLs over hosts. These give the largest host 8.5% and the hundred
            largest 44%; of LAION-Aesthetics it is 8.5% and 47% of 12 million images, by domains (A. Baio, waxy.org,
            August 2022).
        rate, per_host: requests a second to one host, and at once; the defaults of `fastlt crawl`.
        gbits: of a machine's network.
        transfer: seconds from request to the last byte; assumed; with the other defaults it limits nothing below 0.37.
        largest_first: hosts are begun by size, not by name as `fastlt crawl` does it.
    """

    hosts: int = 70_000
    exponent: float = 1.0
    rate: float = Politeness.rate
    per_host: int = Politeness.per_host
    gbits: float = 1.0
    transfer: float = 0.2
    largest_first: bool = False

    def __post_init__(self) -> None:
        if (
            min(self.hosts, self.per_host) < 1
            or min(self.gbits, self.transfer) <= 0
            or min(self.rate, self.exponent) < 0
        ):
            raise SystemExit(
                "nothing could be fetched: give --hosts of 1 or more, --gbits and --transfer above 0, and --rate and "
                "--exponent not below 0."
            )

    def beside(self, other: World) -> str:
        """What is not as in another one, in words; "" where all is."""
        pairs = ((f.name.replace("_", " "), getattr(self, f.name), getattr(other, f.name)) for f in fields(self))
        return ", ".join(name if ours is True else f"{name} {ours:,}" for name, ours, theirs in pairs if ours != theirs)

    @property
    def limit(self) -> HostLimit:
        return HostLimit(min(self.rate or np.inf, self.per_host / self.transfer))

    def speeds(self, machine: Machine, urls: int, hosts: int) -> dict[str, float]:
        """Requests a second that each part of the machine would manage alone."""
        return machine.speeds(urls, hosts, self.gbits, self.transfer)


def run(device: torch.device, quick: bool, results: Path, **given: float) -> None:
    """Measures, simulates; appends the records, prints them and draws the picture."""
    world = World(**given)  # type: ignore[arg-type]
    recorded = Recorded(RESULTS, device)
    machine = recorded.machine()
    BUILD.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=BUILD) as folder:
        held = scale_checks.measure_held(Path(folder), *((2_000, 20_000) if quick else (ROWS, HASHES)))
        found = [_told(machine), held, *scale_checks.against_records(recorded, machine)]
        found += scale_checks.against_crawls(Path(folder), quick)
    sizes, numbers = (URLS[:1], (1, 4)) if quick else (URLS, MACHINES)
    found += [simulate(urls, number, world, machine, held) for urls in sizes for number in numbers]
    for other in () if quick else _others(world):
        found.append(simulate(*OTHERWISE, other, machine, held) | {"changed": other.beside(world)})
    found += _one_host(world, machine)
    found += [needs(urls, recorded, machine, world, held) for urls in sizes]
    console = Console(width=140)
    for table in scale_page.tables(found):
        console.print(table)
    file = records.append(results, "scale", machine.device, found)
    picture = scale_page.draw(found, records.path(results, "scale", machine.device, ".png"), machine.device)
    print(f"appended {len(found)} records to {file}; drew {picture}")


def _told(machine: Machine) -> Record:
    gbits = IMAGE_BYTES * 8 / machine.per_image / 1e9
    about = {"case": "the machine", "impl": "fastlt", "image_bytes": IMAGE_BYTES, "gbits": gbits}
    return about | {f"{name}_s": getattr(machine, name) for name in ("per_image", "per_host", "start")}


def _others(world: World) -> list[World]:
    changes: list[dict[str, float]] = [{"rate": 1.0}, {"rate": 100.0, "per_host": 32}, {"largest_first": True}]
    changes += [{"gbits": 0.1}, {"transfer": 2.0}, {"exponent": 0.9, "hosts": 1_000_000}]
    return [replace(world, **change) for change in changes]  # type: ignore[arg-type]


def simulate(urls: int, machines: int, world: World, machine: Machine, held: Record) -> Record:
    """A crawl, several times with other owners of the hosts."""
    sizes, rates, largest = crawl_model.zipf(urls, world.hosts, world.exponent), [], 0
    hours: dict[str, list[float]] = {name: [] for name in SHARES}
    for draw in range(DRAWS):
        parts, names = [], np.random.default_rng(draw).permutation(len(sizes))
        order = np.arange(len(sizes)) if world.largest_first else names
        owner = crawl_model.owners(len(sizes), machines, draw)[order]
        for number in range(machines):
            mine = sizes[order[owner == number]]
            speed = min(world.speeds(machine, int(mine.sum()), len(mine)).values()) if len(mine) else 1.0
            parts.append(crawl_model.crawl((mine + 1).tolist(), speed, world.limit, Politeness.connections))
            largest = max(largest, int(mine.sum()))
        for name, share in SHARES.items():
            hours[name].append((machine.start + crawl_model.seconds_until(parts, share)) / 3600)
        rates.append(urls / hours["all"][-1] / 3600)
    speeds = world.speeds(machine, urls, len(sizes))
    binds = min(speeds, key=lambda name: speeds[name])
    took = {name: float(np.median(values)) for name, values in hours.items()}
    return {
        "case": ", ".join(filter(None, [f"{urls:,} URLs, {machines} machines", world.beside(World())])),
        "impl": "fastlt", "urls": urls, "machines": machines, "changed": "", **records.rate(rates), "hours": took,
        "until": {name: share * urls / took[name] / 3600 for name, share in SHARES.items()},
        "machine_images_per_s": speeds[binds] * urls / (urls + len(sizes)), "binds": binds,
        "peak_bytes": int(largest * held["index_bytes"]),
    }  # fmt: skip


def _one_host(world: World, machine: Machine) -> Iterator[Record]:
    """iNaturalist alone, whose photos are all at one host: one machine asks it, however many there are."""
    media = Policies(Politeness()).of("static.inaturalist.org:443")
    rate = min(media.requests_per_second, media.bytes_per_hour / 3600 / IMAGE_BYTES)
    limits = {
        f"open data, --rate {world.rate:g}": world.limit,
        "open data, --rate 100 --per-host 32": replace(world, rate=100.0, per_host=32).limit,
        "its own media host": HostLimit(rate, media.bytes_per_day / IMAGE_BYTES),
    }
    for urls in URLS[:2]:
        for name, limit in limits.items():
            speed = min(world.speeds(machine, urls, 1).values())
            part = crawl_model.crawl([urls + 1], speed, limit, 1)
            yield {
                "case": f"iNaturalist, {urls:,} photos, {name}", "impl": "fastlt", "urls": urls, "limit": name,
                "one_host_hours": float(part.seconds[-1]) / 3600,
            }  # fmt: skip


def needs(urls: int, recorded: Recorded, machine: Machine, world: World, held: Record) -> Record:
    """What so many images are as bytes and as machine-hours, if none is lost; None where there is no record."""
    embed = recorded.find("embed", "embedding 4,000 images, tf_efficientnet_lite0 at 128 px")
    dump = recorded.find("dump", "50,000,000 photos")
    encode = recorded.find("loaders", "encode photographs", storage="jpg 400")
    hosts = len(crawl_model.zipf(urls, world.hosts, world.exponent))
    rates = {"filter": embed, "encode": encode}
    hours = {name: r and urls / r["images_per_s"] / 3600 for name, r in rates.items()}
    return {
        "case": f"{urls:,} images", "impl": "fastlt", "urls": urls,
        "machine_hours": {"crawl": (urls * machine.per_image + hosts * machine.per_host) / 3600, **hours},
        "dump_hours": dump and dump["median_ms"] / 3.6e6 / dump["dump_bytes"] * INATURALIST_BYTES,
        "fetched_bytes": urls * IMAGE_BYTES, "catalog_total": urls * held["catalog_bytes"],
        "index_total": urls * held["index_bytes"],
    }  # fmt: skip
