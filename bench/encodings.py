"""What `bench/run.py encodings` measures: ways to encode the silenced sets in the CPU's forward stream.

In one and the same stream: "rows" walks the sorted rows of the table beside it, as `kernels/numba_rows.py` does;
"intervals" tests each class against one interval, for label spaces that lay auxiliary classes out next to their
parent; "bits" tests a bit mask of the batch, made from the table at every call; "none" silences nobody. "fastlt" is
the real forward, which keeps more than the loss.

Shapes: B samples, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from fastlt.kernels import NeighborTable, log_prior, neighbor_silencing_loss, numba_rows
from numba import njit
from rich.console import Console
from rich.table import Table
from torch import Tensor

from bench import records, timing
from bench.records import Record
from bench.timing import Work

BATCH, LAMBDA = 256, 0.1
CLASSES, NEIGHBORS = (32_568, 100_000), (3, 64, 500)
SECONDS, QUICK_SECONDS = 2.0, 0.2
_LOG_LAMBDA = np.float32(math.log(LAMBDA))
# The parts that are the same for every encoding.
_BLOCK, _LANES, _over_rows = numba_rows._BLOCK, numba_rows._LANES, numba_rows._over_rows
_copy_bias, _largest_score, _mass = numba_rows._copy_bias, numba_rows._largest_score, numba_rows._mass
_numba = njit(nogil=True)


@_numba
def _weigh_none(b, first, row, label, k, sets):
    return k


@_numba
def _weigh_rows(b, first, row, label, k, sets):
    indptr, neighbors = sets
    k = max(k, indptr[label])
    while k < indptr[label + 1] and neighbors[k] < first + len(b):
        b[neighbors[k] - first] += _LOG_LAMBDA
        k += 1
    return k


@_numba
def _weigh_intervals(b, first, row, label, k, sets):
    begin, end = sets[0][label] - first, sets[1][label] - first
    for j in range(len(b)):
        b[j] += _LOG_LAMBDA if (begin <= j) & (j < end) else np.float32(0)
    return k


@_numba
def _weigh_bits(b, first, row, label, k, sets):
    bits = sets[0][row, first >> 3 :]  # blocks begin at whole bytes
    for j in range(len(b)):
        b[j] += _LOG_LAMBDA if (bits[j >> 3] >> (j & 7)) & 1 else np.float32(0)
    return k


@_numba
def _set_bits(labels, indptr, neighbors, bits, begin_row, end_row):
    for row in range(begin_row, end_row):
        bits[row, :] = 0
        for k in range(indptr[labels[row]], indptr[labels[row] + 1]):
            bits[row, neighbors[k] >> 3] |= np.uint8(1 << (neighbors[k] & 7))


@_numba
def _stream(weigh, sets, logits, labels, bias, loss, begin_row, end_row):
    """Losses of some rows; `weigh` adds to a block of the bias b the log weights by an encoding."""
    b_block, lanes = np.empty(_BLOCK, np.float32), np.empty(_LANES, np.float32)
    for row in range(begin_row, end_row):
        label, k, mass, center = labels[row], 0, 0.0, np.float32(-3e38)
        for first in range(0, logits.shape[1], _BLOCK):
            z = logits[row, first : first + _BLOCK]
            b = b_block[: len(z)]
            _copy_bias(b, bias[first : first + len(z)])
            k = weigh(b, first, row, label, k, sets)
            largest = _largest_score(z, b, lanes)
            if largest > center:
                mass *= math.exp(center - largest)
                center = largest
            mass += _mass(z, b, center, np.float32(0))
        loss[row] = center + math.log(mass) - logits[row, label] - bias[label]


def run(device: torch.device, quick: bool, results: Path) -> None:
    """Measures every encoding; appends the records and prints the table."""
    found: list[Record] = []
    for classes in CLASSES[:1] if quick else CLASSES:
        for neighbors in NEIGHBORS[:2] if quick else NEIGHBORS:
            works = encodings(classes, neighbors)
            times = timing.measure(works, device, QUICK_SECONDS if quick else SECONDS)
            case = f"B={BATCH} C={classes} neighbors={neighbors} float32"
            for name, work in works.items():
                peak = timing.peak_bytes(work, device)
                found.append({"case": case, "impl": name, "pass": "forward", **times[name], "peak_bytes": peak})
    table = Table(title=f"encodings of silenced sets, forward, on {records.device_name(device)}")
    for column in ("case", "impl", "median ms", "p20..p80", "time / rows"):
        table.add_column(column, no_wrap=True)
    rows = {r["case"]: r["median_ms"] for r in found if r["impl"] == "rows"}
    for r in found:
        spread, ratio = f"{r['p20_ms']:.2f}..{r['p80_ms']:.2f}", f"{r['median_ms'] / rows[r['case']]:.2f}x"
        table.add_row(r["case"], r["impl"], f"{r['median_ms']:.2f}", spread, ratio, end_section=r["impl"] == "bits")
    Console(width=120).print(table)
    print(f"appended {len(found)} records to {records.append(results, 'encodings', device, found)}")


def encodings(classes: int, neighbors: int) -> dict[str, Work]:
    """Losses [B] of one batch by each encoding, checked against the reference.

    Groups of a target and its auxiliary classes lie side by side; classes that fill no group are on their own.
    """
    draw = torch.Generator().manual_seed(0)
    parents = torch.arange(0, classes - neighbors, neighbors + 1)  # [G]
    pairs = torch.stack(torch.broadcast_tensors(parents[:, None], parents[:, None] + 1 + torch.arange(neighbors)), -1)
    table = NeighborTable.from_pairs(classes, pairs.reshape(-1, 2))
    logits = torch.randn(BATCH, classes, generator=draw) * 3
    labels = parents[torch.randint(len(parents), (BATCH,), generator=draw)]
    counts = 1 + 1000 / torch.arange(1, classes + 1)
    begins, ends = np.zeros((2, classes), np.int64)
    begins[parents], ends[parents] = parents.numpy() + 1, parents.numpy() + 1 + neighbors
    bits = np.zeros((BATCH, -(-classes // 8)), np.uint8)
    batch = (logits.numpy(), labels.numpy(), log_prior(counts).numpy())
    rows = (table.indptr.numpy(), table.indices.numpy())

    def fastlt(_: None) -> Tensor:
        return neighbor_silencing_loss(logits, labels, table, counts, lambda_s=LAMBDA, reduction="none", impl="cpu")

    def streamed(weigh: Callable, *sets: np.ndarray) -> Callable[[None], Tensor]:
        def losses(_: None) -> Tensor:
            loss = np.empty(BATCH, np.float32)
            _over_rows(_stream, logits.shape, weigh, sets, *batch, loss)
            return torch.from_numpy(loss)

        return losses

    test_bits = streamed(_weigh_bits, bits)

    def by_bits(_: None) -> Tensor:
        _over_rows(_set_bits, logits.shape, labels.numpy(), *rows, bits)
        return test_bits(None)

    found: dict[str, Callable[[None], Tensor]] = {
        "fastlt": fastlt,
        "none": streamed(_weigh_none, bits),
        "rows": streamed(_weigh_rows, *rows),
        "intervals": streamed(_weigh_intervals, begins, ends),
        "bits": by_bits,
    }
    silenced, plain = (
        neighbor_silencing_loss(logits, labels, table, counts, lambda_s=w, reduction="none", impl="reference")
        for w in (LAMBDA, 1.0)
    )
    for name, losses in found.items():
        right = plain if name == "none" else silenced
        off = ((losses(None) - right).abs() / right.abs().clamp_min(1)).max().item()
        if not off <= 1e-5:
            raise RuntimeError(f"the encoding {name} is off the reference by {off}: nothing to compare.")
    return {name: Work(losses) for name, losses in found.items()}
