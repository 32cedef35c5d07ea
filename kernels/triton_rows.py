"""The two passes over a slice of logits on a GPU, and both in one where the gradient is wanted at once.

It chooses the shape in which `triton_kernels.py` takes the rows, and launches. Shapes as in `rows.py`: B samples,
C classes, S classes of a slice, L labels a sample.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
import triton
from torch import Tensor

from fastlt.caches import give_triton_a_folder

from . import triton_kernels
from .rows import SAVED_ROWS, Rows

give_triton_a_folder()


def check_device(device: torch.device) -> None:
    """Raises ValueError where Triton's kernels cannot run."""
    if device.type != "cuda" and not triton.knobs.runtime.interpret:
        raise ValueError("impl='triton' needs a GPU, or TRITON_INTERPRET=1 set before Triton is imported.")


def _on_its_device(run: Callable) -> Callable:
    """Launches on the device of the first argument, which need not be the current one."""

    @functools.wraps(run)
    def wrapped(tensor: Tensor, *arguments: Any) -> Any:
        with torch.cuda.device_of(tensor):
            return run(tensor, *arguments)

    return wrapped


@_on_its_device
def accumulate(logits: Tensor, first_class: int, rows: Rows, state: Tensor) -> None:
    """Adds a slice of logits [B, S], the classes from `first_class` on, to the state; any order of slices."""
    if not logits.numel():
        return
    V = _vector(logits)
    shape = _shape(_choose("loss", logits, len(rows.stacked_labels)), V)
    triton_kernels.accumulate_rows[(triton.cdiv(len(logits), shape["ROWS"]),)](
        logits, rows.stacked_labels, _or(rows.logit_bias, logits), rows.indptr, rows.indices, rows.strengths,
        state, len(logits), rows.num_classes, logits.shape[1] // V, first_class, logits.stride(0) // V,
        rows.auxiliary_start, rows.log_lambda, rows.ignore_index, **_options(rows), **shape,
    )  # fmt: skip


@_on_its_device
def loss_of(logits: Tensor, rows: Rows) -> tuple[Tensor, Tensor]:
    """(loss [B], saved [L, 5, B]), float32, of logits [B, C] in one kernel."""
    loss, saved = _new_results(logits, rows)
    shape = _shape(_choose("loss", logits, len(rows.stacked_labels)), _vector(logits))
    _run_loss(logits, rows, loss, saved, None, shape)
    return loss, saved


@_on_its_device
def gradient(logits: Tensor, first_class: int, rows: Rows, saved: Tensor, grad_loss: Tensor, out: Tensor) -> None:
    """Writes the gradient of a slice of logits [B, S] to `out` [B, S], which may be `logits` itself.

    Args:
        grad_loss: gradient of the loss of each row, float32 [B], of any stride.
    """
    shape = _shape(_choose("gradient", logits, len(rows.stacked_labels)), _vector(logits, out))
    _run_gradient(logits, first_class, rows, saved, grad_loss, out, shape)


