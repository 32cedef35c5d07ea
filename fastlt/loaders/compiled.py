"""How functions here are compiled, and where that is kept: a folder for each state of these sources.

Numba itself would look whether the one file has changed that a function stands in, and miss what that calls elsewhere.
"""

from __future__ import annotations

import hashlib
import os
import sys
from functools import cache
from pathlib import Path

from numba import config, njit

from fastlt.caches import own_folder, why_nothing_is_kept


@cache
def folder() -> Path | None:
    """For what is compiled of these sources; none where it cannot be kept, see `caches.own_folder`."""
    sources = sorted(path for path in Path(__file__).parent.rglob("*") if path.suffix in (".py", ".c"))
    state = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:16]
    base = own_folder()
    return base / f"compiled-{state}" if base else None


_KEPT = folder() is not None
if _KEPT:
    config.CACHE_DIR = str(folder())  # type: ignore[attr-defined]
compiled = njit(nogil=True, cache=_KEPT)
"""Compiles a function when it is first called."""
fused = njit(nogil=True, cache=_KEPT, fastmath={"contract"})
"""The same, where a product and a sum may become one instruction."""


@cache
def say_that_nothing_is_kept() -> None:
    """Tells people, once for all ranks, that all of this is compiled at every start, and what ends that."""
    if not _KEPT and os.environ.get("RANK", "0") == "0":
        print(
            f"fastlt: {why_nothing_is_kept()}, so what loads images is compiled at every start, which takes about "
            "half a minute: NUMBA_CACHE_DIR names another folder to keep it in.",
            file=sys.stderr,
            flush=True,
        )
