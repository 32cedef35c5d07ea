"""What `bench/run.py review` measures: the page of `fastlt review` on a catalog of 1.2 million images, in Chromium.

The catalog is made: 24,426 categories beside 8,142 targets, similarities of two bumps, and 50,000 drawn JPEGs of 320 x
240 pixels in shards, at which all rows point. Times are a person's: until pictures are to be seen, until a frame is
drawn with other counts. Memory is the server's, without the browser's.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
import torch
from rich.console import Console

from bench.harness import records, tables
from bench.harness.processes import FASTLT, tree_bytes
from bench.harness.records import Record
from bench.inputs.image_sets import BUILD
from fastlt.data_prep.catalog import Candidate, Catalog, ImageRow
from fastlt.dataset.tar_members import TAR_END, append_member, member_bytes

IMAGES, PICTURES, CATEGORIES, TARGETS = 1_200_000, 50_000, 24_426, 8_142
QUICK = 20_000
OPEN_GOAL, BYTES_GOAL, SLIDER_GOAL, SCROLL_GOAL = 2.0, 500e6, 50.0, 500.0
_REPETITIONS, _SCREENS, _SLIDES = 5, 60, 100
_PER_SHARD, _BATCH = 10_000, 20_000
_ARE_SEEN = """async (selector) => {
  const inside = (e) => { const b = e.getBoundingClientRect(); return b.bottom > 0 && b.top < innerHeight && b.width; };
  for (;;) {
    const seen = [...document.querySelectorAll(selector)].filter(inside);
    if (seen.length > 5 && seen.every((image) => image.complete && image.naturalWidth)) return performance.now();
    await new Promise(requestAnimationFrame);
  }
}"""
_SCROLL = """async ([selector, screens]) => {
  const inside = (e) => { const b = e.getBoundingClientRect(); return b.bottom > 0 && b.top < innerHeight && b.width; };
  const waits = [];
  for (let screen = 0; screen < screens; screen += 1) {
    const begun = performance.now();
    scrollBy(0, innerHeight * 0.8);
    for (;;) {
      await new Promise(requestAnimationFrame);
      const seen = [...document.querySelectorAll(selector)].filter(inside);
      if (seen.length > 5 && seen.every((image) => image.complete && image.naturalWidth)) break;
    }
    waits.push((performance.now() - begun) / 1000);
    await new Promise((done) => setTimeout(done, 300));
  }
  return waits;
}"""
_SLIDE = """async (slides) => {
  const slider = document.querySelector("[name=gamma1]"), waits = [];
  for (let slide = 0; slide < slides; slide += 1) {
    const before = document.getElementById("preview").textContent, begun = performance.now();
    slider.value = Number(slider.min) + ((slide * 37) % (slider.max - slider.min));
    slider.dispatchEvent(new Event("input", { bubbles: true }));
    const changed = document.getElementById("preview").textContent !== before;
    await new Promise(requestAnimationFrame);
    if (changed) waits.push((performance.now() - begun) / 1000);
  }
  return waits;
}"""


def run(device: torch.device, quick: bool, results: Path) -> None:
    """Makes the catalog, opens the page, appends the records and prints what they say."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    try:
        from playwright.sync_api import sync_playwright
    except ModuleNotFoundError:
        chromium = None
    if not chromium:
        print(
            "skipped: the page is opened by Chromium, through Playwright: apt install chromium, pip install playwright."
        )
        return
    images = QUICK if quick else IMAGES
    BUILD.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=BUILD) as folder, sync_playwright() as started:
        catalog = Path(folder, "c.sqlite")
        _make(catalog, images)
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        found = _measure(catalog, browser, f"{images:,} images", 2 if quick else _REPETITIONS)
        browser.close()
    _tell(found)
    print(f"appended {len(found)} records to {records.append(results, 'review', device, found)}")


