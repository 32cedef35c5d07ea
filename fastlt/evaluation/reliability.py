"""The reliability diagram: how often a prediction is right, over how sure the model is of it."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from fastlt.evaluation.page import plt
from fastlt.evaluation.shown_run import Shown


def reliability(runs: Sequence[Shown]) -> Figure:
    """Of the runs that have bins: accuracy of each bin over its mean confidence, and below how many images it has."""
    figure, (top, below) = plt.subplots(2, 1, figsize=(6.5, 6), height_ratios=(3, 1), sharex=True, layout="constrained")
    top.plot([0, 100], [0, 100], color="grey", linewidth=0.8, linestyle=":")
    for run in runs:
        assert run.bins is not None, "only runs with bins are drawn"
        images, confidence, correct = run.bins
        full = images > 0
        ece = run.numbers.get("ece")
        label = run.label if ece is None else f"{run.label}, ECE {ece:.1f}"
        x = 100 * confidence[full] / images[full]
        top.plot(x, 100 * correct[full] / images[full], color=run.color, marker="o", markersize=4, label=label)
        below.plot(x, 100 * images[full] / images.sum(), color=run.color, marker=".")
    top.text(97, 4, "below the line: more sure than right", ha="right", fontsize=8, color="grey")
    top.set(ylabel="right, %", xlim=(0, 100), ylim=(0, 100))
    top.legend(fontsize="small", loc="upper left")
    below.set(xlabel="confidence, % (mean of each of 15 bins)", ylabel="images, %", ylim=0)
    return figure
