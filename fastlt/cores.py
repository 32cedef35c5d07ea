"""How many CPU cores there are to use: those this process may run on, and a rank's share of them."""

from __future__ import annotations

import os


def available_cores() -> int:
    """Cores that this process may run on, which under Slurm, taskset or a container are not all of the machine's."""
    return len(os.sched_getaffinity(0))


def share_of_cores() -> int:
    """Those for each rank of this machine, at least 1."""
    ranks_here = int(os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("LOCAL_SIZE") or 1)
    return max(1, available_cores() // ranks_here)
