"""Draws and prints how every headline figure went from commit to commit."""

from __future__ import annotations

import itertools
import math
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import matplotlib
import numpy as np
from rich.console import Console
from rich.table import Table

from bench.harness import records
from bench.harness.records import Record

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

_WHOLE = ("forward+backward", "both")  # of a loss's passes, the one that is a headline
_SPEEDS = {"images_per_s": "images/s", "median_ms": "ms"}
HEADLINES = {  # suite: {field of its records: unit}
    "kernels": _SPEEDS,
    "sass": {"predicted_ms": "ms, predicted"},
    "crawl": _SPEEDS,
    "hostile": _SPEEDS,
    "dump": _SPEEDS,
    "scale": {"catalog_bytes": "bytes an image in the catalog", "index_bytes": "bytes an image in the index"},
    "filter": {"precision": "precision", "recall": "recall", **_SPEEDS},
    "embed": {**_SPEEDS, "over_bare": "of bare"},
    "predict": {**_SPEEDS, "over_loader": "of the loader"},
    "loaders": _SPEEDS,
    "captions": _SPEEDS,
    "review": _SPEEDS,
    "tuning": {**_SPEEDS, "over_full": "of full"},
    "train": {**_SPEEDS, "over_resident": "of resident", "mfu": "MFU"},
    "counts": records.COUNTED,
}
_LESS_IS_BETTER = ("median_ms", "predicted_ms", "catalog_bytes", "index_bytes", *records.COUNTED)
_VARIANT = "fastlt-unsilenced"  # to compare with, and not what is used
_NEIGHBORS = "3"  # of what is predicted for several
_SHOWN = 5  # commits in a table
_COLUMNS, _COLORS = 2, matplotlib.color_sequences["tab20"]
Name = tuple[str, ...]


@dataclass
class Figure:
    """One headline figure.

    Attributes:
        name: suite, device, case, implementation, storage, unit.
        less_is_better: or more is.
        values: {commit: value}, in order.
        beside: what the fastest peer of the last commit had, as (peer, value); None without a peer.
    """

    name: Name
    less_is_better: bool
    values: dict[str, float] = field(default_factory=dict)
    beside: tuple[str, float] | None = None

    @property
    def gain(self) -> float | None:
        """How much better the last value is than the one before, above 1 where it is; None where there is none."""
        *_, before, last = [None, *self.values.values()]
        return None if before is None else self._better(last, before)

    @property
    def lead(self) -> str:
        """How much better the last value is than the fastest peer's."""
        if self.beside is None:
            return ""
        peer, value = self.beside
        return f"{self._better(list(self.values.values())[-1], value):.2f}x {peer}"

    def _better(self, value: float, than: float) -> float:
        over, under = (than, value) if self.less_is_better else (value, than)
        return over / under if under else math.inf


def show(folder: Path) -> bool:
    """Prints a table of all headline figures and draws `history.png`; whether there were any.

    Raises:
        ValueError: a line is no record.
    """
    found = headlines(read(folder))
    if not found:
        return False
    console = Console(width=160)
    for suite, device in dict.fromkeys(figure.name[:2] for figure in found):
        console.print(_table(suite, device, [figure for figure in found if figure.name[:2] == (suite, device)]))
    picture = draw(found, folder / "history.png")
    console.print(f"{len(found)} figures; drew {picture}", highlight=False, soft_wrap=True)
    return True


def read(folder: Path) -> list[Record]:
    """All records of a folder, those of older commits first.

    Raises:
        ValueError: a line is no record.
    """
    files = sorted(folder.glob("*.jsonl"))
    found = [{"commit": ""} | r for file in files for r in records.parse(file.read_text(), str(file))]
    ages = _ages(folder)
    short = {r["commit"]: _bare(r["commit"]) for r in found}
    order = {c: min((a for full, a in ages.items() if b and full.startswith(b)), default=-1) for c, b in short.items()}
    return sorted(found, key=lambda r: order[r["commit"]])  # in one commit, and where git knows none, as written


