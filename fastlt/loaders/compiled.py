"""How functions here are compiled, and where that is kept: a folder for each state of these sources.

Numba itself would look whether the one file has changed that a function stands in, and miss what that calls elsewhere.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from numba import config, njit


def folder() -> Path:
    """For what is compiled of these sources; `NUMBA_CACHE_DIR` says where instead of in `~/.cache/fastlt`."""
    sources = sorted(path for path in Path(__file__).parent.rglob("*") if path.suffix in (".py", ".c"))
    state = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:16]
    base = os.environ.get("NUMBA_CACHE_DIR") or Path.home() / ".cache" / "fastlt"
    return Path(base, f"compiled-{state}")


config.CACHE_DIR = str(folder())  # type: ignore[attr-defined]
compiled = njit(nogil=True, cache=True)
"""Compiles a function when it is first called."""
fused = njit(nogil=True, cache=True, fastmath={"contract"})
"""The same, where a product and a sum may become one instruction."""
