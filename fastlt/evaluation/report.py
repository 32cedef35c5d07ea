"""One HTML page about one or several runs: class histogram, curves, accuracy and speed, drawn over each other."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from fastlt.evaluation.page import picture, plt, table, write_page
from fastlt.foreign import load_json
from fastlt.label_space import FEW_SHOT_BELOW, MANY_SHOT_ABOVE, LabelSpace
from fastlt.messages import one_line
from fastlt.run_folder import SPEED, RunFolder, median_speed

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


@dataclass(frozen=True)
class Shown:
    """A run as the page shows it.

    Attributes:
        label: what it is called: the folder's name, with as many of those above it as tell it from the others.
        log: its records.
        numbers: accuracies and calibration, empty before the first evaluation.
        about: of which split, weights and epoch these are.
    """

    label: str
    log: list[dict[str, Any]]
    numbers: dict[str, float | None]
    about: str

    @property
    def cells(self) -> list[str]:
        """The numbers as text, in the order of `COLUMNS`."""
        return ["-" if self.numbers.get(name) is None else f"{self.numbers[name]:.1f}" for name in COLUMNS]


def read_runs(paths: Sequence[Path]) -> list[Shown]:
    """Runs with what `fastlt evaluate` found on the test split, else on val, else the last evaluation in the log.

    Raises:
        ValueError: a folder is no run.
    """
    return [_read(RunFolder(path), label) for path, label in zip(paths, _labels(paths), strict=True)]


def _read(folder: RunFolder, label: str) -> Shown:
    log = folder.records()
    if odd := next((record for record in log if not _is_record(record)), None):
        raise ValueError(f"{folder.log} has a record that no run writes: {one_line(odd)}.")
    evaluated = next((s for s in ("test", "val") if folder.evaluation(s).is_file()), None)
    found: dict[str, Any]
    if evaluated:
        found = _evaluation(folder.evaluation(evaluated))
        about = f"{evaluated}, {found['weights']} weights, epoch {found['epoch']}"
    else:
        found = next((r for r in reversed(log) if r["kind"] == "eval"), {})
        about = f"while training, epoch {found['epoch']}" if found else ""
    return Shown(label, log, {name: found[name] for name in COLUMNS if name in found}, about)


def _evaluation(file: Path) -> dict[str, Any]:
    try:
        found = load_json(file)
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} cannot be read: {error}.") from None
    if not isinstance(found, dict) or not {"weights", "epoch"} <= found.keys() or not _are_numbers(found, COLUMNS):
        raise ValueError(f"{file} is not what `fastlt evaluate` writes: evaluate again.")
    return found


def _is_record(record: dict[str, Any]) -> bool:
    """Whether a record of the log has what is drawn of it."""
    needed = {"train": ("epoch", "loss", "images_per_s", "data_wait"), "eval": ("epoch", "all")}.get(
        str(record.get("kind")), ()
    )
    return "kind" in record and {*needed} <= record.keys() and _are_numbers(record, (*needed, *SPEED, *COLUMNS))


def _are_numbers(found: dict[str, Any], names: Sequence[str]) -> bool:
    """Whether those of the names that are there have numbers that can be drawn, or None."""
    values = [found[name] for name in names if found.get(name) is not None]
    return all(isinstance(value, int | float) and not abs(value) > 1e300 for value in values)


def _labels(paths: Sequence[Path]) -> list[str]:
    whole = [path.resolve() for path in paths]
    labels = [path.name for path in whole]
    depth = 1
    while len(set(labels)) < len(set(whole)):
        depth += 1
        labels = ["/".join(path.parts[-depth:]) for path in whole]
    return labels


def report(paths: Sequence[Path], out: Path, sheet: Path | None = None) -> None:
    """Writes the page; a run is a folder with a log and, after `fastlt evaluate`, an evaluation.

    Args:
        paths: the folders of the runs.
        out: the page.
        sheet: contact sheet of `fastlt filter`, to be shown in it.

    Raises:
        ValueError: a folder is no run, or there is no such sheet.
    """
    if sheet and not sheet.is_file():
        raise ValueError(f"there is no contact sheet at {sheet}: `fastlt filter` writes one.")
    runs = read_runs(paths)
    spaces = [LabelSpace.load(RunFolder(path).label_space) for path in paths]
    pictures = {
        "Training images of each class": _histogram(max(spaces, key=lambda space: space.num_classes)),
        "Curves": _curves(runs),
        "Accuracy on the target classes": _bars(runs),
        "Speed": _speed(runs),
    }
    body = "".join(f"<h2>{title}</h2>\n{picture(figure)}\n" for title, figure in pictures.items())
    if sheet:  # in a frame of its own: it has its own style, and what is in it comes from the web
        page = html.escape(sheet.read_text())
        body += f'<h2>What filter kept and dropped</h2>\n<iframe sandbox srcdoc="{page}"></iframe>\n'
    title = ", ".join(run.label for run in runs)
    write_page(out, title, f"{_accuracy_table(runs)}\n{body}{_speed_table(runs)}\n")


def text_table(paths: Sequence[Path]) -> str:
    """The many/medium/few table of several runs, in percent, for a terminal."""
    runs = read_runs(paths)
    width = max(len(run.label) for run in runs)
    lines = [" " * width + "".join(f"{name:>9}" for name in COLUMNS)]
    for run in runs:
        lines.append(f"{run.label:<{width}}" + "".join(f"{cell:>9}" for cell in run.cells) + f"  {run.about}")
    return "\n".join(lines)


def _accuracy_table(runs: list[Shown]) -> str:
    return table([*COLUMNS, "of"], {run.label: [*run.cells, run.about] for run in runs})


def _speed_table(runs: list[Shown]) -> str:
    """Medians over each run, where it ended or its train records give them."""
    shown = [speed for speed in SPEEDS if any(speed[0] in r for run in runs for r in run.log)]
    found = {run.label: median_speed(run.log) for run in runs}
    rows = {
        label: [f"{factor * speed[key]:{form}}" if key in speed else "-" for key, _, factor, form in shown]
        for label, speed in found.items()
    }
    return table([heading for _, heading, _, _ in shown], rows)


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


def _curves(runs: list[Shown]) -> Figure:
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2))
    for run in runs:
        train = [r for r in run.log if r["kind"] == "train"]
        left.plot([r["epoch"] for r in train], [r["loss"] for r in train], label=run.label, linewidth=1)
        evaluations = [r for r in run.log if r["kind"] == "eval"]
        right.plot([r["epoch"] for r in evaluations], [r["all"] for r in evaluations], label=run.label, marker=".")
    left.set(xlabel="epoch", ylabel="training loss")
    right.set(xlabel="epoch", ylabel="mean per-class accuracy, %")
    right.legend(fontsize="small")
    return figure


def _speed(runs: list[Shown]) -> Figure:
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2))
    for run in runs:
        train = [r for r in run.log if r["kind"] == "train"]
        epochs = [r["epoch"] for r in train]
        left.plot(epochs, [r["images_per_s"] for r in train], label=run.label, linewidth=1)
        right.plot(epochs, [100 * r["data_wait"] for r in train], label=run.label, linewidth=1)
    left.set(xlabel="epoch", ylabel="images/s", ylim=0)
    right.set(xlabel="epoch", ylabel="time waiting for data, %", ylim=0)
    right.legend(fontsize="small")
    return figure


def _bars(runs: list[Shown]) -> Figure:
    figure, axes = plt.subplots(figsize=(9, 3.2))
    groups = COLUMNS[:4]
    width = 0.8 / len(runs)
    for i, run in enumerate(runs):
        heights = [run.numbers.get(group) or 0.0 for group in groups]
        bars = axes.bar([g + i * width for g in range(len(groups))], heights, width, label=run.label)
        axes.bar_label(bars, fmt="%.1f", fontsize=7)
    axes.set_xticks([g + 0.4 - width / 2 for g in range(len(groups))], groups)
    axes.set_ylabel("mean per-class accuracy, %")
    axes.legend(fontsize="small")
    return figure
