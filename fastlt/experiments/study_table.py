"""The tables of a study: Markdown for people, CSV for programs."""

from __future__ import annotations

import csv
import shlex
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path

from fastlt.atomic import new_file
from fastlt.experiments.comparison import FIGURES, Row, by_seed
from fastlt.experiments.study_file import Plan
from fastlt.foreign import table_cell
from fastlt.label_space import FEW_SHOT_BELOW, MANY_SHOT_ABOVE
from fastlt.messages import listed


def markdown(plan: Plan, rows: Sequence[Row], further: Sequence[Row]) -> str:
    """Means, differences, what is missing, where it comes from, and what repeats it."""
    parts = [f"# {plan.file.stem}", _means(rows), _differences(plan, rows, further), _origin(plan, rows)]
    return "\n\n".join(parts) + "\n"


def _means(rows: Sequence[Row]) -> str:
    judged = sorted({f"{line['split']} split, {line['weights']} weights" for row in rows for line in row.lines})
    said = (
        f"Mean per-class (balanced) accuracy in %, as `fastlt evaluate` finds it ({'; '.join(judged) or 'no run'}), "
        f"over all target classes, and those with more than {MANY_SHOT_ABOVE} (many), {FEW_SHOT_BELOW} to "
        f"{MANY_SHOT_ABOVE} (medium) and fewer than {FEW_SHOT_BELOW} (few) training images. Means over seeds; sd is "
        "the standard deviation of `all` over them."
    )
    headings = ["data", "arm", "seeds", *FIGURES, "sd", "steps", "epochs", "hours", "missing"]
    return f"{said}\n\n{_table(headings, (_mean_cells(row) for row in rows))}\n\n![the same as a picture](picture.png)"


def _mean_cells(row: Row) -> list[str]:
    seeds = f"{len(row.lines)} of {len(row.lines) + len(row.lacking)}"
    means = [_number(row.mean(figure), ".1f") for figure in FIGURES]
    lengths = [_span(row, name, form) for name, form in (("steps", ",d"), ("epochs", "d"))]
    hours = f"{sum(line['hours'] for line in row.lines):.2f}"
    return [row.data, row.arm, seeds, *means, _number(_deviation(row, "all"), ".2f"), *lengths, hours, lacking(row)]


def lacking(row: Row) -> str:
    """Which seeds have no run, by the reason."""
    seeds: dict[str, list[str]] = {}
    for seed, why in row.lacking.items():
        seeds.setdefault(why, []).append(str(seed))
    return "; ".join(f"seed {listed(of, 20)}: {why}" for why, of in seeds.items())


def _differences(plan: Plan, rows: Sequence[Row], further: Sequence[Row]) -> str:
    baseline = plan.keys.compared_with
    if len(plan.keys.seed_list) < 2:
        return (
            "There are no differences with intervals: one seed says nothing of how much a repetition would differ. "
            "Name two seeds or more in `seeds`."
        )
    others = [row for row in rows if row.against]
    shown = [[row.data, row.arm, *_difference_cells(row)] for row in others]
    between = [[row.data, row.arm, row.against, *_difference_cells(row)] for row in further]
    return "\n\n".join(
        [
            f"## Differences to {_cell(baseline)}",
            "Paired: runs with the same data set and seed, in points, as mean ± half of the 95% interval by Student's "
            "t on the differences. Bold where 0 lies outside of the interval. Each interval stands for itself: of "
            "twenty, one misses by chance.",
            _table(["data", "arm", "pairs", *FIGURES], shown),
            *(_smallest(data, others) for data in plan.keys.data),
            *([_table(["data", "arm", "against", "pairs", *FIGURES], between)] if between else []),
        ]
    )


def _difference_cells(row: Row) -> list[str]:
    return [str(_pairs(row)), *(_difference(row, figure) for figure in FIGURES)]


