"""What imbalance costs at each level, in points at the common one, and whether finer labels make it less."""

from __future__ import annotations

import csv
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fastlt.atomic import new_file
from fastlt.experiments.comparison import FIGURES, Difference, paired
from fastlt.experiments.granularity.design import BALANCED, Design
from fastlt.experiments.granularity.judging import Judged

Key = tuple[float, int, int]
"""(ratio, classes of the level, seed) of a run."""


@dataclass(frozen=True)
class Findings:
    """The judged runs of a design, those that are there."""

    design: Design
    judged: Mapping[Key, Judged]

    def runs(self, ratio: float, classes: int) -> dict[int, Judged]:
        """Those of a version and level, by seed."""
        return {seed: found for (r, c, seed), found in self.judged.items() if (r, c) == (ratio, classes)}

    def accuracy(self, ratio: float, classes: int, figure: str, by: str = "summed") -> dict[int, float]:
        """Mean accuracy over the common level's groups, or a third of them, by seed; empty for an empty third."""
        groups = self.design.shot_groups.get(figure, range(len(self.design.common)))
        found = {seed: getattr(judged, by) for seed, judged in self.runs(ratio, classes).items()}
        return {seed: statistics.fmean(values[g] for g in groups) for seed, values in found.items() if groups}

    def costs(self, ratio: float, classes: int, figure: str = "all") -> dict[int, float]:
        """Balanced minus long-tailed accuracy, by seed."""
        tailed = self.accuracy(ratio, classes, figure)
        balanced = self.accuracy(BALANCED, classes, figure)
        return {seed: balanced[seed] - value for seed, value in tailed.items() if seed in balanced}

    def saved(self, ratio: float, figure: str = "all", level: int = -1) -> Difference | None:
        """How much more imbalance costs at the coarsest level than at this one, the finest if none is named."""
        return difference(self._costs_at(ratio, 0, figure), self._costs_at(ratio, level, figure))

    def _costs_at(self, ratio: float, level: int, figure: str) -> dict[int, float]:
        return self.costs(ratio, len(self.design.levels[level]), figure)

    def sentence(self, ratio: float) -> str:
        """What was found at a ratio."""
        coarse, fine = (difference(self._costs_at(ratio, level, "all")) for level in (0, -1))
        saved = self.saved(ratio)
        if not (coarse and fine and saved):
            return f"At a ratio of {ratio:g}, runs are missing: nothing can be said."
        few, many = len(self.design.levels[0]), len(self.design.levels[-1])
        more = "less" if saved.mean >= 0 else "more"
        amount = shown(Difference(abs(saved.mean), saved.half, saved.pairs))
        said = (
            f"At a ratio of {ratio:g}, imbalance costs {shown(coarse)} points with {few:,} classes and {shown(fine)} "
            f"with {many:,}: {amount} {more}"
        )
        if saved.pairs < 2:
            return f"{said} (one seed: there are no intervals)."
        if not saved.has_width:
            return f"{said}, which may be chance: all seeds differ by the same, so there is no interval."
        return f"{said}{'' if saved.tells else ', which may be chance: 0 is within the interval'}."

    def write_csv(self, file: Path) -> None:
        """A row for each version and level; `saved` is how much less imbalance costs there than at the coarsest."""
        parts = ("accuracy", "top_accuracy", "cost", "cost_half", "saved", "saved_half")
        with new_file(file) as temporary, temporary.open("w", newline="") as stream:
            writer = csv.writer(stream)
            columns = [f"{figure}_{part}" for figure in FIGURES for part in parts]
            writer.writerow(["ratio", "classes", "seeds", "images", *columns, "spread", "spread_of_classes"])
            for ratio in self.design.versions:
                for number, level in enumerate(self.design.levels):
                    runs = self.runs(ratio, len(level))
                    cells = [value for figure in FIGURES for value in self._cells(ratio, number, figure)]
                    spreads = [mean({s: getattr(run, n) for s, run in runs.items()}) for n in _SPREADS]
                    about = [f"{ratio:g}", len(level), len(runs), self.design.num_images]
                    writer.writerow([*about, *("" if v is None else f"{v:.4f}" for v in (*cells, *spreads))])

    def write_runs(self, file: Path) -> None:
        """A row for each run."""
        with new_file(file) as temporary, temporary.open("w", newline="") as stream:
            writer = csv.writer(stream)
            columns = [(figure, by) for figure in FIGURES for by in ("summed", "top")]
            names = [f"{figure}_{'' if by == 'summed' else 'top_'}accuracy" for figure, by in columns]
            writer.writerow(["ratio", "classes", "seed", *names, *_SPREADS])
            for (ratio, classes, seed), run in sorted(self.judged.items()):
                found = [self.accuracy(ratio, classes, figure, by).get(seed) for figure, by in columns]
                cells = *found, *(getattr(run, name) for name in _SPREADS)
                writer.writerow([f"{ratio:g}", classes, seed, *("" if v is None else f"{v:.4f}" for v in cells)])

    def _cells(self, ratio: float, level: int, figure: str) -> list[float | None]:
        classes = len(self.design.levels[level])
        accuracies = [mean(self.accuracy(ratio, classes, figure, by)) for by in ("summed", "top")]
        cost = difference(self.costs(ratio, classes, figure)) if ratio != BALANCED else None
        saved = self.saved(ratio, figure, level) if ratio != BALANCED and level else None
        return [*accuracies, *_mean_and_half(cost), *_mean_and_half(saved)]


_SPREADS = ("spread", "spread_of_classes")


def difference(ours: Mapping[int, float], theirs: Mapping[int, float] | None = None) -> Difference | None:
    """As `paired`, but with an interval that is endless for one seed, and None for none."""
    theirs = dict.fromkeys(ours, 0.0) if theirs is None else theirs
    if found := paired(ours, theirs):
        return found
    single = [value - theirs[seed] for seed, value in ours.items() if seed in theirs]
    return Difference(single[0], float("inf"), 1) if single else None


def _mean_and_half(found: Difference | None) -> tuple[float | None, float | None]:
    return (found.mean if found else None, found.half if found and found.pairs > 1 else None)


def shown(found: Difference | None) -> str:
    """For people: 9.8 ± 1.2."""
    if not found:
        return "-"
    return f"{found.mean:.1f}" + (f" ± {found.half:.1f}" if found.pairs > 1 else "")


def mean(values: Mapping[int, float]) -> float | None:
    """Over seeds; None without one."""
    return statistics.fmean(values.values()) if values else None
