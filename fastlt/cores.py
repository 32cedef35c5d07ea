"""What there is of a CPU to compute on: cores this process may run on, a rank's share of them, memory that is kept."""

from __future__ import annotations

import ctypes
import os

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of glibc's malloc.h


def available_cores() -> int:
    """Cores that this process may run on, which under Slurm, taskset or a container are not all of the machine's."""
    return len(os.sched_getaffinity(0))


def share_of_cores() -> int:
    """Those for each rank of this machine, at least 1."""
    ranks_here = int(os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("LOCAL_SIZE") or 1)
    return max(1, available_cores() // ranks_here)


def keep_freed_memory() -> None:
    """Has this process keep the memory that it frees, for what computes the same again and again.

    glibc would give back what a step has freed, and Linux clear the pages of the next one: of a training step 3% or
    more, and of a small model's inference, whose activations are large, half.
    """
    if set_option := getattr(ctypes.CDLL(None), "mallopt", None):  # glibc's alone
        set_option(_M_TRIM_THRESHOLD, -1)  # never
        set_option(_M_MMAP_MAX, 0)
