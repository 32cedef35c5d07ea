"""What `bench/run.py tuning` measures: images/s and memory of the trainer, by what of the network is trained.

Each arm is the trainer with its data, in a process of its own: the same network, images and recipe but for
`model.tune`. Weights are drawn, as speed knows nothing of them. On a CPU the recipe is that of
studies/tin_wide_tuning.yaml, on a GPU that of ImageNet-LT by CLIP.
"""

from __future__ import annotations

import subprocess
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from bench.harness import records, tables
from bench.harness.processes import FASTLT
from bench.harness.records import Record
from bench.harness.turns import Arm, take_turns
from bench.inputs import image_sets
from bench.inputs.image_sets import BUILD, ROOT, ImageSet
from bench.suites import train_arms
from fastlt.recipe import load_recipe

ROUNDS, SECONDS, WARM_UP = 9, 8.0, 2.0
QUICK = (2, 0.3, 0.1)
_PIXELS = {"cpu": 64, "cuda": 224}
_RECIPES = {"cpu": "studies/recipes/tin_wide_lite0.yaml", "cuda": "configs/imagenet_lt/clip_vitb16.yaml"}
_TUNES = {"cpu": ("full", "head", "lora"), "cuda": ("full", "head", "lora", "adaptformer")}


def run(device: torch.device, quick: bool, results: Path) -> None:
    """Measures all ways in turn; appends the records and prints them."""
    console = Console(width=120)
    BUILD.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=BUILD) as scratch:
        images = image_sets.drawn(Path(scratch, "drawn"), 40 if quick else _PIXELS[device.type])
        found = measure(images, Path(scratch), device, QUICK if quick else (ROUNDS, SECONDS, WARM_UP))
    tables.print_rates(console, f"what tuning costs, on {records.device_name(device)}", found)
    for record in found[1:]:
        low, high = record["over_full_p20_p80"]
        console.print(
            f"  {record['impl']}, over full: {record['over_full']:.3g} of its images/s "
            f"(p20..p80 {low:.3g}..{high:.3g}), {record['peak_bytes'] / found[0]['peak_bytes']:.3g} of its memory",
            highlight=False,
        )
    print(f"appended {len(found)} records to {records.append(results, 'tuning', device, found)}")


def measure(images: ImageSet, scratch: Path, device: torch.device, plan: tuple[int, float, float]) -> list[Record]:
    """A record for each way to tune, `full` first."""
    encoded = scratch / "encoded"
    words = [*FASTLT, "encode", str(encoded), *images.encode_words(), "--mode", "raw"]
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
    file = ROOT / _RECIPES[device.type]
    size = f"data.image_size={_PIXELS[device.type]}"
    words = [
        *train_arms.FOREVER,
        f"data.path={encoded}",
        "model.pretrained=false",
        size,
        "optimizer.head_only_epochs=0",
    ]
    words += ["model.class_embeddings=null"]
    arms: dict[str, Arm] = {
        tune: partial(train_arms.real, file, [*words, f"model.tune={tune}", f"output={scratch / tune}"], device.type)
        for tune in _TUNES[device.type]
    }
    turns = take_turns(arms, *plan)
    recipe = load_recipe(file, [*words, f"output={scratch}"])
    case = f"{recipe.model.name} {recipe.data.image_size} px, B={recipe.optimizer.batch_size}"
    found = []
    for tune, rates in turns.rates.items():
        record = {"case": case, "impl": tune, **records.rate(rates), "peak_bytes": turns.peaks[tune]}
        if tune != "full":  # of turns that followed each other, which a slow minute slows alike
            low, middle, high = records.spread(np.divide(rates, turns.rates["full"]))
            record |= {"over_full": middle, "over_full_p20_p80": [low, high]}
        found.append(record)
    return found