def _make(path: Path, images: int) -> None:
    rng = np.random.default_rng(0)
    scale = images / IMAGES
    targets, categories = max(2, int(TARGETS * scale)), max(6, int(CATEGORIES * scale))
    with Catalog(path, create=True) as catalog:
        places = _write_shards(catalog, rng, max(1_000, int(PICTURES * scale)))
        with catalog.transaction():
            catalog.enter_targets((f"species_{n}", f"Genus species {n}", "[]", 20) for n in range(targets))
            ids = [catalog.add_category(f"kin_{n}", f"Genus kin {n}") for n in range(categories)]
            catalog.add_neighbors([(1 + n % targets, category) for n, category in enumerate(ids)])
        catalog.mark_categories(dict.fromkeys(ids[::50], "in no taxonomy"))
        for start in range(0, images, _BATCH):
            numbers = range(start, min(start + _BATCH, images))
            with catalog.transaction():
                _add(catalog, numbers, places, ids, targets, rng)
        catalog.remember_json("filter", {"gamma1": 0.3, "gamma2": 0.95})


def _write_shards(catalog: Catalog, rng: np.random.Generator, pictures: int) -> list[tuple[int, int, int]]:
    """(shard, offset, bytes) of drawn pictures, no two alike."""
    catalog.shards_folder.mkdir()
    large = rng.integers(0, 256, (1024, 1024, 3), np.uint8)
    large = np.repeat(np.repeat(large[::8, ::8], 8, 0), 8, 1)  # blocks, whose JPEGs are of ordinary size
    places = []
    for shard, start in enumerate(range(0, pictures, _PER_SHARD)):
        end, size = min(start + _PER_SHARD, pictures), 0
        with catalog.transaction():
            catalog.set_open_shard(shard, end - start, 0)
            catalog.finish_shard(shard)
        with catalog.shard_path(shard).open("wb") as file:
            for number in range(start, end):
                top, left = rng.integers(0, 1024 - 240), rng.integers(0, 1024 - 320)
                pixels = np.ascontiguousarray(large[top : top + 240, left : left + 320])
                content = simplejpeg.encode_jpeg(pixels, quality=85)
                places.append((shard, size + append_member(file, f"{number:09d}.jpg", content), len(content)))
                size = places[-1][1] + member_bytes(content)
            file.write(TAR_END)
    return places


def _add(
    catalog: Catalog,
    numbers: range,
    places: list[tuple[int, int, int]],
    categories: list[int],
    targets: int,
    rng: np.random.Generator,
) -> None:
    """Candidates and images of these numbers, as filter with thresholds 0.3 and 0.95 leaves them."""
    of = [categories[n % len(categories)] for n in numbers]
    about = ("images.test:443", "inaturalist")
    catalog.add_candidates(
        Candidate(
            category,
            f"https://images.test/photos/{n}/large.jpg",
            *about,
            f"https://www.images.test/observations/{n}",
            "CC BY-NC 4.0",
            f"(c) Observer {n % 9973}, some rights reserved (CC BY-NC)",
        )
        for n, category in zip(numbers, of, strict=True)
    )
    rows = [
        ImageRow(n + 1, category, *places[n * 7919 % len(places)], 320, 240, hashlib.sha256(b"%d" % n).digest(), n)
        for n, category in zip(numbers, of, strict=True)
    ]
    catalog.add_images(rows)
    catalog.set_outcomes(("fetched", "", None, row.id) for row in rows)
    near = np.where(rng.random(len(rows)) < 0.8, rng.normal(0.6, 0.12, len(rows)), rng.normal(0.2, 0.1, len(rows)))
    judged = []
    for row, value in zip(rows, near.clip(-0.2, 0.999).round(6).tolist(), strict=True):
        reason = "too far" if value <= 0.3 else "too near" if value >= 0.95 else ""
        reason = "near-duplicate of a validation image" if row.id % 500 == 0 else reason
        target = 1 + (row.id - 1) % len(categories) % targets
        judged.append(("dropped" if reason else "kept", reason, value, target, row.id))
    catalog.judge_images(judged)


