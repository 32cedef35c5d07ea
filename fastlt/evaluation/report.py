"""One HTML page about one or several runs: class histogram, curves, accuracy and speed, drawn over each other."""

from __future__ import annotations

import base64
import html
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # before pyplot: there may be no screen
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from fastlt.atomic import write_text
from fastlt.label_space import FEW_SHOT_BELOW, MANY_SHOT_ABOVE, LabelSpace
from fastlt.run_folder import RunFolder, median_speed

COLUMNS = ("all", "many", "medium", "few", "ece")
# Key of a summary record, heading, factor and form.
SPEEDS = (
    ("images_per_s", "images/s", 1, ".0f"),
    ("step_ms", "step, ms", 1, ".1f"),
    ("step_ms_p95", "p95", 1, ".1f"),
    ("data_wait", "waiting for data, %", 100, ".1f"),
    ("memory_gb", "memory, GB", 1, ".2f"),
    ("mfu", "MFU, %", 100, ".1f"),
)


def report(runs: list[Path], out: Path, sheet: Path | None = None) -> None:
    """Writes the page; a run is a folder with a log and, after `fastlt evaluate`, an evaluation.

    Args:
        runs: their folders.
        out: the page.
        sheet: contact sheet of `fastlt filter`, to be shown in it.

    Raises:
        ValueError: a folder is no run, or there is no such sheet.
    """
    if sheet and not sheet.is_file():
        raise ValueError(f"there is no contact sheet at {sheet}: `fastlt filter` writes one.")
    folders = [RunFolder(run) for run in runs]
    logs = {run.path.name: run.records() for run in folders}
    widest = max((LabelSpace.load(run.label_space) for run in folders), key=lambda space: space.num_classes)
    pictures = {
        "Training images of each class": _histogram(widest),
        "Curves": _curves(logs),
        "Accuracy on the target classes": _bars({run.name: results(run).numbers for run in runs}),
        "Speed": _speed(logs),
    }
    body = "".join(f"<h2>{title}</h2>\n<img src='{_data_url(figure)}'>\n" for title, figure in pictures.items())
    if sheet:  # in a frame of its own: it has its own style, and what is in it comes from the web
        page = html.escape(sheet.read_text())
        body += f'<h2>What filter kept and dropped</h2>\n<iframe sandbox srcdoc="{page}"></iframe>\n'
    title = ", ".join(html.escape(run.name) for run in runs)
    style = "body{font:16px sans-serif;margin:2em auto;max-width:60em}img{max-width:100%}"
    style += "td,th{padding:.2em 1em;text-align:right}iframe{width:100%;height:50em;border:1px solid silver}"
    page = f"<!doctype html><meta charset='utf-8'><title>{title}</title><style>{style}</style>\n"
    write_text(out, f"{page}<h1>{title}</h1>\n{_html_table(runs)}\n{body}{_speed_table(logs)}\n")


@dataclass(frozen=True)
class Results:
    """The numbers of a run, and whose they are: which split, weights and epoch; empty before the first evaluation."""

    numbers: dict[str, float | None]
    about: str


def results(run: Path) -> Results:
    """What `fastlt evaluate` found on the test split, else on val, else the last evaluation in the log."""
    folder = RunFolder(run)
    evaluated = next((s for s in ("test", "val") if folder.evaluation(s).is_file()), None)
    found: dict[str, Any]
    if evaluated:
        found = json.loads(folder.evaluation(evaluated).read_text())
        about = f"{evaluated}, {found['weights']} weights, epoch {found['epoch']}"
    else:
        found = next((r for r in reversed(folder.records()) if r["kind"] == "eval"), {})
        about = f"while training, epoch {found['epoch']}" if found else ""
    return Results({name: found[name] for name in COLUMNS if name in found}, about)


def text_table(runs: list[Path]) -> str:
    """The many/medium/few table of several runs, in percent, for a terminal."""
    width = max(len(run.name) for run in runs)
    lines = [" " * width + "".join(f"{name:>9}" for name in COLUMNS)]
    for run in runs:
        lines.append(f"{run.name:<{width}}" + "".join(f"{cell:>9}" for cell in _cells(run)) + f"  {results(run).about}")
    return "\n".join(lines)


