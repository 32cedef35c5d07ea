"""One HTML page about one or several runs, drawn over each other: what they learned, how, and how fast."""

from __future__ import annotations

import html
import shlex
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from fastlt.evaluation.class_size import accuracy_over_class_size
from fastlt.evaluation.page import log_counts, picture, plt, table, write_page
from fastlt.evaluation.reliability import reliability
from fastlt.evaluation.shown_run import COLUMNS, Shown, read_runs
from fastlt.evaluation.where_mistakes_go import known_pairs, where_mistakes_go
from fastlt.evaluation.worst_classes import worst_classes
from fastlt.label_space import FEW_SHOT_BELOW, MANY_SHOT_ABOVE, LabelSpace
from fastlt.run_folder import median_speed

# Key of a summary record, heading, factor and form.
SPEEDS = (
    ("images_per_s", "images/s", 1, ".0f"),
    ("step_ms", "step, ms", 1, ".1f"),
    ("step_ms_p95", "p95", 1, ".1f"),
    ("data_wait", "waiting for data, %", 100, ".1f"),
    ("memory_gb", "memory, GB", 1, ".2f"),
    ("mfu", "MFU, %", 100, ".1f"),
)


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
    largest = max((run.space for run in runs), key=lambda space: space.num_classes)
    with plt.rc_context({"text.parse_math": False}):  # names may have a $
        sections = {
            "Training images of each class": picture(_histogram(largest)),
            "Curves": picture(_curves(runs)),
            "Softmax that silencing takes out": _silenced(runs),
            "Accuracy on the target classes": picture(_bars(runs)),
            "Accuracy over class size": _class_size(runs),
            "Where mistakes go": _mistakes(runs),
            "Calibration": _calibration(runs),
            f"The worst tail classes of {runs[-1].label}": _worst(runs[-1]),
        }
        if sheet:  # in a frame of its own: it has its own style, and what is in it comes from the web
            page = html.escape(sheet.read_text())
            sections["What filter kept and dropped"] = f'<iframe sandbox srcdoc="{page}"></iframe>'
        sections["Speed"] = f"{picture(_speed(runs))}\n{_speed_table(runs)}"
    body = "".join(f"<h2>{html.escape(title)}</h2>\n{content}\n" for title, content in sections.items())
    write_page(out, ", ".join(run.label for run in runs), f"{_accuracy_table(runs)}\n{body}")


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


def _class_size(runs: Sequence[Shown]) -> str:
    shown = [run for run in runs if run.per_class and any(a is not None for a in run.per_class)]
    told = "Each point is a class; the lines are means of classes of like size, the dotted ones bound the shot groups."
    drawn = f"<p>{told}</p>\n{picture(accuracy_over_class_size(shown))}" if shown else ""
    return drawn + _evaluate(runs, shown, "tells accuracies class by class")


def _calibration(runs: Sequence[Shown]) -> str:
    shown = [run for run in runs if run.bins is not None and run.bins[0].sum()]
    drawn = picture(reliability(shown)) if shown else ""
    return drawn + _evaluate(runs, shown, "counts how often it is right where it is how sure")


def _mistakes(runs: Sequence[Shown]) -> str:
    shown = [run for run in runs if run.mistakes]
    drawn = ""
    if shown:
        figure, numbers = where_mistakes_go(shown, runs)
        drawn = f"<p>{_KINSHIP}</p>\n{picture(figure)}\n{numbers}\n"
        if any(not known_pairs(run, runs) for run in shown):
            drawn += "<p>Where no run with these targets has neighbor pairs, nobody is a sibling.</p>\n"
    return drawn + _evaluate(runs, shown, "counts what was taken for what")


_KINSHIP = (
    "Left, what the mistakes on each shot group's classes were taken for: siblings, which are targets that share an "
    "auxiliary neighbor with the right class, or other targets by shot group. By chance is the share of siblings if "
    "these mistakes went to all other targets alike. Right, and in the last columns: auxiliary classes are gone at "
    "inference; these images they would take if they were not, the neighbors of the right class or others."
)


def _worst(run: Shown) -> str:
    if not run.mistakes:
        return _evaluate([run], [], "counts what was taken for what")
    return worst_classes(run)


def _evaluate(runs: Sequence[Shown], shown: Sequence[Shown], what: str) -> str:
    """A sentence about the runs that are not shown; none if all are."""
    lacking = [run for run in runs if run not in shown]
    if not lacking:
        return ""
    names = ", ".join(run.label for run in lacking)
    command = shlex.join(["fastlt", "evaluate", *(str(run.folder.path) for run in lacking)])
    return f"<p>Not here: {html.escape(names)}. <code>{html.escape(command)}</code> {what}.</p>"


def _silenced(runs: Sequence[Shown]) -> str:
    """The curve, or why there is none."""
    shown = [run for run in runs if run.records("train", "silenced_mass")]
    if not shown:
        return "<p>No log tells it: it is measured while training, where classes have neighbors.</p>"
    figure, axes = plt.subplots(figsize=(9, 3.2))
    for run in shown:
        records = run.records("train", "silenced_mass")
        epochs = np.array([record["epoch"] for record in records])
        masses = 100 * np.array([record["silenced_mass"] for record in records])
        axes.plot(epochs, masses, color=run.color, linewidth=0.6, alpha=0.35)
        axes.plot(*_running_mean(epochs, masses), color=run.color, linewidth=1.8, label=run.label)
    axes.set(xlabel="epoch", ylabel="softmax on silenced classes, %", ylim=0)
    axes.legend(fontsize="small")
    return f"<p>{_SILENCED}</p>\n{picture(figure)}"


_SILENCED = (
    "Of the targets' samples: how much of the softmax, with the prior and before anything is silenced, lies on the "
    "auxiliary neighbors of the right class. Of the last batch before each line of the log (thin), and a running mean."
)


def _running_mean(*values: np.ndarray) -> list[np.ndarray]:
    """Means of as many neighbors of each value as a tenth of them is; all [N] to [N - n + 1]."""
    n = max(len(values[0]) // 10, 1)
    return [np.convolve(of, np.full(n, 1 / n), "valid") for of in values]


def _histogram(space: LabelSpace) -> Figure:
    figure, axes = plt.subplots(figsize=(9, 3.2))
    counts, targets = space.counts, space.num_targets
    axes.bar(range(targets), sorted(counts[:targets], reverse=True), width=1.0, label="target classes")
    if targets < len(counts):
        axes.bar(range(targets, len(counts)), sorted(counts[targets:], reverse=True), width=1.0, label="auxiliary")
    for bound in (MANY_SHOT_ABOVE, FEW_SHOT_BELOW):
        axes.axhline(bound, color="grey", linewidth=0.8, linestyle=":")
    axes.set(yscale="log", xlabel="class, by number of images", ylabel="training images")
    log_counts(axes.yaxis)
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
        found = (run.numbers.get(group) for group in groups)
        heights = [float("nan") if number is None else number for number in found]  # no bar, and no number on it
        bars = axes.bar([g + i * width for g in range(len(groups))], heights, width, label=run.label)
        axes.bar_label(bars, fmt="%.1f", fontsize=7)
    axes.set_xticks([g + 0.4 - width / 2 for g in range(len(groups))], groups)
    axes.set_ylabel("mean per-class accuracy, %")
    axes.legend(fontsize="small")
    return figure
