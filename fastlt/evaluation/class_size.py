"""Accuracy over class size: a point a class, and a line through the means of classes of like size."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from fastlt.evaluation.page import log_counts, plt
from fastlt.evaluation.shown_run import Shown
from fastlt.label_space import FEW_SHOT_BELOW, MANY_SHOT_ABOVE

_SIZES = 8  # into which the range of training images is cut, evenly on a log axis


def accuracy_over_class_size(runs: Sequence[Shown]) -> Figure:
    """Of the runs that have accuracies class by class, drawn over each other."""
    figure, axes = plt.subplots(figsize=(9, 3.8))
    for run in runs:
        sizes, accuracies = _classes(run)
        line = mean_by_size(sizes, accuracies)
        axes.plot(*line, color=run.color, label=run.label, marker="o", markersize=4, linewidth=2)
        axes.scatter(sizes, accuracies, s=12, alpha=0.3, color=run.color, linewidths=0)
    for bound in (MANY_SHOT_ABOVE, FEW_SHOT_BELOW):
        axes.axvline(bound, color="grey", linewidth=0.8, linestyle=":")
    axes.set(xscale="log", xlabel="training images of the class", ylabel="accuracy, %", ylim=(-3, 103))
    log_counts(axes.xaxis)
    axes.legend(fontsize="small")
    return figure


def mean_by_size(sizes: np.ndarray, accuracies: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Geometric mean size and mean accuracy of the classes of like size; both [<= 8] of [N]."""
    edges = np.geomspace(sizes.min(), sizes.max(), _SIZES + 1)[1:-1]
    bins = np.searchsorted(edges, sizes)
    inside = [bins == b for b in np.unique(bins)]
    means = [(np.exp(np.log(sizes[of]).mean()), accuracies[of].mean()) for of in inside]
    return np.array([size for size, _ in means]), np.array([accuracy for _, accuracy in means])


def _classes(run: Shown) -> tuple[np.ndarray, np.ndarray]:
    assert run.per_class is not None, "only evaluated runs are drawn"
    found = [(n, a) for n, a in zip(run.space.counts, run.per_class, strict=False) if a is not None]
    return np.array([n for n, _ in found], float), np.array([a for _, a in found], float)
