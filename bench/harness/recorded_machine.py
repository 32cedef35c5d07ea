"""What a machine can do, by the records in bench/results: the input of `bench/run.py scale`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from bench.harness import records
from bench.harness.records import Record
from fastlt.data_prep.crawl.options import Politeness

IMAGE_BYTES = 112_215  # of a photograph of 500 px: the mean of the 64 that `bench/run.py crawl` serves
CRAWL, START = "photographs 500 px to 256 px", "start of a crawl, 1,000,000 URLs"
MANY_HOSTS = "without the hostile hosts"


@dataclass(frozen=True)
class Machine:
    """A machine as it was measured, from records of one CPU.

    Attributes:
        device: the CPU.
        per_image: seconds from URL to shard, of all cores together; the server's work is in it, on the same cores.
        per_host: seconds that a new host takes besides, for its name, robots.txt and connections.
        start: seconds until the first outcome.
    """

    device: str
    per_image: float
    per_host: float
    start: float

    def speeds(self, urls: int, hosts: int, gbits: float, transfer: float) -> dict[str, float]:
        """Requests a second that each of its parts would manage alone.

        Args:
            urls, hosts: that it is to ask.
            gbits: of its network, a second.
            transfer: seconds from a request to the last byte.
        """
        requests = urls + hosts  # of robots.txt
        return {
            "processor": requests / (urls * self.per_image + hosts * self.per_host),
            "network": gbits * 1e9 / 8 / IMAGE_BYTES,
            "connections": Politeness.connections / transfer,
        }


class Recorded:
    """The newest records of a folder, those of one CPU alone.

    Raises:
        RuntimeError: there is no record of a crawl, without which nothing can be said.
    """

    def __init__(self, folder: Path, device: torch.device) -> None:
        own = records.path(folder, "crawl", device, ".jsonl")
        found = [own] if own.is_file() else sorted(folder.glob("crawl-*.jsonl"))
        if not found:
            raise RuntimeError(f"{folder} has no record of a crawl: run `python bench/run.py crawl` first.")
        self._folder, self._ending = folder, found[0].name.removeprefix("crawl")

    def find(self, suite: str, case: str, impl: str = "fastlt", storage: str | None = None) -> Record | None:
        """The last record of that name."""
        file = self._folder / f"{suite}{self._ending}"
        if not file.is_file():
            return None
        rows = records.parse(file.read_text(), str(file))
        wanted = (case, impl, storage)
        return next((r for r in reversed([*rows]) if (r["case"], r["impl"], r.get("storage")) == wanted), None)

    def machine(self) -> Machine:
        """Raises RuntimeError where the records of crawls are missing."""
        crawl, start = self.find("crawl", CRAWL), self.find("crawl", START)
        if crawl is None or start is None:
            missing = START if crawl else CRAWL
            raise RuntimeError(f"there is no record of {missing!r}: run `python bench/run.py crawl` first.")
        starts = start["median_ms"] / 1000
        per_image, per_host = 1 / crawl["images_per_s"] - starts / crawl["urls"], 0.0
        if many := self.find("hostile", MANY_HOSTS):
            seconds = many["median_ms"] / 1000 - starts - many["good"] * per_image
            per_host = seconds / sound_hosts(many)
        else:
            print("no record of what a new host costs: python bench/run.py hostile. It is taken as nothing.")
        return Machine(crawl["device"], per_image, per_host, starts)


def sound_hosts(many: Record) -> int:
    return many["hosts"] * 9 // 10  # the others were asked in the other crawl alone
