"""The picture of a study: each arm's accuracy with its seeds, and its differences to the baseline with their intervals.

Its ground is see-through and its ink of a middle gray, so that it reads on light and on dark pages.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # before pyplot: there may be no screen
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from fastlt.atomic import new_file
from fastlt.experiments.comparison import FIGURES, Row, by_seed
from fastlt.experiments.study_file import Plan

_INK, _MARK = "#808080", "#3d8fd6"
_STYLE: Any = {
    "text.color": _INK, "axes.edgecolor": _INK, "axes.labelcolor": _INK, "xtick.color": _INK, "ytick.color": _INK,
    "axes.spines.top": False, "axes.spines.right": False, "axes.facecolor": "none", "figure.facecolor": "none",
    "font.size": 9, "text.parse_math": False,
}  # fmt: skip


def draw(plan: Plan, rows: Sequence[Row], file: Path) -> None:
    """Draws a line of panels for each data set: accuracy of each seed, then the differences where there are any."""
    data = [[row for row in rows if row.data == name] for name in plan.keys.data]
    shown = [name for name in FIGURES if any(name in row.differences for row in rows)]
    panels = 1 + len(shown)
    arms = len(plan.keys.arms)
    with plt.rc_context(_STYLE):
        figure, axes = plt.subplots(
            len(data), panels, squeeze=False, sharey="row", layout="constrained",
            figsize=(3.4 + 2.1 * panels, len(data) * (1.0 + 0.34 * arms)),
        )  # fmt: skip
        for line, of in zip(axes, data, strict=True):
            _draw_accuracies(line[0], of)
            for panel, name in zip(line[1:], shown, strict=True):
                _draw_differences(panel, of, name)
                panel.set_xlabel(f"{name}, points vs {plan.keys.compared_with}"[:40])
        with new_file(file) as temporary:
            figure.savefig(temporary, format="png", dpi=130)
        plt.close(figure)


def _draw_accuracies(panel: Axes, rows: Sequence[Row]) -> None:
    for place, row in enumerate(rows):
        values = list(by_seed(row.lines, "all").values())
        panel.plot(values, [place] * len(values), "o", color=_INK, alpha=0.7, markersize=3.5)
        if (mean := row.mean("all")) is not None:
            panel.plot([mean], [place], "D", color=_MARK, markersize=6)
    panel.set_yticks(range(len(rows)), [row.arm for row in rows])
    panel.set_ylim(len(rows) - 0.5, -0.5)
    panel.set_title(rows[0].data, loc="left", fontsize=10)
    panel.set_xlabel("all, mean per-class accuracy, %")
    panel.grid(axis="x", color=_INK, alpha=0.25)


def _draw_differences(panel: Axes, rows: Sequence[Row], name: str) -> None:
    panel.axvline(0, color=_INK, linewidth=1)
    for place, row in enumerate(rows):
        if found := row.differences.get(name):
            panel.errorbar(
                found.mean, place, xerr=found.half, fmt="D", color=_MARK, capsize=3, markersize=6,
                markerfacecolor=_MARK if found.tells else "none",
            )  # fmt: skip
    panel.tick_params(axis="y", length=0)
    panel.grid(axis="x", color=_INK, alpha=0.25)
