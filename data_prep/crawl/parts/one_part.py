"""One part, fetched in a process that another one started: what it said, and what went wrong."""

from __future__ import annotations

import io
import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout

from fastlt.data_prep.crawl.parts.lease import InUseError, LeaseLostError
from fastlt.data_prep.crawl.parts.shares import Share
from fastlt.messages import one_line

Fetch = Callable[[Share], None]
_AGAIN = 5.0  # seconds until a part is tried again that another process works on, or seemed to


def fetch_part(fetch: Fetch, share: Share) -> tuple[str, str]:
    """(what it said, what failed).

    Waits for a process that works on the part, or did until it was killed, and goes on where this one stood still.
    """
    with redirect_stdout(io.StringIO()) as said:
        while True:
            try:
                fetch(share)
            except (InUseError, LeaseLostError):
                time.sleep(_AGAIN)
                continue
            except (ValueError, OSError, sqlite3.DatabaseError) as error:  # the last of a full disk, mostly
                return said.getvalue(), one_line(error, 300)
            return said.getvalue(), ""


def require_none_failed(failed: Sequence[str], parts: int) -> None:
    """Raises ValueError where parts failed, with what went wrong in the first of them."""
    if failed:
        raise ValueError(f"{len(failed):,} of {parts:,} parts failed ({'; '.join(failed[:3])}); the others are done.")
