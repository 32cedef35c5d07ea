"""What ends a run early: signals from the user or the cluster, and the end of the process that started it."""

from __future__ import annotations

import ctypes
import signal

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
