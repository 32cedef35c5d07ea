"""Rates of arms that take turns: each in a process of its own, which stays warm while the others run.

So a machine that slows down slows them all down, and none finds another's threads or memory in its way.
"""

from __future__ import annotations

import multiprocessing
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Generic, TypeVar

import torch

from bench.harness.processes import tree_bytes
from bench.harness.timing import Unavailable

Tick = Callable[[int], None]
"""To be called after each step, with the images of it."""
Arm = Callable[[Tick], None]
"""Works without end, and ticks. Raises Unavailable where it cannot."""
Key = TypeVar("Key")
_PATIENCE = 30.0  # seconds an arm has to end


@dataclass
class Turns(Generic[Key]):
    """What was measured.

    Attributes:
        rates: images/s of each round.
        peaks: bytes that the arm's processes held, at most, as seen after its turns.
        skipped: why an arm did not run.
    """

    rates: dict[Key, list[float]]
    peaks: dict[Key, int]
    skipped: dict[Key, str]


def take_turns(
    arms: dict[Key, Arm], rounds: int, seconds: float, warm_up: float, preload: Sequence[str] = ()
) -> Turns[Key]:
    """Runs each arm for about `seconds` in each round, after `warm_up` seconds that do not count.

    Args:
        arms: what to run, as functions that can be pickled.
        rounds, seconds, warm_up: see above.
        preload: modules that are imported once for all arms; none that touches a GPU.

    Raises:
        RuntimeError: an arm failed.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(preload))
    processes, pipes, skipped = {}, {}, {}
    try:
        for key, arm in arms.items():
            pipes[key], theirs = context.Pipe()
            processes[key] = context.Process(target=_serve, args=(theirs, arm))
            processes[key].start()
            theirs.close()
        for key in arms:
            if reason := _answer(key, pipes[key]):
                skipped[key] = str(reason)
        running = [key for key in arms if key not in skipped]
        found = Turns({key: [] for key in running}, dict.fromkeys(running, 0), skipped)
        for _ in range(rounds):
            for key in running:
                pipes[key].send((seconds, warm_up))
                found.rates[key].append(_answer(key, pipes[key]))
                found.peaks[key] = max(found.peaks[key], tree_bytes(processes[key].pid or 0))
        return found
    finally:
        for pipe in pipes.values():
            pipe.close()
        for process in processes.values():
            process.join(_PATIENCE)
            process.kill()


def _answer(key: Key, pipe: Connection):
    """A rate, "" when an arm is ready, or why it is not available."""
    try:
        kind, value = pipe.recv()
    except EOFError:
        raise RuntimeError(f"{key}: its process died.") from None
    if kind == "failed":
        raise RuntimeError(f"{key} failed:\n{value}")
    return value


class _Over(Exception):
    """Nobody asks for more turns."""


def _serve(pipe: Connection, arm: Arm) -> None:
    try:
        arm(_Clock(pipe).tick)
    except _Over:
        pass
    except (Unavailable, ImportError) as reason:
        pipe.send(("skipped", str(reason)))
    except Exception:
        pipe.send(("failed", traceback.format_exc()))


class _Clock:
    """Counts the images of a turn, from the end of one step to the end of another."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self._images, self._started, self._counts_from = 0, 0.0, 0.0
        self._seconds, self._is_ready = 0.0, False

    def tick(self, images: int) -> None:
        """Takes a step's images; between turns, does not return."""
        if not self._is_ready:
            self._is_ready = True
            self._pipe.send(("ready", ""))
            self._wait_for_turn()
        elif not self._started:
            if time.perf_counter() >= self._counts_from:
                _synchronize()
                self._started, self._images = time.perf_counter(), 0
        else:
            self._images += images
            if time.perf_counter() - self._started >= self._seconds:
                _synchronize()
                self._pipe.send(("rate", self._images / (time.perf_counter() - self._started)))
                self._wait_for_turn()

    def _wait_for_turn(self) -> None:
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()  # the others need it, too
        try:
            self._seconds, warm_up = self._pipe.recv()
        except EOFError:
            raise _Over from None
        self._started, self._counts_from = 0.0, time.perf_counter() + warm_up


def _synchronize() -> None:
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
