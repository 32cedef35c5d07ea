"""The folder of a run: its files, its log, its whole weights, and which of these to use."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import statistics
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from fastlt.atomic import new_file
from fastlt.foreign import parse_json, read_bytes
from fastlt.messages import one_line

if TYPE_CHECKING:  # slow to import, and not needed to read a log
    from torch import Tensor

Weights = Literal["last", "best"]
SPEED = ("images_per_s", "data_wait", "step_ms", "step_ms_p95", "memory_gb", "mfu")
"""What train records tell about speed."""


class RunFolder:
    """Where everything of a run lies.

    Args:
        path: the folder, which need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.recipe = path / "recipe.yaml"
        self.label_space = path / "label_space.json"
        self.log = path / "log.jsonl"
        self.checkpoints = path / "checkpoints"
        self.tensorboard = path / "tensorboard"
        self.trackers = path / "trackers"

    @property
    def is_begun(self) -> bool:
        """Whether a run was started here."""
        return self.recipe.is_file()

    def require_startable(self, resume: bool) -> None:
        """Raises ValueError where there is nothing to resume, or something that a new run would overwrite."""
        if resume and not self.is_begun:
            raise ValueError(f"{self.path} holds no run to resume: start without --resume.")
        if not resume and self.has_something_to_lose:
            raise ValueError(f"{self.path} holds a run already: add --resume to continue it or set another output.")

    @property
    def has_something_to_lose(self) -> bool:
        """Not so where a run failed at its start, which may simply be started again."""
        return self.has_saved or (self.log.is_file() and self.log.stat().st_size > 0)

    @property
    def has_saved(self) -> bool:
        """Whether there is a checkpoint to go on from, or weights to use."""
        return bool(self.all_checkpoints()) or any(self.weights(which).is_file() for which in get_args(Weights))

    def claim(self) -> None:
        """Makes the folder if there is none, and holds it for this process until that ends.

        Raises:
            ValueError: another process trains here.
        """
        if (held := hold(self.path)) is None:
            raise ValueError(f"another process is training in {self.path}: wait, or set another output.")
        self._held = held

    def require_begun(self) -> None:
        """Raises ValueError where no run was started."""
        if not self.is_begun:
            raise ValueError(f"{self.path} is not a run: it has no {self.recipe.name}.")

    def weights(self, which: Weights) -> Path:
        """The file of whole weights."""
        return self.path / f"{which}.safetensors"

    def evaluation(self, split: str) -> Path:
        """What `fastlt evaluate` found on a split."""
        return self.path / f"evaluation_{split}.json"

    def per_class(self, split: str) -> Path:
        """The same, class by class."""
        return self.path / f"per_class_{split}.csv"

    def mistakes(self, split: str) -> Path:
        """Its images that were taken for something else."""
        return self.path / f"mistakes_{split}.json"

    def tracker(self, name: str) -> Path:
        """The record that another tracker has of this run: its id, and up to where it has the log."""
        return self.trackers / f"{name}.json"

    def calibration(self, which: Weights) -> Path:
        """What `fastlt evaluate --calibrate` found for these weights."""
        return self.path / f"calibration_{which}.json"

    def weights_for(self, split: str) -> Weights:
        """The weights to evaluate on a split: the best ones were chosen on val, and so would look too good there."""
        return "best" if split == "test" and self.weights("best").is_file() else "last"

    def checkpoint(self, step: int) -> Path:
        """The checkpoint of this step."""
        return self.checkpoints / f"step-{step:09d}"

    def all_checkpoints(self) -> list[Path]:
        """Those that are complete, the newest one last."""
        return sorted(path for path in self.checkpoints.glob("step-*") if path.name[5:].isdecimal() and path.is_dir())

    def records(self) -> list[dict[str, Any]]:
        """The records of the log in order; a line that was cut off by a kill is left out.

        Raises:
            ValueError: there is no log, or it has other lines than a run writes.
        """
        if not self.log.is_file():
            raise ValueError(f"{self.path} is not a run: it has no {self.log.name}.")
        records = []
        for number, line in enumerate(read_bytes(self.log).decode(errors="replace").splitlines(), 1):
            try:
                record = parse_json(line)
            except ValueError:
                continue
            if not (isinstance(record, dict) and type(record.get("step")) is int):
                raise ValueError(f"line {number} of {self.log} is no record of a run: {one_line(line)}.")
            records.append(record)
        return records

    def save_weights(self, weights: dict[str, Tensor], which: Weights, about: dict[str, Any]) -> None:
        """Writes whole weights as safetensors, with `about` in the header."""
        from safetensors.torch import save_file

        with new_file(self.weights(which)) as temporary:
            save_file(weights, temporary, {name: json.dumps(value) for name, value in about.items()})
            shutil.copymode(self.recipe, temporary)  # written for its owner alone

    def load_weights(self, which: Weights, label_space: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Whole weights, and what was saved about them.

        Args:
            which: "last" or "best".
            label_space: digest of the classes that they must belong to.

        Raises:
            ValueError: no such file, or weights of another label space.
        """
        from safetensors import SafetensorError, safe_open

        file = self.weights(which)
        if not file.is_file():
            others = [other for other in get_args(Weights) if self.weights(other).is_file()]
            why = f"it has only {others[0]} weights" if others else "the run has not finished an epoch"
            raise ValueError(f"there are no weights at {file}: {why}.")
        try:
            stored = safe_open(file, framework="pt")
        except SafetensorError as error:
            raise ValueError(f"{file} is damaged ({error}): resume the run to have it written again.") from None
        with stored:
            about = _described(file, stored.metadata() or {})
            weights = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
        if about.get("label_space") != label_space:
            raise ValueError(f"{file} belongs to another label space ({about.get('label_space')}, not {label_space}).")
        return weights, about


def _described(file: Path, metadata: dict[str, str]) -> dict[str, Any]:
    try:
        return {name: parse_json(value) for name, value in metadata.items()}
    except ValueError as error:
        raise ValueError(f"the header of {file} is not as a run writes it: {error}.") from None


def hold(folder: Path, wait: bool = False) -> int | None:
    """Makes a folder if there is none, and holds it for this process until that ends or closes what is returned.

    None where another process holds it; `wait` waits until that has ended.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    with suppress(OSError):  # some network file systems have no locks
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            os.close(descriptor)
            return None
    return descriptor


def median_speed(records: list[dict[str, Any]]) -> dict[str, float]:
    """Medians over a run's train records of what they tell about its speed."""
    train = [r for r in records if r["kind"] == "train"]
    return {
        name: statistics.median(r[name] for r in train if name in r) for name in SPEED if train and name in train[-1]
    }
