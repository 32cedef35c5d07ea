"""A rank and its process: who am I, and on which device or cores."""

from __future__ import annotations

import logging
import os
import socket

import deepspeed
import torch

from fastlt.cores import keep_freed_memory, share_of_cores


def join_process_group() -> torch.device:
    """Joins the launcher's process group, or makes one of a single process; returns this rank's device.

    Raises:
        ValueError: another program listens on the port at which the ranks were to meet, or this rank has no GPU where
            it was to have one.
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
    except torch.distributed.DistNetworkError as error:
        if "EADDRINUSE" not in str(error):
            raise
        raise ValueError(
            f"port {os.environ['MASTER_PORT']}, at which the ranks meet, is in use, perhaps by another training on "
            "this machine: choose another one with --master_port (deepspeed) or --master-port (torchrun)."
        ) from None
    if uses_gpu:
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
        return device
    prepare_cpu()
    return torch.device("cpu")


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
