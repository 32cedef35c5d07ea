"""`fastlt train`: the ranks of this machine, started by DeepSpeed's launcher, and ended when the user says so."""

from __future__ import annotations

import base64
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

import psutil

from fastlt import train
from fastlt.stopping import signal_when_parent_ends, wait_for

_TRAIN = Path(train.__file__)


def devices() -> list[str]:
    """The GPUs to train on; none where DS_ACCELERATOR=cpu."""
    return [] if os.environ.get("DS_ACCELERATOR") == "cpu" else _visible_gpus()


def _visible_gpus() -> list[str]:
    """As CUDA_VISIBLE_DEVICES names them, which DeepSpeed's launcher sets anew; told without importing torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name.strip() for name in visible.split(",") if name.strip() not in ("", "-1")]
    return [str(i) for i in range(len(list(Path("/dev").glob("nvidia[0-9]*"))))]


def number_of_ranks(asked: int) -> int:
    """Processes to start: as many as were asked for, or for 0 one for each GPU, or one on the CPU."""
    return asked or len(devices()) or 1


def launch(words: Sequence[str], ranks: int, output: IO[str] | None = None) -> int:
    """Trains on that many ranks of this machine; returns the exit status. One rank needs no launcher.

    SIGINT, SIGTERM or SIGHUP to this process is passed on to the ranks, which save and end; a second one kills them.
    The status is then 128 and the signal's number, as shells have it. Where this process is killed, the ranks save and
    end too.

    Args:
        words: of the command line of `train.py`.
        ranks: processes.
        output: where they write what they say, instead of where this process does.

    Raises:
        ValueError: there are fewer GPUs than ranks.
    """
    gpus = len(devices())
    accelerator = os.environ.get("DS_ACCELERATOR", "cuda" if gpus else "cpu")
    if accelerator == "cuda" and 0 < gpus < ranks:
        raise ValueError(f"--ranks {ranks} needs {ranks} GPUs, but only {gpus} are visible.")
    environment = os.environ | {"DS_ACCELERATOR": accelerator}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment.get('PATH', '')}"
    command = [sys.executable, str(_TRAIN), *words]
    if ranks > 1:
        command[1:1] = _launcher(ranks, _visible_gpus())
    # In a session of its own, so that Ctrl-C comes here alone.
    end = signal.SIGTERM if ranks == 1 else signal.SIGKILL  # ranks see the launcher's end, and save
    process = subprocess.Popen(
        command,
        env=environment,
        stdout=output,
        stderr=output,
        start_new_session=True,
        preexec_fn=lambda: signal_when_parent_ends(end),
    )

    def pass_on(first: bool) -> None:
        training = _training_ranks(process.pid)
        if first and len(training) == ranks:
            print("fastlt: saving, then stopping; press again to stop at once", file=sys.stderr, flush=True)
            for rank in training:  # not the launcher, which would kill them
                rank.send_signal(signal.SIGTERM)
        else:  # there is nothing to save yet, or the user cannot wait
            with suppress(ProcessLookupError):  # it has just ended
                os.killpg(process.pid, signal.SIGKILL)

    return wait_for(process, pass_on)


def _launcher(ranks: int, visible: Sequence[str]) -> list[str]:
    """Words for Python that start the launcher of one machine.

    `deepspeed` itself would import torch once more to find that there is but one machine, and would not take both a
    number of ranks and CUDA_VISIBLE_DEVICES.
    """
    machine = {"localhost": [visible[rank] if rank < len(visible) else str(rank) for rank in range(ranks)]}
    world = base64.urlsafe_b64encode(json.dumps(machine).encode()).decode()
    return ["-m", "deepspeed.launcher.launch", "--quiet", f"--world_info={world}", f"--master_port={meeting_port()}"]


def _training_ranks(started: int) -> list[psutil.Process]:
    """Those ranks that would save when told to end: before, SIGTERM has no handler."""
    found: list[psutil.Process] = []
    try:
        tree = [psutil.Process(started), *psutil.Process(started).children(recursive=True)]
    except psutil.NoSuchProcess:
        return found
    for rank in tree:
        try:
            words = rank.cmdline()
            if str(_TRAIN) in words and "deepspeed.launcher.launch" not in words:
                caught = re.search(r"SigCgt:\s*(\w+)", Path(f"/proc/{rank.pid}/status").read_text())
                if caught and int(caught[1], 16) >> (signal.SIGTERM - 1) & 1:
                    found.append(rank)
        except (psutil.NoSuchProcess, OSError):
            continue
    return found


def meeting_port() -> int:
    """A port at which the ranks of one machine can meet seconds from now.

    Linux gives connections ports from 32,768 on, so one that it names as free there may be taken by then.
    """
    for port in random.sample(range(20000, 32768), 100):
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise ValueError("no free port between 20000 and 32767 was found, at which the ranks could meet.")
