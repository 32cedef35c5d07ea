"""`fastlt study`: trains what is not done of a study, evaluates it, and writes what all of it says together.

A finished run is a line of runs.jsonl, which has its recipe's digest, its commit and its figures; one that is not
finished is a folder with study.json, which says who began it. Either can be gone on with after any end of this process.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from fastlt.atomic import write_text
from fastlt.experiments.comparison import FIGURES, compare, compare_further
from fastlt.experiments.study_file import Cell, Plan, as_word, read_study
from fastlt.experiments.study_picture import draw
from fastlt.experiments.study_table import csv_table, markdown
from fastlt.foreign import load_json, parse_json, read_bytes
from fastlt.launch import devices, launch
from fastlt.messages import listed, one_line
from fastlt.ownership import open_own
from fastlt.provenance import commit, gpu, processor, versions
from fastlt.recipe import load_recipe
from fastlt.run_folder import RunFolder, hold
from fastlt.stopping import signal_when_parent_ends, stop_signals, wait_for

_CODE = ("fastlt", "kernels")
_VERSIONED = ("torch", "torchvision", "timm", "deepspeed", "numpy", "numba", "pillow")
_KEPT = ("top1", "all", "many", "medium", "few", "ece", "mce", "num_images", "split", "weights", "epoch", "precision")
_MADE_BY = ("commit", "data_digest", "ranks")
"""What must be the same, beside the recipe, for a run to be one of this study."""
_WRITTEN = ("runs.jsonl", "table.md", "table.csv", "picture.png")
_MOST = 2**63  # what files of records can count
_FAR = 0.05  # of the baseline's steps
Line = dict[str, Any]
Key = tuple[str, str, int]


def run_study(
    file: Path, out: Path | None = None, only: Sequence[str] = (), redo: bool = False, other_commits: bool = False
) -> int:
    """Trains and evaluates what is not done, and writes table and picture after each run; returns the exit status.

    Args:
        file: the study.
        out: its folder, that of the file's name if None.
        only: arms to train, or none for all.
        redo: delete stale runs of these arms and train them again.
        other_commits: runs of other commits are not stale.

    Raises:
        ValueError: the study cannot be started, or has stale runs of these arms.
    """
    plan = read_study(file, out)
    if unknown := [arm for arm in only if arm not in plan.keys.arms]:
        raise ValueError(f"--only {unknown[0]}: there is no such arm, only {listed(list(plan.keys.arms))}.")
    held = hold(plan.out)
    if held is None:
        raise ValueError(f"another study is running in {plan.out}: wait, or name another folder with --out.")
    try:
        study = _Study(plan, other_commits)
        cells = [cell for cell in plan.cells if not only or cell.arm in only]
        study.require_fresh(cells, redo)
        return study.run(cells)
    finally:
        os.close(held)


class _Study:
    """A study that is held by this process."""

    def __init__(self, plan: Plan, other_commits: bool) -> None:
        self.plan, self.other_commits = plan, other_commits
        self.file = plan.out / "runs.jsonl"
        self.lines = _read_lines(self.file)
        self.commit = commit(*_CODE)
        self.failed: dict[Key, str] = {}
        found = {cell.key: self._why_stale(cell) for cell in plan.cells}
        self.stale = {key: why for key, why in found.items() if why}

    def require_fresh(self, cells: Sequence[Cell], redo: bool) -> None:
        """Raises ValueError where some of these runs are stale, or deletes them.

        Those that failed and have saved nothing are not worth the question.
        """
        stale = [cell for cell in cells if cell.key in self.stale]
        asked: dict[str, tuple[str, list[Cell]]] = {}
        for cell in stale:
            if not redo and ("failed" not in _begun(cell.folder) or cell.folder.has_saved):
                asked.setdefault(cell.arm, (self.stale[cell.key], []))[1].append(cell)
        if asked:
            runs = [f"{arm!r} ({len(cells)} runs; {why})" for arm, (why, cells) in asked.items()]
            keep = " --other-commits takes runs of another commit." * any("commit:" in why for why, _ in asked.values())
            raise ValueError(
                f"{self.plan.out} has stale runs of the arms {listed(runs)}: undo the change, name another folder with "
                f"--out, or have --redo delete them and train them again.{keep}"
            )
        if links := [cell.folder.path for cell in stale if cell.folder.path.is_symlink()]:
            raise ValueError(f"the stale run {links[0]} is a link, behind which nothing is deleted: remove it first.")
        for cell in stale:
            print(f"deleted {cell.folder.path}: {self.stale[cell.key]}")
            self._delete(cell)

    def _why_stale(self, cell: Cell) -> str:
        """What differs between a run that was begun or finished and what it would be now; "" for nothing."""
        folder, line = cell.folder, self.lines.get(cell.key)
        if folder.is_begun:
            try:
                changed = cell.changed(load_recipe(folder.recipe))
            except ValueError as error:
                return one_line(error, 300)
            if changed:
                return listed(changed, 3)
        elif folder.has_something_to_lose:
            return f"it has no {folder.recipe.name}"
        if line and line["recipe"] != cell.recipe_digest():
            return "its recipe is another now"
        made = line or _begun(folder)
        if not made:
            return "it was not begun by a study" if folder.is_begun else ""
        now = self._made_by(cell)
        differ = [name for name in _MADE_BY if made.get(name) != now[name]]
        if self.other_commits:
            differ = [name for name in differ if name != "commit"]
        if "data_digest" in differ:
            return "its data set was encoded again since"
        return ", ".join(f"{name}: {made.get(name)} -> {now[name]}" for name in differ)

    def _made_by(self, cell: Cell) -> Line:
        return {"commit": self.commit, "data_digest": cell.data_digest, "ranks": self.plan.ranks}

    def _delete(self, cell: Cell) -> None:
        _wait_for(cell.folder)
        if self.lines.pop(cell.key, None):
            self._write_lines()
        gone = cell.folder.path.with_name(f".{cell.folder.path.name}.deleted")  # a kill leaves half of no run
        if gone.exists():
            shutil.rmtree(gone)
        cell.folder.path.rename(gone)
        shutil.rmtree(gone)
        del self.stale[cell.key]

    def run(self, cells: Sequence[Cell]) -> int:
        """Trains and evaluates those cells that are not done."""
        self._say_what_is_there(cells)
        self._write_tables()
        left = [cell for cell in cells if cell.key not in self.lines]
        for number, cell in enumerate(left, 1):
            print(f"[{number}/{len(left)}] {cell.data}, {cell.arm}, seed {cell.seed}", end=": ", flush=True)
            status, failure = self._train(cell)
            if status:
                print(f"stopped; the same command goes on\nwritten: {self.plan.out / 'table.md'}")
                return status
            print(f"failed: {failure}" if failure else _said_of(self.lines[cell.key]), flush=True)
            self._write_tables()
        print(f"written: {', '.join(str(file) for name in _WRITTEN if (file := self.plan.out / name).exists())}")
        if self.failed:
            print(
                f"{len(self.failed)} of {len(cells)} runs failed: the table says why; the same command tries them again"
            )
        return 1 if self.failed else 0

    def _say_what_is_there(self, cells: Sequence[Cell]) -> None:
        done = sum(cell.key in self.lines for cell in cells)
        print(f"{len(cells)} runs in {self.plan.out}, {done} of them done; what each says is in its output.txt")
        if self.plan.keys.steps is not None:
            self._say_steps()
        if self.stale:
            arms = sorted({arm for _, arm, _ in self.stale})
            print(f"{len(self.stale)} stale runs of other arms are left out of the tables: {listed(arms)}")
        known = {cell.key for cell in self.plan.cells}
        if others := [key for key in self.lines if key not in known]:
            named = sorted({f"{arm} on {data}" for data, arm, _ in others})
            print(f"{len(others)} runs in {self.file} are none of this study now, and stay there: {listed(named)}")

    def _say_steps(self) -> None:
        """Whole epochs come near to the same number of steps; how near, and whether that is far off."""
        for data in self.plan.keys.data:
            steps = {cell.arm: cell.steps for cell in self.plan.cells if cell.data == data}
            equal = steps[self.plan.keys.compared_with]
            print(f"optimizer steps on {data}: {listed([f'{arm} {number:,}' for arm, number in steps.items()], 20)}")
            if far := [arm for arm, number in steps.items() if abs(number - equal) > _FAR * equal]:
                print(f"warning: whole epochs of {listed(far)} do not come near {equal:,} steps: take more steps")

    def _train(self, cell: Cell) -> tuple[int, str]:
        """Trains and evaluates; returns (status if told to stop, why it failed)."""
        folder = cell.folder
        _wait_for(folder)
        resume, made_by = folder.is_begun, self._made_by(cell)
        commits = _begun(folder).get("commit", "").split(", ")
        made_by["commit"] = ", ".join(dict.fromkeys(filter(None, [*commits, self.commit])))
        _begin(folder, made_by)
        words = ["--config", cell.base, *["--resume"] * resume, *cell.words, as_word("output", str(folder.path))]
        with open_own(folder.path / "output.txt", "a") as said:
            start = said.tell()
            status = launch(words, self.plan.ranks, said)
            if not status:
                status = _evaluate(folder, said)
            if status - 128 in stop_signals():
                return status, ""
        if status:
            self.failed[cell.key] = _reason(folder.path / "output.txt", start, status)
            _begin(folder, made_by | {"failed": self.failed[cell.key]})
            return 0, self.failed[cell.key]
        self.lines[cell.key] = _line(cell, made_by)
        self._write_lines()
        return 0, ""

    def _write_lines(self) -> None:
        """Lines of this study in its order, then those that are none of it now."""
        order = [cell.key for cell in self.plan.cells if cell.key in self.lines]
        ordered = {key: self.lines[key] for key in order} | self.lines
        write_text(self.file, "".join(json.dumps(line) + "\n" for line in ordered.values()))

    def _write_tables(self) -> None:
        lines = [self.lines[cell.key] for cell in self.plan.cells if cell.key in self.lines.keys() - self.stale]
        why = {key: f"stale: {why}" for key, why in self.stale.items()}
        why |= {cell.key: failed for cell in self.plan.cells if (failed := _begun(cell.folder).get("failed"))}
        rows = compare(self.plan, lines, why)
        further = compare_further(self.plan, rows)
        write_text(self.plan.out / "table.md", markdown(self.plan, rows, further))
        csv_table([*rows, *further], self.plan.out / "table.csv")
        draw(self.plan, rows, self.plan.out / "picture.png")


def _read_lines(file: Path) -> dict[Key, Line]:
    """The records of finished runs.

    Raises:
        ValueError: a line is none, or stands for a run that another one stands for.
    """
    found: dict[Key, Line] = {}
    text = read_bytes(file).decode(errors="replace") if file.exists() else ""
    for number, written in enumerate(text.splitlines(), 1):
        try:
            line = parse_json(written)
            key = line["data"], line["arm"], line["seed"]
            if not _is_line(line) or key in found:
                raise ValueError("it is not as a study writes it, or stands there twice")
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(
                f"line {number} of {file} is no record of a run: {one_line(error)}. Delete that line: the same command "
                "then takes its run from the run's folder, or trains it again where that is gone."
            ) from None
        found[key] = line
    return found


def _is_line(line: Line) -> bool:
    """Whether it has what the tables are made of."""
    texts = [line[name] for name in ("data", "arm", "recipe", "split", "weights", "device", "commit", "data_digest")]
    percent = [line[name] for name in ("top1", *FIGURES) if line[name] is not None]
    whole = [line[name] for name in ("seed", "steps", "epochs", "ranks")]
    numbers = [(percent, 100), ([line["hours"]], _MOST), (whole, _MOST)]
    return (
        all(isinstance(text, str) for text in texts)
        and all(0 <= value <= most for values, most in numbers for value in values)  # not so for NaN
        and all(isinstance(value, int) for value in whole)
    )


def _begun(folder: RunFolder) -> Line:
    """By what a run was begun, and why it failed if it did; empty where no study began it."""
    try:
        made = load_json(folder.path / "study.json")
    except (OSError, ValueError):
        return {}
    return made if isinstance(made, dict) else {}


def _wait_for(folder: RunFolder) -> None:
    """Waits until nobody trains there any more: a training whose study was killed saves first."""
    held = hold(folder.path)
    if held is None:
        print("waiting for the training that is going on there", end=" ... ", flush=True)
        held = hold(folder.path, wait=True)
    if held is not None:
        os.close(held)


def _begin(folder: RunFolder, made_by: Line) -> None:
    write_text(folder.path / "study.json", json.dumps(made_by) + "\n")


def _evaluate(folder: RunFolder, said: IO[str]) -> int:
    """Judges a run as a user would; returns the exit status, that of a signal which told this process to stop."""
    process = subprocess.Popen(
        [sys.executable, "-m", "fastlt", "evaluate", str(folder.path)],
        stdout=said,
        stderr=said,
        start_new_session=True,  # so that Ctrl-C comes here alone
        preexec_fn=lambda: signal_when_parent_ends(signal.SIGTERM),
    )
    return wait_for(process, lambda first: process.terminate())


def _line(cell: Cell, made_by: Line) -> Line:
    """The record of a run that was trained and evaluated."""
    folder = cell.folder
    evaluation, log = load_json(folder.evaluation(cell.split)), folder.records()
    figures = {name: evaluation[name] for name in _KEPT}
    about = {"steps": max(record["step"] for record in log), "epochs": cell.recipe.optimizer.epochs}
    about |= {"hours": round(_hours(log, cell.recipe.optimizer.batch_size), 4), "device": _device()}
    made = made_by | {"recipe": cell.recipe_digest(), "command": f"{cell.command} --ranks {made_by['ranks']}"}
    made["versions"] = versions(_VERSIONED)
    return {"data": cell.data, "arm": cell.arm, "seed": cell.seed} | figures | about | made


def _device() -> str:
    """On what runs are trained."""
    return (gpu() if devices() else "") or processor()


def _hours(log: list[Line], batch_size: int) -> float:
    """What training and evaluation took, without starts and what a kill made vain."""
    seconds, before = 0.0, 0
    for record in log:
        if record["kind"] == "train":
            seconds += (record["step"] - before) * batch_size / record["images_per_s"]
            before = record["step"]
        elif record["kind"] == "eval":
            seconds += record["seconds"]
    return seconds / 3600


def _reason(output: Path, start: int, status: int) -> str:
    """Why a process failed: the sentence that it ended with, or the last line of what it said."""
    if not output.is_file():
        return f"{output.parent} was removed or emptied while it ran"
    with output.open(errors="replace") as said:
        said.seek(start)
        lines = [line.strip() for line in said if line.strip()]
    if sentences := [line for line in lines if line.startswith("fastlt: error: ")]:
        return one_line(sentences[-1].removeprefix("fastlt: error: "), 300)
    if status < 0:
        return f"its process was ended by signal {-status}" + " (the system's, where memory is short)" * (status == -9)
    return one_line(lines[-1] if lines else f"exit status {status}", 300)


def _said_of(line: Line) -> str:
    shown = "  ".join(f"{name} {line[name]:.1f}" for name in FIGURES if line[name] is not None)
    return f"{shown}  ({line['steps']:,} steps, {60 * line['hours']:.1f} min)"
