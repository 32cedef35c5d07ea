"""Processes that read images for a DataLoader, which neither hang at their start nor outlive whom they work for."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import forkserver, resource_tracker

# Not forked from the process that computes: its communication threads may be dropping a tensor, and so hold Python's
# lock of threads, which the child would then wait for forever. The server has no threads.
WORKERS = multiprocessing.get_context("forkserver")


def start_server(module: str) -> None:
    """Starts what forks the workers, having imported `module` once, deaf to what ends a run, as they will be.

    Launchers send SIGTERM to the whole process tree; the rank must live on to save, and so must its workers.
    """
    WORKERS.set_forkserver_preload([module])
    resource_tracker.ensure_running()  # the server's start would, and unblock signals when it is done
    ends = {signal.SIGTERM, signal.SIGINT}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ends)
    try:
        forkserver.ensure_running()  # inherits the mask
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def process_pool(module: str, number: int) -> ProcessPoolExecutor:
    """That many processes for the functions of `module`, started from the fork server."""
    start_server(module)
    return ProcessPoolExecutor(number, WORKERS, initializer=end_with_parent, initargs=(0,))


def end_with_parent(worker: int) -> None:
    """Ends this worker when the process that asked for it is killed: torch watches the fork server, which lives on."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "a worker has a parent"

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
