"""`fastlt demo`: the whole path on drawn species, offline, in minutes; ends with a table and a report.

Every step is the command that a user would type. Language model and web site are `world.py`.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from fastlt.demo.species import draw_dataset
from fastlt.demo.world import DemoWorld
from fastlt.evaluation.report import report, text_table
from fastlt.label_space import LabelSpace

# Name, data set, changed keys of the recipe.
TARGETS_ALONE = [
    ("cross-entropy", "targets", ["loss.tau=0", "loss.lambda_s=1"]),
    ("balanced", "targets", ["loss.lambda_s=1"]),
]
WITH_AUXILIARY = ("balanced+auxiliary+silencing", "crawled", ["loss.lambda_s=0.1"])
RECIPE = "demo/species"
MINUTES = 3  # on two cores


def demo(out: Path, ranks: int = 2) -> None:
    """From class names to a report, all below `out`: discover, crawl, filter, encode, train, evaluate.

    Raises:
        ValueError: `out` exists, or a step failed.
    """
    if out.exists():
        raise ValueError(f"{out} exists already: remove it or choose another folder with --out.")
    started = time.monotonic()
    print(f"From class names to a report on this machine, offline: about {MINUTES} minutes on two cores.", flush=True)
    species, catalog, sheet = out / "species", out / "species.sqlite", out / "contact_sheet.html"
    folders = ["--train", species / "train", "--val", species / "val"]
    _headline("drawing species: 32 target classes with 160 to 5 images")
    draw_dataset(species)
    with DemoWorld(species) as world:
        _headline("discover: a language model names auxiliary species")
        endpoint = ["--base-url", world.llm_url, "--model", "demo"]
        _fastlt("discover", catalog, "--classes", species / "train", *endpoint, "--categories", 3)
        _headline("crawl: their images, from a web site")
        source = ["--source", "openverse", "--source-url", f"openverse={world.openverse_url}", "--per-category", 60]
        manners = ["--contact", "demo@localhost", "--allow-private", "--rate", 0, "--api-rate", 0]
        _fastlt("crawl", catalog, *source, *manners, "--quality", 95)
    _headline("encode: the target classes alone")
    _fastlt("encode", out / "targets", *folders, "--mode", "raw")
    runs = [_train(out, *arm, ranks) for arm in TARGETS_ALONE]
    _headline("filter: with what the balanced run has learned to see")
    # A small encoder finds all drawings alike.
    thresholds = ["--duplicate", 0.995, "--hash-radius", 4]
    _fastlt("filter", catalog, *folders, "--run", runs[-1], *thresholds, "--sheet", sheet)
    _fastlt("status", catalog)
    _headline("encode: the target classes and what filter kept")
    _fastlt("encode", out / "crawled", *folders, "--catalog", catalog, "--mode", "raw")
    runs.append(_train(out, *WITH_AUXILIARY, ranks))
    _headline("evaluate")
    _fastlt("evaluate", *runs)
    report(runs, out / "report.html", sheet)
    space = LabelSpace.load(out / "crawled" / "label_space.json")
    print(f"\nMean per-class accuracy on the {space.num_targets} target classes, in %\n\n{text_table(runs)}\n")
    print(f"Report: {out / 'report.html'}   ({time.monotonic() - started:.0f} s in all)")


def _train(out: Path, name: str, data: str, overrides: list[str], ranks: int) -> Path:
    """Trains one arm; returns its run."""
    _headline(f"train: {name}")
    run = out / "runs" / name
    _fastlt("train", RECIPE, f"data.path={out / data}", f"output={run}", *overrides, "--ranks", ranks)
    return run


def _fastlt(*words: object) -> None:
    """Runs a command of this installation as a user would type it, and shows what was typed.

    Raises:
        ValueError: it ended with an error, which it has printed.
    """
    print("$ fastlt", *words, flush=True)
    done = subprocess.run([sys.executable, "-m", "fastlt.cli", *map(str, words)], check=False)
    if done.returncode:
        raise ValueError(f"`fastlt {words[0]}` failed with exit status {done.returncode}; what it said stands above.")


def _headline(text: str) -> None:
    print(f"\n== {text}", flush=True)
