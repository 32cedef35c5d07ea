"""What a run tells: JSON lines, TensorBoard events, other trackers, and for people a progress bar or lines."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from tqdm import tqdm

from fastlt.atomic import write_text
from fastlt.ownership import open_own
from fastlt.recipe import Recipe, flat
from fastlt.run_folder import RunFolder, median_speed
from fastlt.training.tracker import scalars
from fastlt.training.trackers import Trackers

_SECONDS_BETWEEN_LINES = 10.0  # without a terminal
_SECONDS_NOT_WORTH_A_WORD = 60.0


class RunLog:
    """Writes the log of rank 0; on other ranks it does nothing.

    Records have `kind` ("train", "eval" or "summary") and `step`, the optimizer steps done. After a resume,
    records of steps that are trained again are taken out first.

    Args:
        run: the folder.
        active: whether this is rank 0.
        total_steps, first_step: of the whole run, and those that are done.
        recipe: names the trackers, which are told its keys.
    """

    def __init__(self, run: RunFolder, active: bool, total_steps: int, first_step: int, recipe: Recipe) -> None:
        self.active = active
        if not active:
            return
        self._run, self._total = run, total_steps
        if run.log.exists():
            kept = [r for r in run.records() if r["step"] <= first_step]
            write_text(run.log, "".join(json.dumps(r) + "\n" for r in kept))
        self._file = open_own(run.log, "a")
        self._events = None
        if "tensorboard" in recipe.log.trackers:
            from torch.utils.tensorboard import SummaryWriter  # slow to import

            self._events = SummaryWriter(str(run.tensorboard), purge_step=first_step + 1)
        others = [name for name in recipe.log.trackers if name != "tensorboard"]
        self._trackers = Trackers(others, run, flat(recipe))
        self._interactive = sys.stderr.isatty()
        self._bar = tqdm(total=total_steps, initial=first_step, unit="step", disable=not self._interactive)
        self._last_line = time.monotonic()
        self._windows = 0

    def write(self, kind: str, step: int, **values: Any) -> None:
        """Appends one record; numbers go to TensorBoard under `kind/name`."""
        if not self.active:
            return
        record = {"kind": kind, "step": step} | values
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()
        if self._events:
            for name, value in scalars(record).items():
                self._events.add_scalar(name, value, step)
        for line in self._trackers.said():
            self.say(line)

    def progress(self, step: int, loss: float, images_per_s: float, data_wait: float, step_seconds: float) -> None:
        """Shows where the run is: on a terminal a bar, elsewhere a line now and then."""
        if not self.active:
            return
        said, left = f"loss {loss:.3f}  {images_per_s:.0f} images/s", (self._total - step) * step_seconds
        self._windows += 1
        if self._windows == 2 and left > _SECONDS_NOT_WORTH_A_WORD:  # the first one compiles
            speed = f"{self._total - step:,} steps of {1000 * step_seconds:.0f} ms, evaluations not counted"
            self.say(f"about {_duration(left)} to go: {speed}")
        if self._interactive:
            self._bar.set_postfix_str(said, refresh=False)
            self._bar.update(step - self._bar.n)
        elif time.monotonic() - self._last_line > _SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            until = f"  about {_duration(left)} left" if self._windows > 1 else ""
            print(f"step {step:,}/{self._total:,}  {said}, {data_wait:.0%} waiting for data{until}", flush=True)

    def say(self, text: str) -> None:
        """A line for people that stays."""
        if self.active:
            tqdm.write(text) if self._interactive else print(text, flush=True)

    def summarize(self) -> None:
        """Says, and appends as a record of kind "summary", how fast the whole run was: medians of its train records."""
        if not self.active:
            return
        records = self._run.records()
        found = median_speed(records)
        self.write("summary", records[-1]["step"], **found)
        share = f", {found['mfu']:.0%} of the device's peak" if "mfu" in found else ""
        self.say(
            f"{found['images_per_s']:.0f} images/s, {found['step_ms']:.0f} ms a step (p95 {found['step_ms_p95']:.0f} "
            f"ms), {found['data_wait']:.1%} of the time waiting for data, {found['memory_gb']:.1f} GB of memory{share}"
        )

    def close(self) -> None:
        """Closes all files."""
        if self.active:
            self._bar.close()
            self._file.close()
            if self._events:
                self._events.close()
            for line in self._trackers.close():
                self.say(line)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"
