"""Draws what was measured: time relative to fastlt, and peak memory against the number of classes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import matplotlib

from bench.harness.records import Record

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Patch
from matplotlib.ticker import LogFormatter

IMPLS = (
    "fastlt", "fastlt-inplace", "fastlt-sliced", "fastlt-unsilenced", "authors", "eager", "compiled", "torch-linear",
    "liger", "cce", "fastlt-graphed",
)  # fmt: skip
COLORS = dict(zip(IMPLS, (*matplotlib.color_sequences["tab10"], "black"), strict=True))


def draw_kernels(measured: list[Record], file: Path, device: str) -> Path:
    """Forward + backward: bars of time above, lines of peak memory below; logits left, features right."""
    whole = [r for r in measured if r["pass"] == "forward+backward"]
    cases = max(len({r["case"] for r in whole if (r["D"] > 0) == linear}) for linear in (False, True))
    figure, axes = plt.subplots(
        2, 2, figsize=(14, 7 + 1.5 * cases), layout="constrained", height_ratios=[2 + 1.5 * cases, 5]
    )
    figure.suptitle(f"neighbor-silencing loss, forward + backward, on {device}")
    for column, (title, chosen) in enumerate(
        {
            "A: loss on logits": [r for r in whole if r["D"] == 0],
            "B: features x weight to loss": [r for r in whole if r["D"] > 0],
        }.items()
    ):
        if chosen:
            _draw_times(axes[0, column], chosen)
            _draw_memory(axes[1, column], chosen)
        axes[0, column].set_title(title)
    names = [name for name in IMPLS if any(r["impl"] == name for r in whole)]
    figure.legend(
        handles=[Patch(color=COLORS[n], label=n) for n in names], loc="outside lower center", ncols=len(names)
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=120)
    plt.close(figure)
    return file


def _draw_times(axes: Axes, chosen: list[Record]) -> None:
    cases = list(dict.fromkeys(r["case"] for r in chosen))
    ours: dict[str, float] = {}
    for r in chosen:
        if r["impl"].startswith("fastlt"):
            ours.setdefault(r["case"], r["median_ms"])  # that of fastlt-sliced where whole logits do not fit
    present = [name for name in IMPLS if any(r["impl"] == name for r in chosen)]
    height = 0.8 / max(len(present), 1)
    for i, name in enumerate(present):
        of = {r["case"]: r["median_ms"] / ours[r["case"]] for r in chosen if r["impl"] == name and r["case"] in ours}
        places = [cases.index(case) + i * height for case in of]
        bars = axes.barh(places, list(of.values()), height, color=COLORS[name])
        axes.bar_label(bars, fmt="%.2f", fontsize=7, padding=2)
    labels = [case.rsplit(" ", 1)[0].split(" ", 1)[1].replace(" B=", "\nB=") for case in cases]
    axes.set_yticks([i + 0.4 - height / 2 for i in range(len(cases))], labels, fontsize=8)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.margins(x=0.12)  # for the numbers
    axes.axvline(1, color="gray", linewidth=0.8)
    axes.xaxis.set_major_formatter(LogFormatter())
    axes.xaxis.set_minor_formatter(LogFormatter(minor_thresholds=(1.5, 0.5)))
    axes.set_xlabel("time / fastlt (right of 1: slower)")


def _draw_memory(axes: Axes, chosen: list[Record]) -> None:
    spaces = {(r["C"], r["D"]) for r in chosen}
    dim = Counter(D for _, D in spaces).most_common(1)[0][0]  # the D of most label spaces
    for name in IMPLS:
        line = sorted((r["C"], r["peak_bytes"] / 1e6) for r in chosen if r["impl"] == name and r["D"] == dim)
        if line:
            axes.plot(*zip(*line, strict=True), marker="o", color=COLORS[name])
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("classes" + (f" (D={dim})" if dim else ""))
    axes.set_ylabel("peak MB of a call, gradients included")
    axes.yaxis.set_major_formatter(LogFormatter())
    axes.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(1.5, 0.5)))
    axes.grid(True, which="major", linewidth=0.3)
