"""What `bench/run.py train` measures: images/s of the trainer, layer by layer, and the loss's share of a step.

On a CPU a small ResNet learns Tiny-ImageNet-LT; on a GPU ViT-B/16 learns photographs in bfloat16. Impl "fastlt" is the
trainer with its data, "fastlt-resident" the trainer on batches that lie on the device, "bare" the backbone with plain
cross-entropy in a loop of its own. One process each, one rank.

Shapes: B batch, D features, C classes.
"""

from __future__ import annotations

import subprocess
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from bench.harness import bars, records, tables
from bench.harness.processes import FASTLT
from bench.harness.records import Record
from bench.harness.turns import Arm, take_turns
from bench.inputs import image_sets
from bench.inputs import label_spaces as cases
from bench.inputs.image_sets import BUILD, ROOT, ImageSet
from bench.suites import kernels as kernel_suite
from bench.suites import train_arms, train_ranks
from fastlt.backbone.create import create_backbone
from fastlt.classifier import device_dtype
from fastlt.recipe import Recipe, load_recipe
from fastlt.training.flops import forward_flops, peak_flops

# Many, as a machine's own ups and downs are larger than what is looked for; a GPU has few.
ROUNDS, SECONDS, WARM_UP = {"cpu": 15, "cuda": 5}, 4.0, 1.0
RANKS_SECONDS = 10.0
QUICK_ROUNDS, QUICK_SECONDS, QUICK_WARM_UP = 2, 0.3, 0.1
LOSS_SECONDS, QUICK_LOSS_SECONDS = {"cpu": 1.0, "cuda": 0.2}, 0.05
_LONG_TO_COMPILE: dict[str, tuple[str, ...]] = {"cpu": (), "cuda": ("compiled",)}
SPACES = ("1k", "inat18", "262k")  # of bench/inputs/label_spaces.py: 1,000, 32,568 and 262,144 classes
WHOLE = "forward+backward"
PHOTOGRAPHS, PHOTOGRAPH_CLASSES = 8192, 1000
INAT18_IMAGES = 437_513
VIT = [
    "model.name=vit_base_patch16_224", "model.pretrained=false", "optimizer.batch_size=256",
    "optimizer.head_only_epochs=0", "engine.precision=bfloat16", "engine.compile=true", "data.workers=0",
]  # fmt: skip


@dataclass(frozen=True)
class Setting:
    """What is trained: images, a recipe file and words that change it."""

    images: ImageSet
    recipe: Path
    words: list[str]
    storage: list[str]


def run(device: torch.device, quick: bool, results: Path, ranks: list[int] | None = None) -> None:
    """Measures everything; appends the records, prints the tables and targets, draws the picture.

    Args:
        ranks: numbers of ranks to train on; by default 1, 2, 4 and so on up to the GPUs.
    """
    console = Console(width=120)
    BUILD.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=BUILD) as scratch:
        setting = _setting(Path(scratch), device, quick)
        recipe, found = measure_training(setting, Path(scratch), device, quick)
        tables.print_rates(console, f"train, on {records.device_name(device)}", found)
        # At once, in case the time is up before the rest is measured.
        file = records.append(results, "train", device, found)
        if ranks := train_ranks.to_measure(ranks, device.type):
            seconds, batch_size = QUICK_SECONDS if quick else RANKS_SECONDS, recipe.optimizer.batch_size
            words = [*setting.words, *train_arms.FOREVER, f"data.path={Path(scratch) / 'encoded'}"]
            command, case = [*FASTLT, "train", str(setting.recipe), *words], found[0]["case"]
            scaling = train_ranks.measure(case, command, batch_size, ranks, device.type, Path(scratch), seconds)
            tables.print_rates(console, "fastlt train on several ranks", scaling)
            each = ", ".join(f"{r['efficiency']:.3g} on {r['ranks']}" for r in scaling[1:])
            if each:
                console.print(f"images/s a rank, over those of {ranks[0]}: {each}", highlight=False)
            records.append(results, "train", device, scaling)
            found += scaling
    bare_ms = 1000 * recipe.optimizer.batch_size / next(r["images_per_s"] for r in found if r["impl"] == "bare")
    shares = measure_loss(console, recipe, bare_ms, device, quick)
    _print_shares(console, shares, bare_ms)
    _print_targets(console, found, shares, device)
    records.append(results, "train", device, shares)
    picture = bars.draw(found, records.path(results, "train", device, ".png"), "train", device)
    console.print(f"appended {len(found + shares)} records to {file}\ndrew {picture}", highlight=False, soft_wrap=True)


def _setting(scratch: Path, device: torch.device, quick: bool) -> Setting:
    configs = ROOT / "configs"
    if quick:
        smoke = configs / "tiny_imagenet_lt" / "resnet_smoke.yaml"
        return Setting(image_sets.drawn(scratch / "drawn"), smoke, [], ["--mode", "raw"])
    storage = ["--mode", "raw", "--max-resolution", "400"]
    if device.type == "cuda":
        recipe, words = configs / "imagenet_lt" / "dinov2_vitb14.yaml", VIT
        images = image_sets.photographs(scratch / "photographs", PHOTOGRAPHS, PHOTOGRAPH_CLASSES)
    else:
        recipe, words = configs / "tiny_imagenet_lt" / "resnet.yaml", []
        images = image_sets.tin_lt(scratch / "tin_lt")
    if images is None:
        print(f"there is no {image_sets.DATA.name}/ with real images beside the checkout: drawn species stand in.")
        images = image_sets.drawn(scratch / "drawn", 224 if device.type == "cuda" else 64)
    return Setting(images, recipe, words, storage)


