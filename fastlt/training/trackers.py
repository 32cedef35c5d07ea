"""The trackers of a run, seen from rank 0: processes that are started, asked what they have to say, and ended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from fastlt.run_folder import RunFolder
from fastlt.training import tracker

_PATIENCE = 30.0  # seconds that the end of a run waits for all of them together


class Trackers:
    """Those that follow the log of a run; nothing here waits for any of them before `close`.

    Args:
        names: of the trackers.
        run: the folder.
        config: what they show about the run, {key: value}.
    """

    def __init__(self, names: Sequence[str], run: RunFolder, config: dict[str, Any]) -> None:
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        for name in names:
            process = subprocess.Popen(
                [sys.executable, str(Path(tracker.__file__))],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                start_new_session=True,  # so that it can be ended with all that it starts
            )
            assert process.stdin is not None, "it is a pipe"
            assert process.stdout is not None, "it is one, too"
            os.set_blocking(process.stdout.fileno(), False)
            with suppress(BrokenPipeError):  # it will be seen to have ended
                about = {"name": name, "run": str(run.path.absolute()), "config": config}
                process.stdin.write(f"{json.dumps(about)}\n".encode())
                process.stdin.flush()
            self._processes[name] = process

    def said(self) -> list[str]:
        """What they have said since they were asked last, each in a sentence."""
        found: list[str] = []
        for name, process in list(self._processes.items()):
            found += _lines(process)
            if process.poll():
                del self._processes[name]
                found.append(f"{name} has ended with status {process.returncode}: the run goes on without it.")
        return found

    def close(self) -> list[str]:
        """Lets them deliver what they have, for a while; what they have said, each in a sentence."""
        for process in self._processes.values():
            assert process.stdin is not None, "it is a pipe"
            with suppress(BrokenPipeError):
                process.stdin.close()
        found, until = [], time.monotonic() + _PATIENCE
        for name, process in self._processes.items():
            try:
                process.wait(max(until - time.monotonic(), 0.1))
            except subprocess.TimeoutExpired:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                found.append(f"{name} had not taken all after {_PATIENCE:.0f} s: log.jsonl has what it lacks.")
            found[:0] = _lines(process)
        return found


def _lines(process: subprocess.Popen[bytes]) -> list[str]:
    assert process.stdout is not None, "it is a pipe"
    return (process.stdout.read() or b"").decode(errors="replace").splitlines()
