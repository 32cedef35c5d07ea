"""A rank and its process: who am I, on which device or cores, and do the others see what I see."""

from __future__ import annotations

import logging
import os
import socket
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import deepspeed
import torch
import torch.distributed as dist

from fastlt.cores import keep_freed_memory, share_of_cores
from fastlt.messages import listed, one_line

T = TypeVar("T")


def join_process_group() -> torch.device:
    """Joins the launcher's process group, or makes one of a single process; returns this rank's device.

    Raises:
        ValueError: the ranks cannot meet, as another program listens on their port or no network joins their hosts, or
            this rank has no GPU where it was to have one.
    """
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    _require_gpu()
    uses_gpu = torch.cuda.is_available() and os.environ.get("DS_ACCELERATOR") != "cpu"
    if not uses_gpu:
        # Of use to inference alone, and compiled anew for every checkout.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
    if "RANK" not in os.environ:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            os.environ.update(alone | {"MASTER_PORT": str(free.getsockname()[1])})
    try:
        deepspeed.init_distributed(verbose=False)
    except RuntimeError as error:
        raise ValueError(_why_no_meeting(str(error))) from error
    if uses_gpu:
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
        return device
    prepare_cpu()
    return torch.device("cpu")


def _why_no_meeting(said: str) -> str:
    """What to do where the ranks did not find each other."""
    where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    if "EADDRINUSE" in said:
        return (
            f"port {os.environ['MASTER_PORT']}, at which the ranks meet, is in use, perhaps by another training on "
            "this machine: choose another one with --master_port (deepspeed) or --master-port (torchrun)."
        )
    return (
        f"the ranks did not find each other by {where} ({one_line(said, 200)}): where hosts have several networks, "
        "GLOO_SOCKET_IFNAME (on GPUs NCCL_SOCKET_IFNAME too) names the card of the one that joins them, as eth0."
    )


def require_seen_by_all(folder: Path) -> None:
    """Raises ValueError where a rank does not see rank 0's folder, as it is not on a disk that all hosts share; called
    by all ranks."""
    mark: list[str] = [""]
    if dist.get_rank() == 0:
        descriptor, made = tempfile.mkstemp(prefix=".seen-by-all-", dir=folder)
        os.close(descriptor)
        mark = [Path(made).name]
    dist.broadcast_object_list(mark, 0)
    blind = [host for host, sees in _told_by_all((socket.gethostname(), (folder / mark[0]).exists())) if not sees]
    if dist.get_rank() == 0:
        (folder / mark[0]).unlink()
    if blind:
        raise ValueError(
            f"{listed(sorted(set(blind)))} cannot see {folder}, where all ranks write checkpoints: set output to a "
            "folder that all hosts share."
        )


def require_equal(what: str, value: str) -> None:
    """Raises ValueError where a rank has another value than rank 0; called by all ranks.

    Args:
        what: it is, in the plural, as "images of data/birds".
        value: of this rank.
    """
    (first, wanted), *others = _told_by_all((socket.gethostname(), value))
    if other := next((host for host, has in others if has != wanted), None):
        raise ValueError(f"{what} are others on {other} than on {first}: all hosts must train with the same.")


def while_others_wait(task: Callable[[], T]) -> T:
    """What a task brings that may take an hour on one host and no time on another, once all ranks have theirs.

    Ranks tell each other every second how far they are: they would not wait for long in a collective, and see so when
    one of them is gone.

    Raises:
        ValueError: the task failed on another rank.
        Exception: as the task raises it.
    """
    found: list[T] = []
    failed: list[Exception] = []

    def work() -> None:
        try:
            found.append(task())
        except Exception as error:
            failed.append(error)

    worker = threading.Thread(target=work, daemon=True)  # one that is never awaited, should another rank fail
    worker.start()
    while True:
        worker.join(timeout=1.0)
        told = _told_by_all((socket.gethostname(), (bool(found), str(failed[0]) if failed else None)))
        if failed:
            raise failed[0]
        if other := next(((host, said) for host, (_, said) in told if said is not None), None):
            raise ValueError(f"{other[0]}: {other[1]}")
        if all(done for _, (done, _) in told):
            return found[0]


def _told_by_all(mine: tuple[str, Any]) -> list[tuple[str, Any]]:
    told: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(told, mine)
    return told


def _require_gpu() -> None:
    """Raises ValueError where there is no GPU for this rank, though one was asked for."""
    if os.environ.get("DS_ACCELERATOR") == "cpu":
        return
    local, gpus = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if gpus == 0 and os.environ.get("DS_ACCELERATOR") == "cuda":
        raise ValueError(
            "DS_ACCELERATOR=cuda asks for a GPU, but torch sees none here: check nvidia-smi and CUDA_VISIBLE_DEVICES, "
            "or set DS_ACCELERATOR=cpu."
        )
    if gpus and local >= gpus:
        raise ValueError(
            f"rank {local} of this machine has no GPU, there are {gpus}: start as many ranks as GPUs "
            "(--num_accelerators for deepspeed, --nproc-per-node for torchrun)."
        )


def prepare_cpu() -> None:
    """Has torch compute on this rank's share of the cores, in memory that it keeps from step to step."""
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(share_of_cores())
    keep_freed_memory()
