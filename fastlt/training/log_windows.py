"""What happens between two log lines: the window before is logged, and all ranks agree whether to stop or to save."""

from __future__ import annotations

import math
import time

import torch.distributed as dist

from fastlt.recipe import Recipe
from fastlt.training.flops import forward_flops, peak_flops
from fastlt.training.run_log import RunLog
from fastlt.training.step_stats import LogWindow, StepStats, memory_bytes


class LogWindows:
    """Ends log windows, and reads each when the next one ends.

    What a window holds is on its way to the host while the next one runs, so nobody waits for the device; the last one
    is read where one waits anyway: when saving, stopping, and at the end of an epoch.

    Args:
        stats: of the steps.
        log: where they are written.
        recipe: of the run.
        num_classes, steps_per_epoch: of the run.
    """

    def __init__(self, stats: StepStats, log: RunLog, recipe: Recipe, num_classes: int, steps_per_epoch: float) -> None:
        self._stats, self._log, self._recipe, self._steps_per_epoch = stats, log, recipe, steps_per_epoch
        self._peak = peak_flops(stats.device)
        if self._peak:
            # Forward once, backward twice; what is computed again to save memory does not count.
            self._flops = 3 * forward_flops(recipe.model, recipe.data.image_size, num_classes)
        self._unread: LogWindow | None = None
        self._saved_at = time.monotonic()

    def saved(self) -> None:
        """To be called after a checkpoint: `checkpoint.minutes` count from here."""
        self._saved_at = time.monotonic()

    def end(self, step: int, rate: float, wants_stop: bool, is_last: bool) -> tuple[bool, bool]:
        """Ends a window; called by all ranks at the same step.

        Args:
            step: optimizer steps done.
            rate: learning rate of the last step.
            wants_stop: whether this rank was told to stop.
            is_last: whether the epoch ends here.

        Returns:
            (whether to stop, whether to save), the same on all ranks.

        Raises:
            ValueError: the loss is not finite.
        """
        before, minutes = self._unread, self._recipe.checkpoint.minutes
        stop, save = self._read(before) if before else (False, False)
        due = bool(minutes) and not save and time.monotonic() - self._saved_at > 60 * minutes
        self._unread = self._stats.end(step, wants_stop, due and dist.get_rank() == 0, rate)
        if stop or save or is_last:
            stops, saves = self._read(self._unread)
            stop, save, self._unread = stop or stops, save or saves, None
        return stop, save

    def _read(self, window: LogWindow) -> tuple[bool, bool]:
        loss, stop, save, silenced_mass = window.read()
        if not math.isfinite(loss):
            raise ValueError(
                f"the loss is {loss} at step {window.step}: lower optimizer.blr, warm up longer or set "
                "optimizer.clip_grad; the checkpoints before it are good."
            )
        speed = window.speed()
        values = {"epoch": window.step / self._steps_per_epoch, "loss": loss, "lr": window.rate} | speed
        if silenced_mass is not None:
            values["silenced_mass"] = silenced_mass
        values["memory_gb"] = memory_bytes(self._stats.device) / 1e9
        if self._peak:
            values["mfu"] = self._flops * values["images_per_s"] / dist.get_world_size() / self._peak
        self._log.write("train", window.step, **values)
        step_seconds = self._recipe.optimizer.batch_size / speed["images_per_s"]
        self._log.progress(window.step, loss, speed["images_per_s"], speed["data_wait"], step_seconds)
        return stop, save
