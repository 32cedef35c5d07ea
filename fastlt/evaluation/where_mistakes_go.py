"""Which classes mistakes go to, by shot group, and which images auxiliary classes would take if they competed."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from fastlt.evaluation.page import plt, table
from fastlt.evaluation.shown_run import Shown

GROUPS = ("many", "medium", "few")
_SIBLING, _NEIGHBOR, _AUXILIARY = "sibling", "own neighbor", "other auxiliary"
# Kinds of classes and their colors.
_TARGETS = {_SIBLING: "#c44e52", "other many": "#b9c6d8", "other medium": "#8da6c4", "other few": "#5b7ca8"}
_TAKERS = {_NEIGHBOR: "#55a868", _AUXILIARY: "#c9b37e"}


@dataclass(frozen=True)
class Shares:
    """Of the images of a shot group's classes.

    Attributes:
        images: how many there are.
        mistakes: how many were taken for which kind of target: "sibling", "other many", "other medium", "other few".
        by_chance: the share of siblings, 0..1, if these mistakes went to all other targets alike.
        auxiliaries: how many would be taken by which kind of auxiliary class; None for a run without any.
    """

    images: int
    mistakes: Mapping[str, int]
    by_chance: float
    auxiliaries: Mapping[str, int] | None


def shares(run: Shown, pairs: Sequence[tuple[int, int]]) -> dict[str, Shares]:
    """By shot group.

    Args:
        run: with mistakes.
        pairs: (target, auxiliary), by which targets are siblings: those that share an auxiliary neighbor.
    """
    assert run.mistakes is not None, "only runs with mistakes are asked"
    group_of = {int(c): group for group, classes in run.space.shot_groups().items() for c in classes}
    siblings, neighbors = _siblings(pairs), set(run.space.neighbors)
    mistakes: dict[str, Counter[str]] = {group: Counter() for group in GROUPS}
    takers: dict[str, Counter[str]] = {group: Counter() for group in GROUPS}
    chances: dict[str, list[float]] = defaultdict(list)
    for _, label, other in run.mistakes.mistakes:
        group, kin = group_of[label], siblings[label]
        mistakes[group][_SIBLING if other in kin else f"other {group_of[other]}"] += 1
        chances[group].append(len(kin) / (run.space.num_targets - 1))
    for _, label, other in run.mistakes.auxiliaries or ():
        takers[group_of[label]][_NEIGHBOR if (label, other) in neighbors else _AUXILIARY] += 1
    images: Counter[str] = Counter()
    for label, number in enumerate(run.mistakes.images):
        images[group_of[label]] += number
    none = run.mistakes.auxiliaries is None
    return {
        group: Shares(
            images[group],
            mistakes[group],
            sum(chances[group]) / max(len(chances[group]), 1),
            None if none else takers[group],
        )
        for group in GROUPS
    }


def _siblings(pairs: Sequence[tuple[int, int]]) -> dict[int, set[int]]:
    """The siblings of each target; none of one without neighbors."""
    targets: dict[int, set[int]] = defaultdict(set)
    neighbors: dict[int, set[int]] = defaultdict(set)
    for target, auxiliary in pairs:
        targets[auxiliary].add(target)
        neighbors[target].add(auxiliary)
    found = {target: set().union(*(targets[a] for a in of)) - {target} for target, of in neighbors.items()}
    return defaultdict(set, found)


def known_pairs(run: Shown, runs: Sequence[Shown]) -> Sequence[tuple[int, int]]:
    """The neighbor pairs of a run, or of one with the same targets, as a baseline is trained without."""
    alike = [run.space, *(other.space for other in runs if other.space.target_names == run.space.target_names)]
    return next((space.neighbors for space in alike if space.neighbors), ())


def where_mistakes_go(shown: Sequence[Shown], runs: Sequence[Shown]) -> tuple[Figure, str]:
    """A picture and a table of the runs that have mistakes, among all runs."""
    found = {run.label: shares(run, known_pairs(run, runs)) for run in shown}
    rows = [(label, group, of[group]) for group in GROUPS for label, of in found.items() if of[group].images]
    return _picture(rows, len(found)), _table(rows)


Row = tuple[str, str, Shares]
"""Label of the run, shot group, what was found."""


def _picture(rows: Sequence[Row], num_runs: int) -> Figure:
    """A bar for each row; beside it, where a run has auxiliary classes, what these would take."""
    panels = [(_TARGETS, "of the mistakes on these classes, %", [_percent(of.mistakes) for _, _, of in rows])]
    if any(of.auxiliaries is not None for _, _, of in rows):
        takers = [_percent(of.auxiliaries or {}, of.images) for _, _, of in rows]
        panels.append((_TAKERS, "of the images, taken by\nauxiliary classes if they competed, %", takers))
    figure, axes = plt.subplots(
        1, len(panels), figsize=(9, 1.3 + 0.3 * len(rows)), sharey=True, squeeze=False, layout="constrained"
    )
    places = np.array([i + 0.6 * (i // num_runs) for i in range(len(rows))])  # a gap between shot groups
    for panel, (kinds, told, shown) in zip(axes[0], panels, strict=True):
        before = np.zeros(len(rows))
        for kind, color in kinds.items():
            widths = np.array([of.get(kind, 0.0) for of in shown])
            panel.barh(places, widths, left=before, label=kind, color=color)
            before += widths
        panel.set(xlabel=told, xlim=(0, 100))
        panel.legend(fontsize=8, ncols=2, loc="lower left", bbox_to_anchor=(0, 1), frameon=False)
    axes[0, 0].set(yticks=places, yticklabels=[f"{group}  {label}" for label, group, _ in rows])
    axes[0, 0].invert_yaxis()
    return figure


def _percent(counts: Mapping[str, int], whole: int | None = None) -> dict[str, float]:
    """Of the whole, or of all of them."""
    whole = sum(counts.values()) if whole is None else whole
    return {kind: 100 * number / max(whole, 1) for kind, number in counts.items()}


def _table(rows: Sequence[Row]) -> str:
    headings = ["images", "mistakes", "to siblings, %", "by chance, %", *(f"to other {group}, %" for group in GROUPS)]
    headings += [f"{kind} would take" for kind in _TAKERS]
    cells = {}
    for label, group, of in rows:
        wrong = sum(of.mistakes.values())
        parts = _percent(of.mistakes)
        line = [f"{parts.get(kind, 0.0):.1f}" if wrong else "-" for kind in _TARGETS]
        line.insert(1, f"{100 * of.by_chance:.1f}" if wrong else "-")
        takers = ["-" if of.auxiliaries is None else f"{of.auxiliaries.get(kind, 0):,}" for kind in _TAKERS]
        cells[f"{group}, {label}"] = [f"{of.images:,}", f"{wrong:,}", *line, *takers]
    return table(headings, cells)
