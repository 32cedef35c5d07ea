"""What `bench/run.py filter` measures: what `fastlt filter` keeps, by default, of images of which some are mislabeled.

Real images are crawled once from a loopback server by a list of URLs. Of the catalog, copies are made that have some of
the images, a share of them under another auxiliary category, drawn at random. Precision is the share of right labels
among what is kept, recall the share of what is kept among right labels. The filter is told the encoder alone.
"""

from __future__ import annotations

import itertools
import shutil
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from bench.harness import records, tables
from bench.harness.processes import FASTLT, served, timed
from bench.harness.records import Record
from bench.inputs.image_sets import BUILD, DATA
from fastlt.data_prep.catalog import Catalog

SEEDS, IMAGES, SHARES = range(5), 40, (0.2, 0.05, 0.4)
QUICK_TARGETS, QUICK_CATEGORIES = 5, 20
MEAN_GOAL, WORST_GOAL, SHARE_GOAL = 0.95, 0.94, 0.2
MODEL, WEIGHTS = "tf_efficientnet_lite0", DATA / "tf_efficientnet_lite0.safetensors"
ARCHIVE = DATA / "tin_wide.zip"


@dataclass(frozen=True)
class Setting:
    """Where everything is.

    Attributes:
        folder: has the targets' images, and the catalog.
        port: of the server.
        numbers: {auxiliary category: numbers of its images, as the server has them}.
        encoders: {name: words for `fastlt filter`}.
    """

    folder: Path
    port: int
    numbers: dict[str, list[int]]
    encoders: dict[str, list[str]]

    @property
    def crawled(self) -> Path:
        return self.folder / "crawled.sqlite"

    @property
    def catalog(self) -> Path:
        """What is filtered, made of `crawled` each time; shards and embeddings stay beside it."""
        return self.folder / "c.sqlite"

    def url(self, number: int) -> str:
        return f"http://127.0.0.1:{self.port}/{number}.jpg"


def run(
    device: torch.device, quick: bool, results: Path, data: Path = ARCHIVE, weights: Path = WEIGHTS,
    trained: Path | None = None,
) -> None:  # fmt: skip
    """Measures everything; appends the records and prints the tables."""
    if not data.is_file():
        print(f"skipped: there is no {data}; --data says where tin_wide.zip is.")
        return
    encoders = {f"{MODEL} at 128 px": ["--model", MODEL, "--weights", str(weights), "--image-size", "128"]}
    if not weights.is_file():
        print(f"{MODEL} is skipped: there is no {weights}; --weights says where it is.")
        encoders = {}
    if trained:
        encoders["a run"] = ["--run", str(trained.absolute())]
    BUILD.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=BUILD) as folder, served(data, 1_000_000) as port:
        setting = Setting(Path(folder), port, _extract(data, Path(folder), quick), encoders)
        found = _measure(setting, SEEDS[:1] if quick else SEEDS, SHARES[:1] if quick else SHARES)
    _print(Console(width=120), found)
    if found:
        print(f"appended {len(found)} records to {records.append(results, 'filter', device, found)}")


def _extract(archive: Path, folder: Path, quick: bool) -> dict[str, list[int]]:
    """Puts the targets' images into the folder, and numbers those of the auxiliary categories as the server does."""
    with zipfile.ZipFile(archive) as zipped:
        names = [name for name in zipped.namelist() if name.endswith(".jpg")]
        targets = sorted({name.split("/")[2] for name in names if name.startswith("target/")})
        chosen = set(targets[:QUICK_TARGETS] if quick else targets)
        zipped.extractall(folder, [n for n in names if n.startswith("target/") and n.split("/")[2] in chosen])
    numbers: dict[str, list[int]] = {}
    for number, name in enumerate(names):
        if name.startswith("auxiliary/"):
            numbers.setdefault(name.split("/")[1], []).append(number)
    return dict(sorted(numbers.items())[: QUICK_CATEGORIES if quick else None])


def _measure(setting: Setting, seeds: range, shares: tuple[float, ...]) -> list[Record]:
    """A record for each share of wrong labels and encoder."""
    kept: dict[tuple[float, str], list[tuple[float, float]]] = {}
    times: dict[tuple[float, str], list[float]] = {}
    peaks: dict[tuple[float, str], int] = {}
    draws = {seed: _draw(setting.numbers, seed) for seed in seeds}
    _crawl(setting, draws)
    for share, seed in itertools.product(shares, seeds):
        right = _mislabel(setting, draws[seed], seed, share)
        for encoder, words in setting.encoders.items():
            command = [*FASTLT, "filter", str(setting.catalog), *words, "--pictures", "1"]
            command += [f"--{split}={setting.folder / 'target' / split}" for split in ("train", "val")]
            seconds, peak = timed(command)  # with the embedding of what no seed before had
            kept.setdefault((share, encoder), []).append(_precision_and_recall(setting, right))
            times.setdefault((share, encoder), []).append(seconds)
            peaks[share, encoder] = max(peaks.get((share, encoder), 0), peak)
    return [
        {
            "case": f"{share:.0%} wrong, {encoder}",
            "impl": "fastlt",
            **records.milliseconds(times[share, encoder]),
            "peak_bytes": peaks[share, encoder],
            "share": share,
            "precision": [precision for precision, _ in pairs],
            "recall": [recall for _, recall in pairs],
        }
        for (share, encoder), pairs in kept.items()
    ]


