"""`fastlt demo`: the whole path on drawn species, offline, in minutes; ends with a table and a report."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from fastlt.data_prep.drawn_species import draw_dataset
from fastlt.data_prep.encode import encode
from fastlt.data_prep.storage import Storage
from fastlt.finished_run import FinishedRun
from fastlt.reporting import report, text_table

ARMS = {
    "cross-entropy": ["data.auxiliary=false", "loss.tau=0", "loss.lambda_s=1"],
    "balanced": ["data.auxiliary=false", "loss.lambda_s=1"],
    "balanced+auxiliary+silencing": ["loss.lambda_s=0.1"],
}
ROOT = Path(__file__).resolve().parent.parent
RECIPE = ROOT / "configs" / "demo" / "species.yaml"


def demo(out: Path, ranks: int = 2) -> None:
    """Draws, encodes, trains three arms through the DeepSpeed launcher, evaluates, reports; all below `out`.

    Raises:
        ValueError: `out` exists, there is no checkout around the package, or an arm failed.
    """
    if not RECIPE.is_file():
        raise ValueError("the demo runs from a checkout of fastlt, which has configs/demo beside the package.")
    if out.exists():
        raise ValueError(f"{out} exists already: remove it or choose another folder with --out.")
    started = time.monotonic()
    _headline("drawing species")
    draw_dataset(out / "species")
    _headline("encoding")
    space = encode(
        out / "encoded",
        train=out / "species" / "train",
        val=out / "species" / "val",
        auxiliary=out / "species" / "auxiliary",
        neighbors=out / "species" / "neighbors.json",
        storage=Storage(mode="raw"),
    )
    runs = []
    for name, overrides in ARMS.items():
        _headline(f"training: {name}")
        run = out / "runs" / name
        train(RECIPE, [f"data.path={out / 'encoded'}", f"output={run}", *overrides], ranks)
        FinishedRun(run).evaluate("val").save(run, space, weights="last", split="val")
        runs.append(run)
    report(runs, out / "report.html")
    print(f"\nMean per-class accuracy on the {space.num_targets} target classes, in %\n\n{text_table(runs)}\n")
    print(f"Report: {out / 'report.html'}   ({time.monotonic() - started:.0f} s in all)")


def train(recipe: Path, overrides: list[str], ranks: int) -> None:
    """Runs fastlt/train.py through the DeepSpeed launcher, as a user would type it.

    Raises:
        ValueError: the launcher ended with an error, which it has printed.
    """
    launcher = Path(sys.executable).with_name("deepspeed")
    command = [str(launcher), "--num_accelerators", str(ranks), "--quiet", str(ROOT / "fastlt" / "train.py")]
    environment = os.environ | {"PATH": f"{launcher.parent}{os.pathsep}{os.environ['PATH']}"}  # for ninja
    done = subprocess.run([*command, "--config", str(recipe), *overrides], env=environment, check=False)
    if done.returncode:
        raise ValueError(f"training failed with exit code {done.returncode}; what it said stands above.")


def _headline(text: str) -> None:
    print(f"\n== {text}", flush=True)