def headlines(found: list[Record]) -> list[Figure]:
    """The headline figures of ours, in order of suites, devices and cases."""
    figures: dict[Name, Figure] = {}
    peers: dict[tuple[Name, str], dict[str, float]] = {}  # {(what it is beside, commit): {peer: value}}
    for record in found:
        for key, unit in HEADLINES.get(record["suite"], {}).items():
            value = _value(record.get(key))
            if value is None or record.get("pass", _WHOLE[0]) not in _WHOLE or record["impl"] == _VARIANT:
                continue
            about = (record["suite"], record["device"], record["case"])
            if records.is_ours(record):
                name = (*about, record["impl"], record.get("storage", ""), unit)
                figure = figures.setdefault(name, Figure(name, key in _LESS_IS_BETTER))
                figure.values[record["commit"]] = value
            elif key in _SPEEDS:
                peers.setdefault(((*about, unit), record["commit"]), {})[record["impl"]] = value
    for figure in figures.values():
        *about, _, _, unit = figure.name
        beside = peers.get(((*about, unit), list(figure.values)[-1]), {})
        pick = min if figure.less_is_better else max
        figure.beside = pick(beside.items(), key=lambda item: item[1], default=None)
    suites = list(HEADLINES)
    return sorted(figures.values(), key=lambda figure: (suites.index(figure.name[0]), figure.name[1]))


def draw(found: list[Figure], file: Path) -> Path:
    """A panel for each suite, device and unit, and in it a line for each figure over commits."""
    panels: dict[Name, list[Figure]] = {}
    for figure in found:
        suite, device, _, _, _, unit = figure.name
        panels.setdefault((suite, device, unit), []).append(figure)
    rows = math.ceil(len(panels) / _COLUMNS)
    shape = {"figsize": (11 * _COLUMNS, 4 * rows), "layout": "constrained", "squeeze": False}
    picture, axes = plt.subplots(rows, _COLUMNS, **shape)
    for panel in axes.flat[len(panels) :]:
        panel.set_axis_off()
    for panel, ((suite, device, unit), figures) in zip(axes.flat, panels.items(), strict=False):
        panel.set_title(f"{suite}, {device}", loc="left")
        panel.set_ylabel(unit + (", less is better" if figures[0].less_is_better else ""))
        _draw_panel(panel, figures)
    picture.suptitle("headline figures over commits; hollow: the tree had changes that no commit has")
    picture.savefig(file, dpi=70)
    plt.close(picture)
    return file


def _draw_panel(panel: Axes, figures: list[Figure]) -> None:
    commits = list(dict.fromkeys(commit for figure in figures for commit in figure.values))
    for figure, color in zip(figures, itertools.cycle(_COLORS), strict=False):
        places, values = [commits.index(commit) for commit in figure.values], list(figure.values.values())
        panel.plot(places, values, color=color, marker="o", label=" ".join(figure.name[2:5]).strip())
        for place, commit in zip(places, figure.values, strict=True):
            if "-dirty" in commit:
                panel.plot(place, figure.values[commit], "o", color=color, markerfacecolor="white")
    panel.set_yscale("log" if all(min(figure.values.values()) > 0 for figure in figures) else "linear")
    panel.set_xticks(range(len(commits)), [_bare(commit) for commit in commits])
    panel.margins(x=0.1, y=0.1)
    panel.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))


def _table(suite: str, device: str, found: list[Figure]) -> Table:
    commits = list(dict.fromkeys(commit for figure in found for commit in figure.values))
    left_out = f"; {len(commits) - _SHOWN} older commits are in the picture" if len(commits) > _SHOWN else ""
    table = Table(title=f"{suite}, {device}{left_out}", title_justify="left")
    for column in ("case", "impl", "unit"):
        table.add_column(column)
    for column in (*commits[-_SHOWN:], "gain", "over the fastest peer"):
        table.add_column(column, justify="right")
    for figure in found:
        values = [_short(figure.values[commit]) if commit in figure.values else "" for commit in commits[-_SHOWN:]]
        gain = "" if figure.gain is None else f"{figure.gain:.2f}x"
        table.add_row(figure.name[2], " ".join(figure.name[3:5]).strip(), figure.name[5], *values, gain, figure.lead)
    return table


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def _value(written: object) -> float | None:
    """A record's field as one number: several measurements as their mean, a prediction for usual neighbors."""
    if isinstance(written, dict):
        written = written.get(_NEIGHBORS)
    if isinstance(written, list):
        return float(np.mean(written)) if written else None
    return float(written) if isinstance(written, int | float) else None


def _ages(folder: Path) -> dict[str, int]:
    """{commit: how many came before it}, in full; empty without git."""
    command = ["git", "-C", str(folder), "rev-list", "--reverse", "--topo-order", "HEAD"]
    try:
        listed = subprocess.run(command, capture_output=True, text=True).stdout.split()
    except FileNotFoundError:
        listed = []
    return {commit: age for age, commit in enumerate(listed)}


def _bare(commit: str) -> str:
    """The hash alone, of what a record says."""
    return commit.partition("-dirty")[0].rpartition("-g")[2]
