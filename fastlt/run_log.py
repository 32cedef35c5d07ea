"""What a run tells: JSON lines, TensorBoard events, and a progress bar for people."""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import Any

from tqdm import tqdm

from fastlt.atomic import write_text

LOG_FILE = "log.jsonl"
SPEED = ("images_per_s", "data_wait", "step_ms", "step_ms_p95", "memory_gb", "mfu")


def read_log(run: Path) -> list[dict[str, Any]]:
    """The records of a run in order; a line cut off by a kill is left out."""
    records = []
    for line in (run / LOG_FILE).read_text().splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return records


def median_speed(records: list[dict[str, Any]]) -> dict[str, float]:
    """Medians over a run's train records of what they tell about its speed."""
    train = [r for r in records if r["kind"] == "train"]
    return {
        name: statistics.median(r[name] for r in train if name in r) for name in SPEED if train and name in train[-1]
    }


class RunLog:
    """Writes the log of rank 0; on other ranks it does nothing.

    Records have `kind` ("train", "eval" or "summary") and `step`, the optimizer steps done. After a resume,
    records of steps that are trained again are taken out first.
    """

    def __init__(self, run: Path, active: bool, total_steps: int, first_step: int, tensorboard: bool) -> None:
        self.active = active
        if not active:
            return
        file = run / LOG_FILE
        if file.exists():
            kept = [r for r in read_log(run) if r["step"] <= first_step]
            write_text(file, "".join(json.dumps(r) + "\n" for r in kept))
        self._file = file.open("a")
        self._events = None
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter  # slow to import

            self._events = SummaryWriter(str(run / "tensorboard"), purge_step=first_step + 1)
        interactive = sys.stderr.isatty()
        self._bar = tqdm(total=total_steps, initial=first_step, unit="step", disable=not interactive)
        self._plain = not interactive

    def write(self, kind: str, step: int, **values: Any) -> None:
        """Appends one record; numbers go to TensorBoard under `kind/name`."""
        if not self.active:
            return
        self._file.write(json.dumps({"kind": kind, "step": step} | values) + "\n")
        self._file.flush()
        for name, value in values.items():
            if self._events and isinstance(value, int | float):
                self._events.add_scalar(f"{kind}/{name}", value, step)

    def progress(self, step: int, text: str) -> None:
        """Moves the bar; without a terminal it prints nothing."""
        if self.active:
            self._bar.set_postfix_str(text, refresh=False)
            self._bar.update(step - self._bar.n)

    def say(self, text: str) -> None:
        """A line for people that stays."""
        if self.active:
            print(text, flush=True) if self._plain else tqdm.write(text)

    def summarize(self, run: Path) -> None:
        """Says, and appends as a record of kind "summary", how fast the whole run was: medians of its train records."""
        if not self.active:
            return
        records = read_log(run)
        found = median_speed(records)
        self.write("summary", records[-1]["step"], **found)
        share = f", {found['mfu']:.0%} of the device's peak" if "mfu" in found else ""
        self.say(
            f"{found['images_per_s']:.0f} images/s, a step in {found['step_ms']:.0f} ms ({found['step_ms_p95']:.0f} ms "
            f"of the slowest twentieth), {found['data_wait']:.1%} of the time waiting for data, "
            f"{found['memory_gb']:.1f} GB of memory{share}"
        )

    def close(self) -> None:
        if self.active:
            self._bar.close()
            self._file.close()
            if self._events:
                self._events.close()
