"""What the runs of a study say together: means, and paired differences with their 95% intervals."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import mpmath

from fastlt.experiments.study_file import Plan

FIGURES = ("all", "many", "medium", "few")
"""Mean per-class (balanced) accuracies as `fastlt evaluate` has them, over all target classes and by shot group."""
LEVEL, POWER = 0.95, 0.8


@dataclass(frozen=True)
class Difference:
    """A mean difference over pairs of runs that share data set and seed.

    Attributes:
        mean: of the differences.
        half: half the width of its 95% interval, and so the smallest mean difference that this interval tells from 0.
        pairs: how many there are.
    """

    mean: float
    half: float
    pairs: int

    @property
    def has_width(self) -> bool:
        """Not so where all differences are the same but for rounding, by chance: that is no certainty."""
        return self.half > 1e-9

    @property
    def tells(self) -> bool:
        """Whether 0 lies outside of the interval."""
        return self.has_width and abs(self.mean) > self.half

    @property
    def smallest_effect(self) -> float:
        """How large a true effect must be so that about four such intervals of five tell it from 0, at this spread.

        By central t: exact power is 79% with five pairs or more, 77% with three, 73% with two.
        """
        freedom = self.pairs - 1
        return self.half * (1 + student_t(freedom, 2 * POWER - 1) / student_t(freedom))


def paired(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Difference | None:
    """The mean difference of two arms, by Student's t on the differences of each seed; None for fewer than two pairs.

    Args:
        ours, theirs: a figure for each seed; only seeds that both have count.
    """
    differences = [value - theirs[seed] for seed, value in ours.items() if seed in theirs]
    if len(differences) < 2:
        return None
    error = statistics.stdev(differences) / math.sqrt(len(differences))
    return Difference(statistics.fmean(differences), student_t(len(differences) - 1) * error, len(differences))


@cache
def student_t(freedom: int, inside: float = LEVEL) -> float:
    """The factor of the standard error that makes half of a 95% interval: that share of Student's t lies in -t..t."""

    def beyond(t: Any) -> Any:
        """How much more of the distribution lies outside of -t..t than should."""
        share = freedom / (freedom + t**2)
        return mpmath.betainc(freedom / 2, 0.5, 0, share, regularized=True) - (1 - inside)

    return float(mpmath.findroot(beyond, (0.5, 20), solver="illinois"))


@dataclass(frozen=True)
class Row:
    """An arm on a data set.

    Attributes:
        data, arm: which one.
        against: the arm with which it is compared; "" for the baseline.
        lines: the records of its finished runs.
        lacking: for each seed without one the reason.
        differences: to that arm, of each figure that has two pairs.
    """

    data: str
    arm: str
    against: str
    lines: list[dict[str, Any]]
    lacking: dict[int, str]
    differences: dict[str, Difference]

    def mean(self, figure: str) -> float | None:
        """The mean over the seeds; None without one."""
        found = list(by_seed(self.lines, figure).values())
        return statistics.fmean(found) if found else None


def by_seed(lines: list[dict[str, Any]], figure: str) -> dict[int, float]:
    """A figure of an arm's runs; it may be None where a group has no class."""
    return {line["seed"]: line[figure] for line in lines if line[figure] is not None}


def compare(plan: Plan, lines: list[dict[str, Any]], failed: Mapping[tuple[str, str, int], str]) -> list[Row]:
    """A row for each data set and arm.

    Args:
        plan: the study.
        lines: records of its finished runs.
        failed: why others have none.
    """
    rows = []
    baseline = plan.keys.compared_with
    for data in plan.keys.data:
        of = {arm: [r for r in lines if (r["data"], r["arm"]) == (data, arm)] for arm in plan.keys.arms}
        for arm, ours in of.items():
            done = {line["seed"] for line in ours}
            lacking = {
                seed: failed.get((data, arm, seed), "not trained yet")
                for seed in plan.keys.seed_list
                if seed not in done
            }
            against = "" if arm == baseline else baseline
            differences = _differences(ours, of[baseline]) if against else {}
            rows.append(Row(data, arm, against, ours, lacking, differences))
    return rows


def compare_further(plan: Plan, rows: Sequence[Row]) -> list[Row]:
    """The rows again of arms that are compared with another one than the baseline as well."""
    found = {(row.data, row.arm): row for row in rows}
    further = []
    for data in plan.keys.data:
        for arm, other in plan.keys.against.items():
            row = found[data, arm]
            differences = _differences(row.lines, found[data, other].lines)
            further.append(replace(row, against=other, differences=differences))
    return further


def _differences(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> dict[str, Difference]:
    pairs = {figure: paired(by_seed(ours, figure), by_seed(theirs, figure)) for figure in FIGURES}
    return {figure: difference for figure, difference in pairs.items() if difference}
