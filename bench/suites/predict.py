"""What `bench/run.py predict` measures: images/s of `fastlt predict` beside those of the trainer's loader.

Both read the same photographs at 224 px, predict from files and the loader from an encoded set, as it evaluates. The
network is so small that reading takes the time. Starting takes no part: rates are of what a longer run takes longer.
"""

from __future__ import annotations

import io
import multiprocessing
import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from bench.harness import records, tables
from bench.harness.processes import FASTLT, tree_bytes
from bench.harness.records import Record
from bench.inputs import image_sets
from bench.inputs.image_sets import BUILD, ImageSet
from fastlt.backbone.create import create_backbone
from fastlt.cores import available_cores, keep_freed_memory
from fastlt.dataset.encoded import EncodedDataset
from fastlt.loaders.loader import EvalLoader
from fastlt.loaders.normalize import Normalize
from fastlt.loaders.readers import open_reader
from fastlt.loaders.transform import Transform
from fastlt.prediction.predict import predict
from fastlt.prediction.predictor import Predictor
from fastlt.recipe import ModelRecipe

IMAGES, QUICK_IMAGES, ROUNDS, BATCH = 6_144, 512, 3, 64
MODEL, CLASSES = "test_resnet", 64
GOAL = 0.9


def run(device: torch.device, quick: bool, results: Path) -> None:
    """Measures both in turn; appends the records and prints them."""
    console = Console(width=120)
    BUILD.mkdir(exist_ok=True)
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(dir=BUILD) as folder, ProcessPoolExecutor(1, spawn) as process:
        images = image_sets.photographs(Path(folder, "photographs"), QUICK_IMAGES if quick else IMAGES, CLASSES)
        if images is None:
            print("skipped: there are no photographs.")
            return
        encode = [*FASTLT, "encode", f"{folder}/encoded", *images.encode_words()]
        subprocess.run(encode, check=True, stdout=subprocess.DEVNULL)
        found = process.submit(measure, images, Path(folder), device.type).result()
    tables.print_rates(console, f"prediction, on {records.device_name(device)}", found)
    tables.print_target(console, "fastlt predict, over the loader", found[0]["over_loader"], GOAL)
    print(f"appended {len(found)} records to {records.append(results, 'predict', device, found)}")


def measure(images: ImageSet, folder: Path, device: str) -> list[Record]:
    """Records of both; to be called in a process of its own."""
    if device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        keep_freed_memory()
    where = torch.device(device)
    model = create_backbone(ModelRecipe(name=MODEL), 224, CLASSES).eval().to(where)
    normalize = Normalize((0.5,) * 3, (0.5,) * 3, where)
    predictor = Predictor(
        MODEL, tuple(f"{i:05d}" for i in range(CLASSES)), Transform(224, train=False), normalize, model
    )
    files = sorted(map(str, images.train.glob("*/*.jpg")))
    encoded = EncodedDataset.open(folder / "encoded")
    labels = encoded.split("train").labels()

    def predicted(number: int) -> None:
        with redirect_stdout(io.StringIO()):
            predict(predictor, files[:number], folder / f"{number}.jsonl", "jsonl")

    def loaded(number: int) -> None:
        reader = open_reader(encoded, "train", Transform(224, train=False), BATCH, available_cores())
        with torch.inference_mode():
            for batch, _ in EvalLoader(reader, labels[:number], normalize, BATCH):
                model(batch)

    arms = {"fastlt": predicted, "loader": loaded}
    for arm in arms.values():
        arm(BATCH)  # compiles
    rates: dict[str, list[float]] = {name: [] for name in arms}
    for _ in range(ROUNDS):
        for name, arm in arms.items():
            rates[name].append(_rate(arm, len(files)))
    shares = [ours / theirs for ours, theirs in zip(rates["fastlt"], rates["loader"], strict=True)]
    about = {"case": f"predicting {len(files):,} photographs at 224 px, {MODEL}", "peak_bytes": tree_bytes(os.getpid())}
    return [
        about | {"impl": "fastlt", **records.rate(rates["fastlt"]), "over_loader": float(np.median(shares))},
        about | {"impl": "loader", **records.rate(rates["loader"])},
    ]


def _rate(arm: Callable[[int], None], number: int) -> float:
    """Images/s, by how much longer four times as many take."""
    seconds = []
    for images in (number // 4, number):
        started = time.perf_counter()
        arm(images)
        seconds.append(time.perf_counter() - started)
    return (number - number // 4) / (seconds[1] - seconds[0])