def _draw(numbers: dict[str, list[int]], seed: int) -> dict[int, str]:
    """{number of an image: its category}."""
    rng = np.random.default_rng(seed)
    return {int(n): name for name, found in numbers.items() for n in rng.choice(found, IMAGES, replace=False)}


def _crawl(setting: Setting, draws: dict[int, dict[int, str]]) -> None:
    """Crawls all that is drawn, under its own category."""
    listed, images = setting.folder / "list.csv", {n: name for draw in draws.values() for n, name in draw.items()}
    listed.write_text("url,label\n" + "".join(f"{setting.url(n)},{name}\n" for n, name in images.items()))
    polite = ["--contact", "bench@example.org", "--allow-private", "--rate", "0", "--per-host", "64"]
    timed([*FASTLT, "crawl", str(setting.crawled), "--urls", str(listed), *polite, "--duplicates", "-1"])
    with Catalog(setting.crawled) as catalog:
        catalog.connection.execute("PRAGMA journal_mode = DELETE")  # so that one file is all of it
        catalog.shards_folder.rename(setting.catalog.with_name(f"{setting.catalog.stem}_shards"))


def _mislabel(setting: Setting, drawn: dict[int, str], seed: int, share: float) -> dict[str, bool]:
    """Makes a catalog of the drawn images, with a share of them mislabeled; {URL: whether its label is right}."""
    rng, names = np.random.default_rng([seed, round(100 * share)]), list(setting.numbers)
    wrong = set(rng.permutation(list(drawn))[: round(share * len(drawn))].tolist())
    others = dict(zip(drawn, rng.integers(1, len(names), len(drawn)).tolist(), strict=True))
    shutil.copy(setting.crawled, setting.catalog)
    with Catalog(setting.catalog) as catalog, catalog.transaction():
        ids = {row["name"]: row["id"] for row in catalog.categories()}
        images = {row["url"]: row["id"] for row in catalog.connection.execute("SELECT id, url FROM candidate")}
        chosen = {images[setting.url(n)]: (n, name) for n, name in drawn.items()}
        unchosen = [(image,) for image in images.values() if image not in chosen]
        catalog.connection.executemany("DELETE FROM image WHERE id = ?", unchosen)
        for image, (n, name) in chosen.items():
            if n in wrong:
                other = ids[names[(names.index(name) + others[n]) % len(names)]]
                catalog.connection.execute("UPDATE image SET category = ? WHERE id = ?", [other, image])
    return {setting.url(n): n not in wrong for n in drawn}


def _precision_and_recall(setting: Setting, truth: dict[str, bool]) -> tuple[float, float]:
    with Catalog(setting.catalog) as catalog:
        query = "SELECT url, image.state FROM image JOIN candidate USING (id)"
        kept = {url: state == "kept" for url, state in catalog.connection.execute(query)}
        catalog.connection.execute("PRAGMA journal_mode = DELETE")
    if kept.keys() != truth.keys():
        raise RuntimeError(f"{len(kept):,} of {len(truth):,} images were crawled: nothing to measure.")
    right = sum(kept[url] for url, is_right in truth.items() if is_right)
    return right / max(1, sum(kept.values())), right / sum(truth.values())


def _print(console: Console, found: list[Record]) -> None:
    table = Table(title="what filter keeps of mislabeled images, without options", title_justify="left")
    for column in ("case", "precision", "worst", "recall", "worst", "seeds", "seconds"):
        table.add_column(column, justify="left" if column == "case" else "right", no_wrap=True)
    for r in found:
        numbers = [f"{pick(r[what]):.3f}" for what in ("precision", "recall") for pick in (np.mean, min)]
        table.add_row(r["case"], *numbers, str(len(r["recall"])), f"{r['median_ms'] / 1000:.1f}")
    console.print(table)
    for r in found:
        if r["share"] == SHARE_GOAL and MODEL in r["case"] and len(r["recall"]) == len(SEEDS):
            for what in ("precision", "recall"):
                tables.print_target(console, f"mean {what}, {r['case']}", float(np.mean(r[what])), MEAN_GOAL)
                tables.print_target(console, f"worst {what}, {r['case']}", min(r[what]), WORST_GOAL)
