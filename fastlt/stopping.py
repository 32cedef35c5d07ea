"""What ends a run early: signals from the user or the cluster, and the end of the process that started it."""

from __future__ import annotations

import ctypes
import signal
import subprocess
from collections.abc import Callable
from typing import Any

_PR_SET_PDEATHSIG = 1  # of Linux's prctl.h


def stop_signals() -> list[signal.Signals]:
    """Signals that mean "save and end"; a hangup does not where nohup has it ignored.

    SIGINT does in the background too, where shells have it ignored: whoever sends it there means it.
    """
    hangup = [] if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else [signal.SIGHUP]
    return [signal.SIGINT, signal.SIGTERM, *hangup]


def signal_when_parent_ends(number: int) -> None:
    """Has the kernel send this process a signal when its parent ends, however it ends; Linux's alone."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(_PR_SET_PDEATHSIG, number)


def wait_for(process: subprocess.Popen[Any], end: Callable[[bool], None]) -> int:
    """Waits for a child, and ends it where this process is told to stop.

    The status is the child's, or 128 and the number of the first signal, as shells have it.

    Args:
        process: the child.
        end: ends it; called at each signal, with whether it is the first one.
    """
    told: list[int] = []

    def stop(number: int, frame: object) -> None:
        told.append(number)
        end(len(told) == 1)

    before = {number: signal.signal(number, stop) for number in stop_signals()}
    try:
        status = process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return 128 + told[0] if told else status