def measure_training(setting: Setting, scratch: Path, device: torch.device, quick: bool) -> tuple[Recipe, list[Record]]:
    """(the recipe, records of the three arms)."""
    encoded = scratch / "encoded"
    words = [*FASTLT, "encode", str(encoded), *setting.images.encode_words(), *setting.storage]
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
    words = [*setting.words, *train_arms.FOREVER, f"data.path={encoded}"]
    arms: dict[str, Arm] = {
        impl: partial(arm, setting.recipe, [*words, f"output={scratch / impl}"], device.type)
        for impl, arm in {
            "fastlt": train_arms.real,
            "fastlt-resident": train_arms.resident,
            "bare": train_arms.bare,
        }.items()
    }
    plan = (QUICK_ROUNDS, QUICK_SECONDS, QUICK_WARM_UP) if quick else (ROUNDS[device.type], SECONDS, WARM_UP)
    turns = take_turns(arms, *plan)
    recipe = load_recipe(setting.recipe, [*words, f"output={scratch}"])
    dtype = device_dtype(recipe.engine.precision, device)
    case = (
        f"{recipe.model.name} on {setting.images.name} {recipe.data.image_size} px, "
        f"B={recipe.optimizer.batch_size} {str(dtype)[6:]}"
    )
    peak = peak_flops(device)
    flops = 3 * forward_flops(recipe.model, recipe.data.image_size, setting.images.num_classes)
    found = []
    for impl, rates in turns.rates.items():
        rate = records.rate(rates)
        record = {"case": case, "impl": impl, **rate, "peak_bytes": turns.peaks[impl]}
        record["storage"] = " ".join(word for word in setting.storage if not word.startswith("--"))
        if impl == "fastlt":  # of turns that followed each other, which a slow minute slows alike
            low, middle, high = records.spread(np.divide(rates, turns.rates["fastlt-resident"]))
            record |= {"over_resident": middle, "over_resident_p20_p80": [low, high]}
        found.append(record | ({"mfu": flops * rate["images_per_s"] / peak} if peak else {}))
    return recipe, found


def measure_loss(console: Console, recipe: Recipe, bare_ms: float, device: torch.device, quick: bool) -> list[Record]:
    """Forward + backward of the loss on logits, by implementation and C; `share` is that of a step.

    A step is then the bare one, and the classifier with its loss. That the bare one has a small classifier, too, makes
    shares smaller by less than their spread.
    """
    with torch.device("meta"):
        backbone = create_backbone(recipe.model.model_copy(update={"pretrained": False}), recipe.data.image_size)
    B, D = recipe.optimizer.batch_size, int(backbone.head_hidden_size)  # type: ignore[arg-type]
    dtype = device_dtype(recipe.engine.precision, device)
    seconds = QUICK_LOSS_SECONDS if quick else LOSS_SECONDS[device.type]
    shares = []
    for space in SPACES[:1] if quick else SPACES:
        measured = []
        for dim in (0, D):
            case = cases.draw(space, B, dim, dtype, device)
            found, skipped = kernel_suite.measure_case(case, seconds, quick, {}, _LONG_TO_COMPILE[device.type])
            measured.append({r["impl"]: r for r in found if r["pass"] == WHOLE})
            for line in skipped:
                console.print(f"skipped: {line}", highlight=False)
        of_logits, with_classifier = measured
        for impl, record in of_logits.items():
            whole = with_classifier.get(impl) or with_classifier["fastlt"]
            shares.append(record | {"share": record["median_ms"] / (bare_ms + whole["median_ms"])})
    return shares


def _print_shares(console: Console, shares: list[Record], bare_ms: float) -> None:
    table = Table(title=f"the loss's share of a step, beside a bare step of {bare_ms:.1f} ms", title_justify="left")
    for column in ("case", "impl", "ms", "p20..p80", "share"):
        table.add_column(column, no_wrap=True, justify="left" if column in ("case", "impl") else "right")
    for r in shares:
        spread = f"{r['p20_ms']:.2f}..{r['p80_ms']:.2f}"
        table.add_row(r["case"], r["impl"], f"{r['median_ms']:.2f}", spread, f"{r['share']:.2%}")
    console.print(table)


def _print_targets(console: Console, found: list[Record], shares: list[Record], device: torch.device) -> None:
    console.print("targets", highlight=False)
    of = {r["impl"]: r for r in found}
    rate, resident, bare = (of[impl]["images_per_s"] for impl in ("fastlt", "fastlt-resident", "bare"))
    low, high = of["fastlt"]["over_resident_p20_p80"]
    what = f"trainer with its data, over resident batches (p20..p80 {low:.3g}..{high:.3g})"
    tables.print_target(console, what, of["fastlt"]["over_resident"], 0.95)
    console.print(f"  trainer on resident batches, over the bare model: {resident / bare:.3g}", highlight=False)
    if device.type == "cuda":
        if "mfu" in of["fastlt"]:
            tables.print_target(console, "MFU of the trainer", of["fastlt"]["mfu"], 0.45)
            console.print(f"  MFU of the bare model: {of['bare']['mfu']:.3g}", highlight=False)
        for r in shares:
            if r["C"] > 32_000 and r["C"] < 33_000 and r["impl"] == "fastlt":
                tables.print_target(console, f"share of the loss, {r['case']}", r["share"], 0.03, at_most=True)
        auxiliary = cases.SPACES["inat18"][1] * cases.AUXILIARY_COUNT
        minutes = [images / rate / 60 for images in (INAT18_IMAGES, INAT18_IMAGES + auxiliary)]
        console.print(
            f"  an epoch of iNat18 at this rate: {minutes[0]:.1f} min, with {auxiliary:,.0f} auxiliary images "
            f"{minutes[1]:.1f} min, on this one device",
            highlight=False,
        )
