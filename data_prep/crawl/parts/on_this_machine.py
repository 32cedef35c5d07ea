"""`fastlt crawl --parts N`: the parts of a catalog in processes of this machine, as one process fetches on one
core alone."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess

from tqdm import tqdm

from fastlt.cores import available_cores
from fastlt.data_prep.crawl.parts.one_part import Fetch, fetch_part, require_none_failed
from fastlt.data_prep.crawl.parts.shares import Share
from fastlt.stopping import signal_when_parent_ends, stop_signals

_TRIES = 3  # of a part whose process is killed


def crawl_on_this_machine(fetch: Fetch, parts: int) -> None:
    """Fetches all parts, as many at once as there are cores, and says what each said.

    A part whose process is killed is begun again.

    A signal to end ends all of them cleanly, a second one at once. They end with this process, however it does.

    Args:
        fetch: fetches one part; can be pickled.
        parts: how many.

    Raises:
        ValueError: parts failed; the others are done.
        KeyboardInterrupt: told to end.
    """
    running: dict[Connection, tuple[SpawnProcess, Share]] = {}
    told: list[int] = []

    def stop(number: int, frame: object) -> None:
        told.append(number)
        for process, _ in running.values():
            process.terminate() if len(told) == 1 else process.kill()

    before = {number: signal.signal(number, stop) for number in stop_signals()}
    try:
        failed = _run(fetch, parts, running, told)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if told:
        raise KeyboardInterrupt
    require_none_failed(failed, parts)


def _run(fetch: Fetch, parts: int, running: dict[Connection, tuple[SpawnProcess, Share]], told: list[int]) -> list[str]:
    """Runs the parts until they are done or all is told to end; what failed."""
    begin = [Share(n + 1, parts) for n in range(parts)]
    tries, failed = dict.fromkeys(begin, 0), []
    while begin or running:
        while begin and not told and len(running) < available_cores():
            share = begin.pop(0)
            tries[share] += 1
            _start(fetch, share, running)
        for answers in wait(list(running)):
            assert isinstance(answers, Connection)
            process, share = running[answers]
            said, wrong = "", ""
            try:
                said, wrong = answers.recv()
            except EOFError:
                process.join()
                ended = f"its process ended with status {process.exitcode}"
                if not told and tries[share] < _TRIES:
                    tqdm.write(f"WARNING: {share}: {ended}; it is begun again.", file=sys.stderr)
                    begin.append(share)
                elif not told:
                    wrong = f"{ended}, as {_TRIES - 1} before"
            process.join()
            del running[answers]
            tqdm.write(said, end="")
            failed += [f"{share}: {wrong}"] if wrong else []
        if told:
            begin = []
    return failed


def _start(fetch: Fetch, share: Share, running: dict[Connection, tuple[SpawnProcess, Share]]) -> None:
    spawn = get_context("spawn")
    answers, theirs = spawn.Pipe(duplex=False)
    process = spawn.Process(target=_fetch, args=(fetch, share, theirs))
    os.environ |= {"TQDM_POSITION": str((share.number - 1) % available_cores()), "TQDM_DESC": str(share)}
    # What ends all is told to this process, which passes it on once: until a process has a group of its own, it waits.
    masked = signal.pthread_sigmask(signal.SIG_BLOCK, stop_signals())
    try:
        process.start()
        running[answers] = process, share
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, masked)
    theirs.close()


def _fetch(fetch: Fetch, share: Share, answers: Connection) -> None:
    os.setpgrp()
    signal_when_parent_ends(signal.SIGTERM)
    parent = parent_process()
    if parent is None or parent.pid != os.getppid():  # it has ended already
        return
    with suppress(KeyboardInterrupt):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, stop_signals())
        answers.send(fetch_part(fetch, share))
