"""`fastlt train`: the ranks of this machine, started by DeepSpeed's launcher, and ended when the user says so."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import psutil

from fastlt import train

_TRAIN = Path(train.__file__)


def devices() -> list[str]:
    """The GPUs to train on, as CUDA_VISIBLE_DEVICES names them; told without importing torch."""
    if os.environ.get("DS_ACCELERATOR") == "cpu":
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name.strip() for name in visible.split(",") if name.strip() not in ("", "-1")]
    return [str(i) for i in range(len(list(Path("/dev").glob("nvidia[0-9]*"))))]


def launch(words: Sequence[str], ranks: int) -> int:
    """Trains on that many ranks of this machine; returns the exit status. One rank needs no launcher.

    SIGINT or SIGTERM to this process alone is passed on to the ranks, which save and end; a second one kills them.

    Args:
        words: of the command line of `train.py`.
        ranks: processes.

    Raises:
        ValueError: there are fewer GPUs than ranks.
    """
    visible = devices()
    accelerator = os.environ.get("DS_ACCELERATOR", "cuda" if visible else "cpu")
    if accelerator == "cuda" and 0 < len(visible) < ranks:
        raise ValueError(f"--ranks {ranks} needs {ranks} GPUs, but only {len(visible)} are visible.")
    environment = os.environ | {"DS_ACCELERATOR": accelerator}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment.get('PATH', '')}"
    if ranks == 1:
        os.execve(sys.executable, [sys.executable, str(_TRAIN), *words], environment)
    with socket.create_server(("127.0.0.1", 0)) as free:  # somebody else may be training on this machine
        port = free.getsockname()[1]
    # The launcher of one machine: `deepspeed` itself would import torch once more to find that there is but one, and
    # would not take both a number of ranks and CUDA_VISIBLE_DEVICES.
    machine = {"localhost": [visible[rank] if rank < len(visible) else str(rank) for rank in range(ranks)]}
    world = base64.urlsafe_b64encode(json.dumps(machine).encode()).decode()
    launcher = [sys.executable, "-m", "deepspeed.launcher.launch", "--quiet", f"--world_info={world}"]
    command = [*launcher, f"--master_port={port}", str(_TRAIN), *words]
    # In a session of its own, so that Ctrl-C comes here alone.
    process = subprocess.Popen(command, env=environment, start_new_session=True)
    told = 0

    def pass_on(number: int, frame: object) -> None:
        nonlocal told
        told += 1
        if told == 1:
            _stop_ranks(process.pid)
        else:
            os.killpg(process.pid, signal.SIGKILL)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        return process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop_ranks(launcher: int) -> None:
    """Asks the ranks to save and end: the launcher would kill them."""
    for child in psutil.Process(launcher).children(recursive=True):
        try:
            if any(word.startswith("--local_rank=") for word in child.cmdline()):
                child.send_signal(signal.SIGTERM)
        except psutil.NoSuchProcess:
            continue