@contextmanager
def _served(catalog: Path) -> Iterator[tuple[str, int, float]]:
    """The page's address, the server's process, and when it was started."""
    started = time.perf_counter()
    with subprocess.Popen([*FASTLT, "review", str(catalog)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        yield process.stdout.readline().strip(), process.pid, started
        process.terminate()


def _measure(catalog: Path, browser: Any, case: str, repetitions: int) -> list[Record]:
    cold: list[float] = []
    opened: dict[str, list[float]] = {"images": [], "categories": []}
    for _ in range(repetitions):
        with _served(catalog) as (address, _, started):
            page = browser.new_page()
            page.goto(f"{address}#images")
            page.evaluate(_ARE_SEEN, "#grid img")
            cold.append(time.perf_counter() - started)
            page.close()
    with _served(catalog) as (address, process, _):
        peak = 0
        for _ in range(repetitions):
            for view, selector in (("images", "#grid img"), ("categories", "#category-list img")):
                page = browser.new_page()
                begun = time.perf_counter()
                page.goto(f"{address}#{view}")
                page.evaluate(_ARE_SEEN, selector)
                opened[view].append(time.perf_counter() - begun)
                page.close()
                peak = max(peak, tree_bytes(process))
        page = browser.new_page()
        page.goto(f"{address}#images?order=far")
        page.evaluate(_ARE_SEEN, "#grid img")
        page.wait_for_selector("#sliders:not([hidden])")
        scrolled = page.evaluate(_SCROLL, ["#grid img", _SCREENS])
        slid = page.evaluate(_SLIDE, _SLIDES)
        peak = max(peak, tree_bytes(process))
        dropped = _decide(page, repetitions)
        peak = max(peak, tree_bytes(process))
        page.close()
    times = {
        "from the command to pictures": cold,
        "images open": opened["images"],
        "categories open": opened["categories"],
        "a screen further": scrolled,
        "a slider moved": slid,
        "120 images dropped": dropped,
    }
    rows = []
    for what, seconds in times.items():
        slowest = 1000 * max(seconds)
        about = {"case": f"{what}, {case}", "impl": "fastlt", "what": what, "slowest_ms": slowest}
        rows.append(about | records.milliseconds(seconds) | {"peak_bytes": peak})
    return rows


def _decide(page: Any, repetitions: int) -> list[float]:
    """Seconds from a key to the changed tiles, of all that a first page has."""
    page.reload()
    seconds = []
    for number in range(repetitions):
        page.evaluate(_ARE_SEEN, "#grid img")
        page.keyboard.press("Control+a")
        begun = time.perf_counter()
        key, state = (("d", "dropped"), ("k", "kept"))[number % 2]
        page.keyboard.press(key)
        page.wait_for_selector(f".tile.hand.{state}")
        seconds.append(time.perf_counter() - begun)
    return seconds


def _tell(found: list[Record]) -> None:
    console = Console(width=120)
    for row in found:
        console.print(
            f"{row['case']:<55}{row['median_ms']:>9,.0f} ms, slowest {row['slowest_ms']:,.0f}", highlight=False
        )
    by = {row["what"]: row for row in found}
    for what in ("images open", "categories open"):
        tables.print_target(console, f"{what}, seconds", by[what]["slowest_ms"] / 1000, OPEN_GOAL, at_most=True)
    tables.print_target(console, "a slider moved, ms", by["a slider moved"]["slowest_ms"], SLIDER_GOAL, at_most=True)
    tables.print_target(
        console, "a screen further, ms", by["a screen further"]["slowest_ms"], SCROLL_GOAL, at_most=True
    )
    tables.print_target(console, "MB of memory", found[0]["peak_bytes"] / 1e6, BYTES_GOAL / 1e6, at_most=True)
