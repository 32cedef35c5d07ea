"""A JPEG's window decoded from compiled code; the C part is compiled when it is first needed."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import llvmlite.binding
import numpy as np
from numba import njit, types

from fastlt.loaders.compiled_cache import folder


def _library() -> Path:
    """The C part, compiled.

    Raises:
        ImportError: it cannot be compiled here.
    """
    library = folder() / "jpeg.so"
    if library.exists():
        return library
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        raise ImportError("there is no C compiler (Debian: apt-get install gcc)")
    library.parent.mkdir(parents=True, exist_ok=True)
    fresh = library.with_suffix(f".{os.getpid()}.so")  # of ranks that compile at once, each its own
    source = Path(__file__).with_suffix(".c")
    options = ["-O2", "-shared", "-fPIC", "-Werror=implicit-function-declaration", "-o", str(fresh)]
    done = subprocess.run([compiler, *options, str(source), "-ljpeg"], capture_output=True, text=True)
    if done.returncode:
        reason = next((line for line in done.stderr.splitlines() if "error" in line), "it failed without a word")
        raise ImportError(f"{source} does not compile: {reason} (Debian: apt-get install libjpeg-dev)")
    fresh.replace(library)
    return library


# By name and not through ctypes, whose addresses would keep numba from storing what it has compiled.
llvmlite.binding.load_library_permanently(str(_library()))
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
        types.intp,
        types.intp,
    ),
)


@njit(nogil=True, cache=True)
def decode_jpeg(content, height, width, top, left, rows, columns, memory):
    """Decodes a window of an image.

    Args:
        content: the file, uint8 [bytes].
        height, width: of the image, in pixels.
        top, left, rows, columns: of the window.
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
        top,
        left,
        rows,
        columns,
        memory.ctypes.data,
        span.ctypes.data,
    )
    first, count = np.int64(span[0]), np.int64(span[1])
    return memory[: 3 * rows * count].reshape(rows, count, 3), first, failed == 0
