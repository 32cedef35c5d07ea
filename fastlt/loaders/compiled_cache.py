"""Where numba keeps what it has compiled: a folder for each state of these sources.

Numba itself would look whether the one file has changed that a function stands in, and miss what that calls elsewhere.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from numba import config


def keep_apart() -> None:
    """To be called before anything here is compiled; `NUMBA_CACHE_DIR` says where instead of `~/.cache/fastlt`."""
    sources = sorted(Path(__file__).parent.glob("*.py"))
    state = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:16]
    base = os.environ.get("NUMBA_CACHE_DIR") or Path.home() / ".cache" / "fastlt"
    config.CACHE_DIR = str(Path(base, f"compiled-{state}"))  # type: ignore[attr-defined]
