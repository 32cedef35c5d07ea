"""A JPEG's window decoded from compiled code; the C part is compiled when it is first needed.

Where it cannot be compiled, `dataset/images.py` decodes in its place: the same pixels, but all of them.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import llvmlite.binding
import numpy as np
from numba import types

from fastlt.loaders.compiled import compiled, folder


def _load() -> None:
    """Compiles the C part where that has not been done, and loads it.

    Raises:
        ImportError: it cannot be compiled here.
        OSError, RuntimeError: it cannot be written or loaded.
    """
    kept = folder()
    if kept:
        llvmlite.binding.load_library_permanently(str(_library(kept)))
        return
    with tempfile.TemporaryDirectory(prefix="fastlt-") as passing:  # what is loaded stays
        llvmlite.binding.load_library_permanently(str(_library(Path(passing))))


def _library(kept: Path) -> Path:
    library = kept / "jpeg.so"
    if library.exists():
        return library
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        raise ImportError("there is no C compiler")
    library.parent.mkdir(parents=True, exist_ok=True)
    fresh = library.with_suffix(f".{os.getpid()}.so")  # of ranks that compile at once, each its own
    source = Path(__file__).with_suffix(".c")
    options = ["-O2", "-shared", "-fPIC", "-Werror=implicit-function-declaration", "-o", str(fresh)]
    done = subprocess.run([compiler, *options, str(source), "-ljpeg"], capture_output=True, text=True)
    if done.returncode:
        reason = next((line for line in done.stderr.splitlines() if "error" in line), "it failed without a word")
        raise ImportError(f"{source.name} does not compile ({reason.rpartition('error: ')[2]})")
    fresh.replace(library)
    return library


_COSTS = "1.4 times"  # 825 for 1,175 images/s: photographs of 500 px, crop and flip to 224, two cores
GET_IT = "Debian: apt-get install gcc libjpeg-dev"
MISSING = ""
"""Why the C part is not there; "" where it is."""
try:
    # By name and not through ctypes, whose addresses would keep numba from storing what it has compiled.
    _load()
except (ImportError, OSError, RuntimeError) as error:
    MISSING = str(error)

_decode: Any = types.ExternalFunction(
    "fastlt_decode_jpeg",
    types.int32(
        types.intp,
        types.uint64,
        types.int32,
        types.int32,
        types.int32,
        types.int32,
        types.int32,
        types.int32,
        types.int32,
        types.intp,
        types.intp,
    ),
)


@cache
def say_what_is_missing() -> None:
    """Tells people, once for all ranks, what decoding without the C part costs."""
    if MISSING and os.environ.get("RANK", "0") == "0":
        print(
            f"fastlt: {MISSING}, so each JPEG is decoded whole and not just its crop: the same pixels, about {_COSTS} "
            f"as long. ({GET_IT})",
            file=sys.stderr,
            flush=True,
        )


@compiled
def decode_window(content, height, width, shrink, top, left, rows, columns, memory):
    """Decodes a window of an image.

    Args:
        content: the file, uint8 [bytes].
        height, width: of the image, in pixels.
        shrink: 1, or 2, 4 or 8 to have the image that much smaller, for less: libjpeg shrinks it in the DCT domain.
        top, left, rows, columns: of the window, in the pixels of that image.
        memory: uint8 [>= height * width * 3], overwritten.

    Returns:
        (uint8 [rows, W, 3], the column of the image that is their first, False where the image is damaged).
    """
    span = np.zeros(2, np.int32)
    failed = _decode(
        content.ctypes.data,
        content.size,
        height,
        width,
        shrink,
        top,
        left,
        rows,
        columns,
        memory.ctypes.data,
        span.ctypes.data,
    )
    first, count = np.int64(span[0]), np.int64(span[1])
    return memory[: 3 * rows * count].reshape(rows, count, 3), first, failed == 0
