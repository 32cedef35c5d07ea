"""How a failing rank says so: a user's mistake as one sentence, once, and anything else with a trace."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from fastlt.messages import harmless, one_line, told

PATIENCE_SECONDS = 10


@contextmanager
def exit_with_one_sentence() -> Iterator[None]:
    """Ends the process with status 1: the user's mistake, or the machine's, is one sentence, others have a trace.

    Recipes and data are the same everywhere, and 64 ranks would say a mistake 64 times: rank 0 speaks at once,
    and the launcher then ends the others. One that still lives after `PATIENCE_SECONDS` has a mistake of its own.
    """
    rank = os.environ.get("RANK", "0")
    try:
        with _losses_told():
            yield
    except (ValueError, OSError) as error:  # the latter: a full disk, a folder that may not be written to
        if rank != "0":  # nor leave first: that would break a collective in which rank 0 still is
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            time.sleep(PATIENCE_SECONDS)
        who = f" ({_who(rank)})" if rank != "0" else ""
        print(f"fastlt: error: {harmless(told(error))}{who}", file=sys.stderr, flush=True)
        if os.environ.get("FASTLT_TRACE"):
            traceback.print_exc()
        _leave()
    except KeyboardInterrupt:  # before training, when there is nothing to save
        os._exit(128 + signal.SIGINT)
    except Exception:
        print(f"fastlt: {_who(rank)} failed\n{harmless(traceback.format_exc())}", file=sys.stderr, flush=True)
        _leave()


@contextmanager
def _losses_told() -> Iterator[None]:
    """Makes one sentence of what gloo says when a rank is gone, which never is the reason."""
    try:
        yield
    except RuntimeError as error:
        said = str(error)
        if "gloo/transport" not in said and "gloo/rendezvous" not in said:
            raise
        how = one_line(said.partition("] ")[2].partition(". ")[0])
        raise ValueError(
            f"another rank is gone ({how}): what it said tells why; where its host is lost, --resume goes on with the "
            "ranks that are left."
        ) from error


def _who(rank: str) -> str:
    """This rank, and of several hosts which one it is on."""
    here = os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("LOCAL_SIZE")
    several = here is not None and here != os.environ.get("WORLD_SIZE")
    return f"rank {rank}" + f" on {socket.gethostname()}" * several


def _leave() -> None:
    # Not sys.exit: a rank that waits in a collective, or a loader thread, must not keep the process alive.
    sys.stderr.flush()
    sys.stdout.flush()
    os._exit(1)