def _smallest(data: str, rows: Sequence[Row]) -> str:
    """How large true effects on a data set must be to be found."""
    found = {row.arm: row.differences["all"] for row in rows if row.data == data and "all" in row.differences}
    if not found:
        return f"On {data} no arm has two pairs of finished runs yet, so there is no interval."
    effects = [f"{of.smallest_effect:.2f} points ({_cell(arm)})" for arm, of in found.items() if of.has_width]
    which = f"On {data} the smallest true effect on `all` that about four such intervals of five tell from 0 is"
    said = [f"{which} {listed(effects, 20)}."] if effects else []
    if same := [_cell(arm) for arm, difference in found.items() if not difference.has_width]:
        said.append(f"On {data} all seeds differ by the same ({listed(same)}): it takes more seeds for an interval.")
    return " ".join(said)


def _origin(plan: Plan, rows: Sequence[Row]) -> str:
    lines = [line for row in rows for line in row.lines]
    hours = sum(line["hours"] for line in lines)
    again = shlex.join(["fastlt", "study", str(plan.file), "--only"])
    found = [
        "## Where it comes from",
        f"{len(lines)} runs, {hours:.2f} hours of training and evaluation in all; commit {_all_of(lines, 'commit')}; "
        f"{_all_of(lines, 'device')}. A line of runs.jsonl has a run with versions and the command that repeats it.",
        f"A row again, elsewhere: `{again} ARM --out runs/repeated`.",
    ]
    return "\n\n".join(found)


def _all_of(lines: Sequence[dict], name: str) -> str:
    """What is told of the runs; a run that went on with another commit or device has several, with commas."""
    return listed(sorted({one for line in lines for one in line[name].split(", ")})) or "none yet"


def csv_table(rows: Sequence[Row], file: Path) -> None:
    """A line for each row: means, standard deviations, differences and the ends of their intervals."""
    parts = ("mean", "sd", "difference", "low", "high", "smallest_effect")
    headings = [f"{figure}_{part}" for figure in FIGURES for part in parts]
    with new_file(file) as temporary, temporary.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["data", "arm", "against", "seeds", "pairs", *headings, "steps", "epochs", "hours", "missing"])
        for row in rows:
            cells = [_number(value, ".4f", "") for figure in FIGURES for value in _values(row, figure)]
            names = [*map(table_cell, (row.data, row.arm, row.against)), len(row.lines), _pairs(row)]
            hours = f"{sum(line['hours'] for line in row.lines):.4f}"
            length = _span(row, "steps", "d", ""), _span(row, "epochs", "d", ""), hours, table_cell(lacking(row))
            writer.writerow([*names, *cells, *length])


def _values(row: Row, figure: str) -> list[float | None]:
    means = [row.mean(figure), _deviation(row, figure)]
    if not (found := row.differences.get(figure)):
        return [*means, None, None, None, None]
    return [*means, found.mean, found.mean - found.half, found.mean + found.half, found.smallest_effect]


def _deviation(row: Row, figure: str) -> float | None:
    values = list(by_seed(row.lines, figure).values())
    return statistics.stdev(values) if len(values) > 1 else None


def _pairs(row: Row) -> int:
    return max((difference.pairs for difference in row.differences.values()), default=0)


def _difference(row: Row, figure: str) -> str:
    if not (found := row.differences.get(figure)):
        return "-"
    shown = f"{found.mean:+.2f} ± {found.half:.2f}"
    return f"**{shown}**" if found.tells else shown


def _span(row: Row, name: str, form: str, none: str = "-") -> str:
    """A number that all runs of an arm have in common, or from where to where it goes."""
    found = sorted({line[name] for line in row.lines})
    return f"{found[0]:{form}}" + f" to {found[-1]:{form}}" * (len(found) > 1) if found else none


def _number(value: float | None, form: str, none: str = "-") -> str:
    return none if value is None else f"{value:{form}}"


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; a column without content is left out."""
    body = [list(row) for row in rows]
    kept = [i for i in range(len(headings)) if any(row[i] for row in body)]
    lines = [[headings[i] for i in kept], ["---"] * len(kept), *([_cell(row[i]) for i in kept] for row in body)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(text: str) -> str:
    """A text as Markdown shows it in a table, with nothing in it that is markup of a table or a page."""
    return text.replace("|", "\\|").replace("<", "&lt;")