@_on_its_device
def loss_and_gradient(logits: Tensor, rows: Rows, mean: bool, out: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(mean or sum of the loss [], saved [L, 5, B], weight of a row's loss []); its gradient to `out` [B, C].

    All float32; `out` may be the logits.
    """
    L, B = rows.stacked_labels.shape
    total, scale = (torch.empty((), dtype=torch.float32, device=logits.device) for _ in range(2))
    arrived = torch.empty((), dtype=torch.int32, device=logits.device)
    triton_kernels.count_rows[(1,)](
        rows.stacked_labels, scale, arrived, B, rows.ignore_index, L=L, MEAN=mean, BLOCK=1024, num_warps=8
    )
    choice = _choose("both", logits, L)
    if choice is None or not B:
        loss, saved = loss_of(logits, rows)
        gradient(logits, 0, rows, saved, scale.expand(B), out)
        return loss.sum() * scale, saved, scale
    loss, saved = _new_results(logits, rows)
    _run_loss(logits, rows, loss, saved, (scale, arrived, total, out), _shape(choice, _vector(logits, out)))
    return total, saved, scale


def run_in_shape(
    kind: str, logits: Tensor, rows: Rows, loss: Tensor, saved: Tensor, grad_loss: Tensor, second: tuple, choice: Choice
) -> None:
    """Runs one kernel, "loss", "gradient" or "both", in a shape that need not be the best one; for benchmarks."""
    shape = _shape(choice, _vector(logits, second[-1]))
    if kind == "gradient":
        _run_gradient(logits, 0, rows, saved, grad_loss, second[-1], shape)
    else:
        _run_loss(logits, rows, loss, saved, second if kind == "both" else None, shape)


def shape_of(kind: str, *tensors: Tensor, labels: int = 1) -> dict[str, int] | None:
    """Constants and options of the launch of a kernel, see `run_in_shape`, for logits [B, C] and what else it takes.

    None for "both" where the two passes run one after the other.
    """
    choice = _choose(kind, tensors[0], labels)
    return choice and _shape(choice, _vector(*tensors))


@_on_its_device
def rescale(gradient: Tensor, factor: Tensor) -> None:
    """Multiplies a gradient [B, C] by a factor [] in place; costs nothing where that is 1."""
    if gradient.numel():
        V, programs = _vector(gradient), 1024
        triton_kernels.rescale_rows[(programs,)](
            gradient, factor, len(gradient), gradient.shape[1] // V, gradient.stride(0) // V,
            PROGRAMS=programs, BLOCK=256, V=V, num_warps=8,
        )  # fmt: skip


def _run_loss(logits: Tensor, rows: Rows, loss: Tensor, saved: Tensor, second: tuple | None, shape: dict) -> None:
    """One pass over the rows, or two with `second`: (scale, arrived, total, out)."""
    if not len(logits):
        return
    V, (scale, arrived, total, out) = shape["V"], second or (loss, loss, loss, logits)
    triton_kernels.loss_of_rows[(triton.cdiv(len(logits), shape["ROWS"]),)](
        logits, rows.stacked_labels, _or(rows.weights, logits), _or(rows.logit_bias, logits), rows.indptr,
        rows.indices, rows.strengths, scale, arrived, loss, total, saved, out, len(logits), rows.num_classes,
        logits.shape[1] // V, logits.stride(0) // V, out.stride(0) // V, rows.auxiliary_start, rows.log_lambda,
        rows.smoothing, rows.ignore_index, **_options(rows), GRADIENT=second is not None, **shape,
    )  # fmt: skip


def _run_gradient(
    logits: Tensor, first_class: int, rows: Rows, saved: Tensor, grad_loss: Tensor, out: Tensor, shape: dict
) -> None:
    if not logits.numel():
        return
    V = shape["V"]
    triton_kernels.gradient_of_rows[(triton.cdiv(len(logits), shape["ROWS"]),)](
        logits, rows.stacked_labels, _or(rows.weights, logits), _or(rows.logit_bias, logits), rows.indptr,
        rows.indices, rows.strengths, saved, grad_loss, out, len(logits), rows.num_classes, logits.shape[1] // V,
        first_class, logits.stride(0) // V, out.stride(0) // V, grad_loss.stride(0), rows.auxiliary_start,
        rows.log_lambda, rows.smoothing, rows.ignore_index, **_options(rows), WHOLE=first_class == 0, **shape,
    )  # fmt: skip


def _new_results(logits: Tensor, rows: Rows) -> tuple[Tensor, Tensor]:
    """Memory for (loss [B], saved [L, 5, B]), float32."""
    L, B = rows.stacked_labels.shape
    new = functools.partial(torch.empty, dtype=torch.float32, device=logits.device)
    return new(B), new(L, SAVED_ROWS, B)


def _options(rows: Rows) -> dict[str, object]:
    return {
        "L": len(rows.stacked_labels),
        "HAS_BIAS": rows.logit_bias is not None,
        "SILENCE": rows.silences,
        "SMOOTH": rows.smoothing > 0,
    }


def _vector(*tensors: Tensor) -> int:
    """Adjacent classes that one load takes: up to 16 bytes, so long as every row starts at a multiple of them."""
    return math.gcd(tensors[0].shape[1], *(t.stride(0) for t in tensors), 16 // tensors[0].element_size())


# How kernels take rows of up to so many classes: rows a program, classes of each that a thread takes at a time, warps,
# and registers a thread, None for as many as the compiler likes. The fastest of `bench/run.py shapes` on an H100, with
# 4,096 rows of bfloat16. Several rows of many classes share the bias, which no first-level cache holds.
Choice = tuple[int, int, int, int | None]
_TABLES: dict[str, list[tuple[float, Choice | None]]] = {
    "loss": [
        (5120, (1, 8, 1, None)),
        (math.inf, (4, 8, 2, None)),
    ],
    "gradient": [
        (5120, (1, 8, 2, None)),
        (math.inf, (4, 8, 4, 128)),
    ],
    "both": [  # None: the two passes one after the other, as no cache would hold the rows that are under way
        (2048, (1, 8, 1, None)),
        (5120, (1, 16, 1, None)),
        (16384, (1, 8, 4, 64)),
        (65536, (1, 8, 16, 64)),
        (math.inf, None),
    ],
    "both, two labels": [  # predicted: the above have too few registers for the second label, or too few programs
        (5120, (1, 8, 1, None)),
        (65536, (1, 8, 2, None)),
        (math.inf, None),
    ],
}
_ENOUGH_ROWS = 1024  # for several a program; fewer would leave multiprocessors without work
_ENOUGH_WARPS = 16  # of a multiprocessor, for as much to be on its way as memory brings; and no more a program


def reads_twice(num_rows: int, num_classes: int) -> bool:
    """Whether loss and gradient of such rows read them from memory twice, on a GPU as an H100 is."""
    return _choose("both", torch.empty(num_rows, num_classes, device="meta"), 1) is None


def _choose(kind: str, logits: Tensor, L: int) -> Any:
    """The `Choice` for logits [B, C] with L labels a row; None for the two passes one after the other."""
    B, C = logits.shape
    table = _TABLES["both, two labels" if (kind, L) == ("both", 2) else kind]
    choice = next(choice for limit, choice in table if limit >= C)
    return choice if B >= _ENOUGH_ROWS else _for_few(choice, max(B, 1) / _multiprocessors(logits.device), C, 16 // L)


def _for_few(choice: Choice | None, rows_each: float, C: int, classes: int) -> Choice | None:
    """For fewer rows: one a program, by more warps, each thread with more classes on their way; predicted to be faster.

    Args:
        choice: for many rows.
        rows_each: rows that there are for each multiprocessor.
        classes: that a thread takes at a time; a row has two blocks at least.
    """
    most = min(_ENOUGH_WARPS, int(_ENOUGH_WARPS / rows_each), C // (2 * 32 * classes))
    wide = 1 << max(most.bit_length() - 1, 0)
    if choice is None:  # so few rows wait for memory, and not for its pace
        return (1, classes, wide, None) if rows_each <= 2 else None
    rows, _, warps, _ = choice
    if rows_each < 4 and (rows > 1 or wide > warps):
        return 1, classes, max(wide, warps), None
    return 1, *choice[1:]


@functools.cache
def _multiprocessors(device: torch.device) -> int:
    """Of a GPU; 1 of the interpreter, which runs one program after the other; an H100's for logits of shape alone."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).multi_processor_count
    return 132 if device.type == "meta" else 1


def _shape(choice: Choice, V: int) -> dict[str, int]:
    """Constants of a kernel and options of its launch."""
    rows, classes, warps, registers = choice
    shape = {"ROWS": rows, "R": classes // V, "T": 32 * warps, "V": V, "num_warps": warps}
    return shape if registers is None else shape | {"maxnreg": registers}


def _or(tensor: Tensor | None, stand_in: Tensor) -> Tensor:
    """A stand-in that is never read for what is not there: None, as of `strengths`, would make another kernel."""
    return stand_in if tensor is None else tensor
