"""Where compiled code is kept from one process to the next; it is left out where no folder can be written to."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any


def cached(compiler: Callable, *signature: Any, **options: Any) -> Callable:
    """A decorator of numba's, `njit` or `cfunc`, that keeps what it compiles where it finds a folder for that."""

    def decorate(function: Callable) -> Any:
        try:
            return compiler(*signature, cache=True, **options)(function)
        except RuntimeError as error:
            if "cannot cache" not in str(error):
                raise
            return compiler(*signature, **options)(function)

    return decorate


def own_folder() -> Path | None:
    """What `NUMBA_CACHE_DIR` names, or `~/.cache/fastlt`; none where that cannot be written to."""
    named = os.environ.get("NUMBA_CACHE_DIR")
    try:
        folder = Path(named) if named else Path.home() / ".cache" / "fastlt"
    except RuntimeError:  # nobody says where home is
        return None
    return folder if is_writable(folder) else None


def is_writable(folder: Path) -> bool:
    """Whether files can be made in a folder, which itself is made where it is missing."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def give_triton_a_folder() -> None:
    """Where Triton cannot write below home, it keeps what it compiles until this process ends."""
    home = os.environ.get("TRITON_HOME") or os.path.expanduser("~")
    if "TRITON_CACHE_DIR" not in os.environ and not is_writable(Path(home, ".triton", "cache")):
        os.environ["TRITON_CACHE_DIR"] = folder = tempfile.mkdtemp(prefix="fastlt-triton-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
