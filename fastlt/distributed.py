"""A rank and its process: who am I, on which device or cores, and how a failing rank says so."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import deepspeed
import torch

PATIENCE_SECONDS = 10
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of glibc's malloc.h


def join_process_group() -> torch.device:
    """Joins the launcher's process group, or makes one of a single process; returns this rank's device.

    Raises:
        ValueError: another program listens on the port at which the ranks were to meet.
    """
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
    if "RANK" not in os.environ:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            os.environ.update(alone | {"MASTER_PORT": str(free.getsockname()[1])})
    try:
        deepspeed.init_distributed(verbose=False)
    except torch.distributed.DistNetworkError as error:
        if "EADDRINUSE" not in str(error):
            raise
        raise ValueError(
            f"port {os.environ['MASTER_PORT']}, at which the ranks meet, is in use, perhaps by another training on "
            "this machine: choose another one with --master_port (deepspeed) or --master-port (torchrun)."
        ) from None
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
        return device
    prepare_cpu()
    return torch.device("cpu")


def prepare_cpu() -> None:
    """Has torch compute on this rank's share of the cores, in memory that it keeps from step to step.

    glibc would give back what a step has freed, and clearing the pages again costs the next one 3% or more.
    """
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(share_of_cores())
    if set_option := getattr(ctypes.CDLL(None), "mallopt", None):  # glibc's alone
        set_option(_M_TRIM_THRESHOLD, -1)  # never
        set_option(_M_MMAP_MAX, 0)


def share_of_cores() -> int:
    """CPU cores of this machine for each of its ranks, at least 1."""
    ranks_here = int(os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("LOCAL_SIZE") or 1)
    return max(1, len(os.sched_getaffinity(0)) // ranks_here)


@contextmanager
def exit_with_one_sentence() -> Iterator[None]:
    """Ends the process with status 1 on an error: a user's mistake as one sentence, others with a trace.

    Recipes and data are the same everywhere, and 64 ranks would say a mistake 64 times: rank 0 speaks at once,
    and the launcher then ends the others. One that still lives after `PATIENCE_SECONDS` has a mistake of its own.
    """
    rank = os.environ.get("RANK", "0")
    try:
        yield
    except ValueError as error:
        if rank != "0":  # nor leave first: that would break a collective in which rank 0 still is
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            time.sleep(PATIENCE_SECONDS)
        print(f"fastlt: error: {error}" + f" (rank {rank})" * (rank != "0"), file=sys.stderr, flush=True)
        if os.environ.get("FASTLT_TRACE"):
            traceback.print_exc()
        _leave()
    except Exception:
        print(f"fastlt: rank {rank} failed", file=sys.stderr, flush=True)
        traceback.print_exc()
        _leave()


def _leave() -> None:
    # Not sys.exit: a rank that waits in a collective, or a loader thread, must not keep the process alive.
    sys.stderr.flush()
    sys.stdout.flush()
    os._exit(1)
