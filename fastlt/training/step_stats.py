"""Loss and speed of a log window, the steps between two log lines, gathered without ever waiting for the device."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor


@dataclass
class LogWindow:
    """The steps between two log lines; reading it waits for them, if they are not done yet."""

    step: int
    rate: float
    images: int
    seconds: float
    waited: float
    step_times: list[float]
    step_events: list[torch.cuda.Event]
    sums: Tensor
    copied: torch.cuda.Event | None
    reducing: dist.Work | None

    def read(self) -> tuple[float, bool, bool, float | None]:
        """(mean loss, somebody wants to stop, rank 0 wants to save, silenced mass), the same on all ranks.

        The last is a mean over samples, None where none was measured.
        """
        if self.reducing:
            self.reducing.wait()
        if self.copied:
            self.copied.synchronize()
        loss, micro_steps, stops, saves, mass, samples = self.sums.tolist()
        return loss / micro_steps, stops > 0, saves > 0, mass / samples if samples else None

    def speed(self) -> dict[str, float]:
        """images/s over all ranks; of this rank the share of time it waited for data and its steps' milliseconds.

        To be called after `read`.
        """
        times = self.step_times + [a.elapsed_time(b) for a, b in pairwise(self.step_events)]
        found = {"images_per_s": self.images / self.seconds, "data_wait": self.waited / self.seconds}
        if times:
            middle, high = np.quantile(times, [0.5, 0.95])
            found |= {"step_ms": float(middle), "step_ms_p95": float(high)}
        return found


class StepStats:
    """Sums losses on the device and takes the time of steps on the host's clock, or a GPU's.

    Values of a log window set out for the host when it ends (`end`) and are read when the next one does; then they are
    there already.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        # Loss, micro-steps, stop, save, silenced mass, samples of which that is.
        self._sums = torch.zeros(6, dtype=torch.float64, device=device)
        self.restart()

    def restart(self) -> None:
        """Begins a new log window."""
        self._sums = torch.zeros_like(self._sums)  # the old one may still be on its way
        self._images, self._waited, self._started = 0, 0.0, time.perf_counter()
        self._step_started = self._started
        self._times: list[float] = []
        self._events: list[torch.cuda.Event] = [self._now()] if self.device.type == "cuda" else []

    def add(self, loss: Tensor, images: int) -> None:
        """Counts a micro-step: its loss, a scalar on the device, and its images over all ranks."""
        self._sums[0] += loss
        self._sums[1] += 1
        self._images += images

    def add_silenced(self, mass: Tensor, counts: Tensor) -> None:
        """Takes the silenced mass [B] of those samples that count, bool [B]."""
        self._sums[4] += mass.where(counts, 0).sum()
        self._sums[5] += counts.sum()

    def end_step(self) -> None:
        """Takes the time of an optimizer step."""
        if self.device.type == "cuda":
            self._events.append(self._now())
        else:
            now = time.perf_counter()
            self._times.append(1000 * (now - self._step_started))
            self._step_started = now

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Counts the time inside as waiting for data."""
        started = time.perf_counter()
        yield
        self._waited += time.perf_counter() - started

    def end(self, step: int, stop: bool, save: bool, rate: float) -> LogWindow:
        """Ends the log window at this step and begins the next one; called by all ranks at the same step.

        Args:
            step: optimizer steps done.
            stop, save: what this rank wants.
            rate: learning rate of the last step.
        """
        self._sums[2], self._sums[3] = float(stop), float(save)
        reducing = dist.all_reduce(self._sums, async_op=True)
        sums, copied = self._sums, None
        if self.device.type == "cuda":
            reducing.wait()  # makes the stream wait, not the host
            sums = torch.empty(self._sums.shape, dtype=torch.float64, pin_memory=True)
            sums.copy_(self._sums, non_blocking=True)
            copied = self._now()
        seconds = time.perf_counter() - self._started
        window = LogWindow(
            step, rate, self._images, seconds, self._waited, self._times, self._events, sums, copied, reducing
        )
        self.restart()
        return window

    @staticmethod
    def _now() -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


def memory_bytes(device: torch.device) -> int:
    """Peak of what this rank allocated on its GPU, or of its resident memory on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
