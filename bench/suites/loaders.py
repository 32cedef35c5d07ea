"""What `bench/run.py loaders` measures: images/s of data pipelines and of encoding, and the cost of resuming.

Pipelines read photographs of ordinary size and Tiny-ImageNet-LT, in two transforms: "crop" is decoding, random resized
crop and flip; "full" adds the authors' RandAugment. A storage is what a pipeline reads: the original files, or JPEGs or
raw pixels of a .beton file, capped at so many pixels on the longer side. "ffcv scaled" is our loader with
`data.scaled_decoding`, which is also measured on photographs for images of half the size.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from bench.harness import bars, records, tables
from bench.harness.processes import FASTLT, timed
from bench.harness.records import SCALED, Record
from bench.harness.turns import Arm, take_turns
from bench.inputs import image_sets
from bench.inputs.image_sets import BUILD, ImageSet
from bench.peers import pipelines, recompress, uint8_pipelines
from fastlt.loaders.loader import Normalize, TrainLoader
from fastlt.loaders.sampler import EpochPlan

ROUNDS, SECONDS, WARM_UP = 5, 4.0, 1.5
QUICK_SECONDS, QUICK_WARM_UP = 0.2, 0.1
PHOTOGRAPHS, ENCODED_PHOTOGRAPHS = 2048, 8192
SAMPLES, QUICK_SAMPLES = 10_000_000, 100_000
CAP = 400  # pixels
ENCODING, RESUMING = "encode", "resume"
PHOTOGRAPH_SIZE = 224
PEERS = {
    "timm": pipelines.timm,
    "authors": pipelines.authors,
    "torchvision v2": uint8_pipelines.torchvision_v2,
    "spdl": uint8_pipelines.spdl,
}
SETTINGS = pipelines.SETTINGS | uint8_pipelines.SETTINGS


@dataclass(frozen=True)
class Storage:
    """A way to encode an image set; see `fastlt encode`."""

    name: str
    words: tuple[str, ...]
    backends: tuple[str, ...]

    @property
    def folder(self) -> str:
        return self.name.replace(" ", "_")


FILES = Storage("files", ("--format", "plain"), ("plain",))
TAR = Storage("files", ("--format", "webdataset"), ("dali",))
JPG, RAW = Storage("jpg", ("--mode", "jpg"), ("ffcv",)), Storage("raw", ("--mode", "raw"), ("ffcv",))
CAPPED = [
    Storage(f"{mode} {CAP}", ("--mode", mode, "--max-resolution", str(CAP)), ("ffcv",)) for mode in ("jpg", "raw")
]


def run(
    device: torch.device, quick: bool, results: Path, cases: Sequence[str] = ("",), seconds: float | None = None
) -> None:
    """Measures what is chosen; appends the records, prints the tables and targets, draws the picture.

    Args:
        device, quick, results: see `bench/run.py`.
        cases: texts, one of which the name of a case contains.
        seconds: of each pipeline in each round; None for the usual.

    Raises:
        SystemExit: no case is named so.
    """
    console, found = Console(width=120), []

    def keep(made: list[Record]) -> Path:  # at once: what comes next may be killed
        found.extend(made)
        return records.append(results, "loaders", device, made)

    BUILD.mkdir(exist_ok=True)  # on the disk, as data sets are
    with tempfile.TemporaryDirectory(dir=BUILD) as scratch:
        sets = list(_image_sets(Path(scratch), quick))
        names = [case for images, _ in sets for case in _cases(images, quick)] + [RESUMING]
        chosen = [name for name in names if any(text in name for text in cases)]
        if not chosen:
            raise SystemExit(f"--cases {' '.join(cases)}: no case is named so. There are: {'; '.join(names)}.")
        for images, storages in sets:
            for made in measure_pipelines(console, images, storages, Path(scratch), quick, chosen, seconds):
                keep(made)
            if f"{ENCODING} {images.name}" in chosen:
                keep(measure_encoding(images, Path(scratch), quick))
    file = keep(measure_resuming(QUICK_SAMPLES if quick else SAMPLES) if RESUMING in chosen else [])
    tables.print_rates(console, f"loaders, on {records.device_name(device)}", found)
    _print_targets(console, found)
    console.print(f"appended {len(found)} records to {file}", highlight=False, soft_wrap=True)
    if rates := [r for r in records.of_last_commit(file) if "images_per_s" in r]:
        picture = bars.draw(rates, records.path(results, "loaders", device, ".png"), "loaders", device)
        console.print(f"drew {picture}", highlight=False, soft_wrap=True)


def _image_sets(scratch: Path, quick: bool) -> Iterator[tuple[ImageSet, list[Storage]]]:
    if quick:
        yield image_sets.drawn(scratch / "drawn"), [FILES, JPG]
        return
    makers: dict[str, tuple[Callable[[Path], ImageSet | None], list[Storage]]] = {
        "photographs": (partial(image_sets.photographs, images=PHOTOGRAPHS), [FILES, TAR, JPG, *CAPPED]),
        "tin_lt": (image_sets.tin_lt, [FILES, TAR, JPG, RAW]),
    }
    for name, (make, storages) in makers.items():
        images = make(scratch / name)
        if images:
            yield images, storages
        else:
            print(f"{name}: skipped, there is no {image_sets.DATA.name}/ with them beside the checkout.")


def _cases(images: ImageSet, quick: bool) -> list[str]:
    """Names of all that is measured on these images."""
    return [*_pipeline_cases(images), *([f"{ENCODING} {images.name}"] if quick or images.name == "photographs" else [])]


def _pipeline_cases(images: ImageSet) -> dict[str, tuple[int, str]]:
    """{name: (pixels that an image gets, transform)}."""
    cases = [(images.size, transform) for transform in pipelines.RAND_AUGMENT]
    cases += [(images.size // 2, "crop")] if images.size == PHOTOGRAPH_SIZE else []
    return {f"{images.name} {size} px, {transform}": (size, transform) for size, transform in cases}


def measure_pipelines(
    console: Console,
    images: ImageSet,
    storages: list[Storage],
    scratch: Path,
    quick: bool,
    names: Sequence[str],
    seconds: float | None,
) -> Iterator[list[Record]]:
    """Every pipeline on every storage that it reads, for each case of these names."""
    chosen = {case: what for case, what in _pipeline_cases(images).items() if case in names}
    encoded = _encode(console, images, storages, scratch) if chosen else {}
    turn, warm_up = (QUICK_SECONDS, QUICK_WARM_UP) if quick else (seconds or SECONDS, min(WARM_UP, seconds or WARM_UP))
    for case, (size, transform) in chosen.items():
        found: list[Record] = []
        arms = _arms(images, encoded, size, transform)
        if quick and transform == "full":
            arms = {key: arm for key, arm in arms.items() if key[0] in ("ffcv", "authors")}
        turns = take_turns(arms, 2 if quick else ROUNDS, turn, warm_up, pipelines.PRELOAD)
        for (impl, of), reason in turns.skipped.items():
            console.print(f"skipped: {impl} of {of} on {case}: {reason}", highlight=False)
        for (impl, of), rates in turns.rates.items():
            record = {"case": case, "impl": impl, "storage": of, **records.rate(rates)}
            record |= {"peak_bytes": turns.peaks[impl, of], "workers": pipelines.CORES, "seconds": turn}
            found.append(record | ({"note": SETTINGS[impl]} if impl in SETTINGS else {}))
        yield found


def _encode(console: Console, images: ImageSet, storages: list[Storage], scratch: Path) -> dict[Storage, Path]:
    """The images in each storage that can be had."""
    encoded = {}
    for storage in storages:
        out = scratch / f"{images.name}_{storage.backends[0]}_{storage.folder}"
        done = subprocess.run(
            [*FASTLT, "encode", str(out), *images.encode_words(), *storage.words], capture_output=True
        )
        if done.returncode:
            said = done.stderr.decode().strip().splitlines()[-1]
            console.print(f"skipped: {storage.backends[0]} on {storage.name}: {said}", highlight=False)
        else:
            encoded[storage] = out
    return encoded


def _arms(images: ImageSet, encoded: dict[Storage, Path], size: int, transform: str) -> dict[tuple[str, str], Arm]:
    """By pipeline and storage; of another size than the usual one only what scaled decoding is held against."""
    arms: dict[tuple[str, str], Arm] = {}
    for storage, out in encoded.items():
        for backend in storage.backends:
            arms[backend, storage.name] = partial(pipelines.fastlt, out, backend, size, transform, False)
        if storage.backends == ("ffcv",):
            arms["ffcv's loader", storage.name] = partial(uint8_pipelines.ffcv_loader, out, size, transform)
        if storage.name.startswith("jpg") and transform == "crop" and images.size == PHOTOGRAPH_SIZE:
            arms[SCALED, storage.name] = partial(pipelines.fastlt, out, "ffcv", size, transform, True)
    for impl, peer in PEERS.items():
        arms[impl, "files"] = partial(peer, images.train, size, transform)
    if size != images.size:
        arms = {(impl, of): arm for (impl, of), arm in arms.items() if impl in ("ffcv", SCALED) and "jpg" in of}
    if transform == "crop":
        arms["turbojpeg", "files"] = partial(pipelines.turbojpeg, images.train)
        for storage, out in encoded.items():
            if storage.name.startswith("jpg"):
                arms["turbojpeg", storage.name] = partial(pipelines.turbojpeg, out)
    return arms


def measure_encoding(images: ImageSet, scratch: Path, quick: bool) -> list[Record]:
    """`fastlt encode` and the bare pool, as processes from start to end."""
    if images.name == "photographs":  # more of them, as starting takes a second or so
        more = image_sets.photographs(scratch / "to_encode", ENCODED_PHOTOGRAPHS)
        assert more, "they are at hand"
        images = more
    cap = CAP if images.size == PHOTOGRAPH_SIZE else images.size // 2
    folders = [str(folder) for folder in images.splits]
    number = sum(1 for folder in images.splits for _ in folder.glob("*/*"))
    found = []
    for mode in ("jpg",) if quick else ("jpg", "raw"):
        out = scratch / "encoded"
        storing = ["--mode", mode, "--max-resolution", str(cap)]
        pool = [sys.executable, str(Path(recompress.__file__)), mode, str(cap), str(pipelines.CORES), *folders]
        commands = {"fastlt": [*FASTLT, "encode", str(out), *images.encode_words(), *storing], "recompress": pool}
        rates: dict[str, list[float]] = {impl: [] for impl in commands}
        peaks = dict.fromkeys(commands, 0)
        for _ in range(1 if quick else 3):
            for impl, command in commands.items():
                seconds, peak = timed(command)
                rates[impl].append(number / seconds)
                peaks[impl] = max(peaks[impl], peak)
                shutil.rmtree(out, ignore_errors=True)
        for impl in commands:
            record = {"case": f"{ENCODING} {images.name}", "impl": impl, "storage": f"{mode} {cap}"}
            found.append(record | records.rate(rates[impl]) | {"peak_bytes": peaks[impl], "images": number})
    return found


def measure_resuming(samples: int) -> list[Record]:
    """From constructing a loader to knowing its first batch, at the start and in the middle of an epoch."""
    targets, auxiliaries = 8_000, 4_000
    counts = np.full(targets + auxiliaries, samples // (targets + auxiliaries))
    counts[: samples % len(counts)] += 1
    labels = np.repeat(np.arange(len(counts)), counts)
    normalize = Normalize((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), torch.device("cpu"))
    found = []
    for where, position in {"start": 0, "middle": samples // 2 // pipelines.BATCH * pipelines.BATCH}.items():
        times = []
        for _ in range(ROUNDS):
            started = time.perf_counter()
            plan = EpochPlan(counts, counts, targets, seed=0)
            loader = TrainLoader(_NoImages(), plan, labels, normalize, pipelines.BATCH)
            loader.load_state_dict({"samples": position})
            next(iter(loader))
            times.append(time.perf_counter() - started)
        case = f"{RESUMING} at the {where} of {samples:,} samples"
        found.append({"case": case, "impl": "fastlt", **records.milliseconds(times), "peak_bytes": 0})
    return found


class _NoImages:
    """An image reader that reads nothing: one black pixel for each key."""

    def batches(self, keys: Iterable[np.ndarray]) -> Iterator[Tensor]:
        for batch in keys:
            yield torch.zeros(len(batch), 3, 1, 1, dtype=torch.uint8)


def _print_targets(console: Console, found: list[Record]) -> None:
    console.print("targets", highlight=False)
    rates = {(r["case"], r["impl"], r.get("storage")): r["images_per_s"] for r in found if "images_per_s" in r}
    for (case, impl, storage), rate in rates.items():
        what = f"{case}: {impl} of {storage}"
        authors, limit = rates.get((case, "authors", "files")), rates.get((case, "turbojpeg", storage))
        recompressed = rates.get((case, "recompress", storage))
        if impl == "ffcv" and case.endswith("crop") and limit:
            tables.print_target(console, f"{what}, over turbojpeg", rate / limit, 0.8)
        if impl == "ffcv" and case.endswith("crop") and authors:
            tables.print_target(console, f"{what}, over authors", rate / authors, 3)
        if impl == SCALED and limit and f" {PHOTOGRAPH_SIZE // 2} px" in case:
            tables.print_target(console, f"{what}, over turbojpeg", rate / limit, 1.5)
        if impl in ("ffcv", "dali") and case.endswith("full") and authors:
            tables.print_target(console, f"{what}, over authors", rate / authors, 2)
        if impl == "fastlt" and recompressed:
            tables.print_target(console, f"{what}, over recompress", rate / recompressed, 0.8)
    for r in found:
        if r["case"].startswith(RESUMING):
            tables.print_target(console, f"{r['case']}, seconds", r["median_ms"] / 1000, 5, at_most=True)
