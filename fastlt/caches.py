"""Where compiled code is kept from one process to the next: in no folder that others can write to, as it is run."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from fastlt.ownership import others_can_write


def cached(compiler: Callable, *signature: Any, **options: Any) -> Callable:
    """A decorator of numba's, `njit` or `cfunc`, that keeps what it compiles where it finds a folder for that."""

    def decorate(function: Callable) -> Any:
        if os.environ.get("NUMBA_CACHE_DIR") and own_folder() is None:
            return compiler(*signature, **options)(function)
        try:
            return compiler(*signature, cache=True, **options)(function)
        except RuntimeError as error:
            if "cannot cache" not in str(error):
                raise
            return compiler(*signature, **options)(function)

    return decorate


@cache
def own_folder() -> Path | None:
    """What `NUMBA_CACHE_DIR` names, or `~/.cache/fastlt`; none where we cannot write, or others can too.

    What lies in it is run.
    """
    folder = _folder()
    return folder if folder and is_writable(folder) and not others_can_write(folder) else None


def why_nothing_is_kept() -> str:
    """Where there is no `own_folder`, in words."""
    folder = _folder()
    shared = folder and is_writable(folder)
    return f"others can write to {folder}, and what lies there is run" if shared else "home cannot be written to"


def _folder() -> Path | None:
    named = os.environ.get("NUMBA_CACHE_DIR")
    try:
        return Path(named) if named else Path.home() / ".cache" / "fastlt"
    except RuntimeError:  # nobody says where home is
        return None


def is_writable(folder: Path) -> bool:
    """Whether files can be made in a folder, which itself is made where it is missing."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def give_triton_a_folder() -> None:
    """Where Triton has no folder of ours alone, it keeps what it compiles until this process ends."""
    home = os.environ.get("TRITON_HOME") or os.path.expanduser("~")
    named = os.environ.get("TRITON_CACHE_DIR")
    folder = Path(named) if named else Path(home, ".triton", "cache")
    if not is_writable(folder) or others_can_write(folder):
        os.environ["TRITON_CACHE_DIR"] = _passing_folder("triton")


def give_inductor_a_folder() -> None:
    """What `torch.compile` makes is kept with ours: its own choice is a name in /tmp that anybody can take first."""
    if "TORCHINDUCTOR_CACHE_DIR" not in os.environ:
        kept = own_folder()
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(kept / "inductor") if kept else _passing_folder("inductor")


def _passing_folder(name: str) -> str:
    folder = tempfile.mkdtemp(prefix=f"fastlt-{name}-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