def _cells(run: Path) -> list[str]:
    numbers = results(run).numbers
    return ["-" if numbers.get(name) is None else f"{numbers[name]:.1f}" for name in COLUMNS]


def _html_table(runs: list[Path]) -> str:
    head = "".join(f"<th>{name}" for name in ("", *COLUMNS, "of"))
    rows = []
    for run in runs:
        cells = "".join(f"<td>{cell}" for cell in (*_cells(run), html.escape(results(run).about)))
        rows.append(f"<tr><th>{html.escape(run.name)}{cells}")
    return f"<table><tr>{head}{''.join(rows)}</table>"


def _speed_table(logs: dict[str, list[dict[str, Any]]]) -> str:
    """Medians over each run, where it ended or its train records give them."""
    shown = [speed for speed in SPEEDS if any(speed[0] in r for log in logs.values() for r in log)]
    rows = []
    for name, log in logs.items():
        found = median_speed(log)
        cells = (f"{factor * found[key]:{form}}" if key in found else "-" for key, _, factor, form in shown)
        rows.append(f"<tr><th>{html.escape(name)}" + "".join(f"<td>{cell}" for cell in cells))
    head = "".join(f"<th>{name}" for name in ("", *(heading for _, heading, _, _ in shown)))
    return f"<table><tr>{head}{''.join(rows)}</table>"


def _histogram(space: LabelSpace) -> Figure:
    figure, axes = plt.subplots(figsize=(9, 3.2))
    counts, targets = space.counts, space.num_targets
    axes.bar(range(targets), sorted(counts[:targets], reverse=True), width=1.0, label="target classes")
    if targets < len(counts):
        axes.bar(range(targets, len(counts)), sorted(counts[targets:], reverse=True), width=1.0, label="auxiliary")
    for bound in (MANY_SHOT_ABOVE, FEW_SHOT_BELOW):
        axes.axhline(bound, color="grey", linewidth=0.8, linestyle=":")
    axes.set(yscale="log", xlabel="class, by number of images", ylabel="training images")
    axes.legend()
    return figure


def _curves(logs: dict[str, list[dict[str, Any]]]) -> Figure:
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2))
    for name, log in logs.items():
        train = [r for r in log if r["kind"] == "train"]
        left.plot([r["epoch"] for r in train], [r["loss"] for r in train], label=name, linewidth=1)
        evaluations = [r for r in log if r["kind"] == "eval"]
        right.plot([r["epoch"] for r in evaluations], [r["all"] for r in evaluations], label=name, marker=".")
    left.set(xlabel="epoch", ylabel="training loss")
    right.set(xlabel="epoch", ylabel="accuracy on validation classes, %")
    right.legend(fontsize="small")
    return figure


def _speed(logs: dict[str, list[dict[str, Any]]]) -> Figure:
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2))
    for name, log in logs.items():
        train = [r for r in log if r["kind"] == "train"]
        epochs = [r["epoch"] for r in train]
        left.plot(epochs, [r["images_per_s"] for r in train], label=name, linewidth=1)
        right.plot(epochs, [100 * r["data_wait"] for r in train], label=name, linewidth=1)
    left.set(xlabel="epoch", ylabel="images/s", ylim=0)
    right.set(xlabel="epoch", ylabel="time waiting for data, %", ylim=0)
    right.legend(fontsize="small")
    return figure


def _bars(table: dict[str, dict[str, float | None]]) -> Figure:
    figure, axes = plt.subplots(figsize=(9, 3.2))
    groups = COLUMNS[:4]
    width = 0.8 / max(len(table), 1)
    for i, (name, numbers) in enumerate(table.items()):
        heights = [numbers.get(group) or 0.0 for group in groups]
        bars = axes.bar([g + i * width for g in range(len(groups))], heights, width, label=name)
        axes.bar_label(bars, fmt="%.1f", fontsize=7)
    axes.set_xticks([g + 0.4 - width / 2 for g in range(len(groups))], groups)
    axes.set_ylabel("mean per-class accuracy, %")
    axes.legend(fontsize="small")
    return figure


def _data_url(figure: Figure) -> str:
    stream = io.BytesIO()
    figure.tight_layout()
    figure.savefig(stream, format="png", dpi=110)
    plt.close(figure)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()
