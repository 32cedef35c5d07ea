"""A run as a report shows it: its log, and what `fastlt evaluate` found, both checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fastlt.evaluation.metrics import NUM_BINS
from fastlt.evaluation.mistakes import Mistakes
from fastlt.foreign import load_json
from fastlt.label_space import LabelSpace
from fastlt.messages import one_line
from fastlt.recipe import load_recipe
from fastlt.run_folder import SPEED, RunFolder

COLUMNS = ("all", "many", "medium", "few", "ece")


@dataclass(frozen=True, eq=False)
class Shown:
    """A run as the page shows it.

    Attributes:
        label: what it is called: the folder's name, with as many of those above it as tell it from the others.
        color: in which it is drawn everywhere.
        folder, space: the run and its classes.
        log: its records.
        numbers: accuracies and calibration, empty before the first evaluation.
        about: of which split, crops, weights and epoch these are.
        split: that of `fastlt evaluate`, "" before it.
        per_class: accuracy of each target class in percent, None for one without images; None before `evaluate`.
        bins: images, confidence and correct ones of each bin [3, bins]; None where an older `evaluate` did not tell.
        mistakes: None where it told none, or those of another evaluation.
    """

    label: str
    color: str
    folder: RunFolder
    space: LabelSpace
    log: list[dict[str, Any]]
    numbers: dict[str, float | None]
    about: str
    split: str = ""
    per_class: list[float | None] | None = None
    bins: np.ndarray | None = None
    mistakes: Mistakes | None = None

    @property
    def cells(self) -> list[str]:
        """The numbers as text, in the order of `COLUMNS`."""
        return ["-" if self.numbers.get(name) is None else f"{self.numbers[name]:.1f}" for name in COLUMNS]

    def records(self, kind: str, name: str) -> list[dict[str, Any]]:
        """The log's records of a kind that have a value of this name."""
        return [record for record in self.log if record["kind"] == kind and record.get(name) is not None]


def read_runs(paths: Sequence[Path]) -> list[Shown]:
    """Runs with what `fastlt evaluate` found on the test split, else on val, else the last evaluation in the log.

    Raises:
        ValueError: a folder is no run, or has files that no run writes.
    """
    labels = _labels(paths)
    return [_read(RunFolder(path), labels[i], f"C{i % 10}") for i, path in enumerate(paths)]


def _read(folder: RunFolder, label: str, color: str) -> Shown:
    log = folder.records()
    if odd := next((record for record in log if not _is_record(record)), None):
        raise ValueError(f"{folder.log} has a record that no run writes: {one_line(odd)}.")
    space = LabelSpace.load(folder.label_space)
    split = next((s for s in ("test", "val") if folder.evaluation(s).is_file()), "")
    if not split:
        last: dict[str, Any] = next((r for r in reversed(log) if r["kind"] == "eval"), {})
        about = f"while training, epoch {last['epoch']}" if last else "not evaluated yet"
        return Shown(label, color, folder, space, log, _numbers(last), about)
    found = _evaluation(folder.evaluation(split), space)
    crops = ", five crops" if found.get("crops") == 5 else ""
    about = f"{split}{_other_data(folder, found)}{crops}, {found['weights']} weights, epoch {found['epoch']}"
    per_class, bins = found.get("per_class"), found.get("bins")
    return Shown(
        label, color, folder, space, log, _numbers(found), about, split, per_class,
        None if bins is None else np.array([bins[name] for name in _BINS], float),
        _mistakes(folder.mistakes(split), space, per_class),
    )  # fmt: skip


def _other_data(folder: RunFolder, found: dict[str, Any]) -> str:
    """What to say where these are figures on other images than the run's own."""
    try:
        own = str(load_recipe(folder.recipe).data.path)
    except ValueError:  # of a version before, or gone
        return ""
    return " of another data set" if found.get("data", own) != own else ""


def _numbers(found: dict[str, Any]) -> dict[str, float | None]:
    return {name: found[name] for name in COLUMNS if name in found}


def _mistakes(file: Path, space: LabelSpace, per_class: list[float | None] | None) -> Mistakes | None:
    if not (per_class and file.is_file()):
        return None
    mistakes = Mistakes.load(file, space)
    return mistakes if mistakes.are_of(per_class) else None


def _evaluation(file: Path, space: LabelSpace) -> dict[str, Any]:
    try:
        found = load_json(file)
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} cannot be read: {error}.") from None
    whole = isinstance(found, dict) and {"weights", "epoch"} <= found.keys() and _are_numbers(found, COLUMNS)
    if not whole or not _are_accuracies(found.get("per_class"), space) or not _are_bins(found.get("bins")):
        raise ValueError(f"{file} is not what `fastlt evaluate` writes: evaluate again.")
    return found


def _are_accuracies(found: Any, space: LabelSpace) -> bool:
    if found is None:
        return True
    fits = isinstance(found, list) and len(found) == space.num_targets
    return fits and all(accuracy is None or _between(accuracy, 100) for accuracy in found)


def _are_bins(found: Any) -> bool:
    if found is None:
        return True
    lists = [found.get(name) for name in _BINS] if isinstance(found, dict) else [None]
    return all(isinstance(of, list) and len(of) == NUM_BINS and all(_between(n, 2**48) for n in of) for of in lists)


_BINS = ("images", "confidence", "correct")


def _between(value: Any, most: float) -> bool:
    return isinstance(value, int | float) and 0 <= value <= most


def _is_record(record: dict[str, Any]) -> bool:
    """Whether a record of the log has what is drawn of it."""
    needed = {"train": ("epoch", "loss", "images_per_s", "data_wait"), "eval": ("epoch", "all")}.get(
        str(record.get("kind")), ()
    )
    drawn = (*needed, *SPEED, *COLUMNS, "silenced_mass")
    return "kind" in record and {*needed} <= record.keys() and _are_numbers(record, drawn)


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
