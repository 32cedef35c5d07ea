"""The loss on logits, forward and backward: fastlt against the authors' dense masks and eager torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from fastlt.kernels import NeighborTable, log_prior, neighbor_silencing_loss
from rich.console import Console
from rich.table import Table
from torch import Tensor

from bench import records

LAMBDA = 0.1
DENSE_LIMIT = 2**33  # bytes of dense masks beyond which the authors' way is not tried
CASES = {"imagenet_lt": (1_000, 2_000), "inat18": (8_142, 24_426), "131k": (32_768, 98_304)}  # targets, auxiliaries
Loss = Callable[[Tensor, Tensor], Tensor]


def run(device: torch.device, quick: bool, results: Path) -> None:
    """Measures every case, prints the table and appends the records."""
    batch, dtype = (256, torch.float32) if device.type == "cpu" else (4096, torch.bfloat16)
    names = ["imagenet_lt"] if quick else list(CASES)
    measured: list[dict[str, Any]] = []
    for name in names:
        logits, labels, table, counts = make_case(*CASES[name], batch, dtype, device)
        for impl, loss in ways(table, counts, dtype).items():
            work = _forward_backward(loss, logits, labels)
            case = f"{name} B={batch} C={table.num_classes} {str(dtype).removeprefix('torch.')}"
            spent = records.measure(work, device, 0.5 if quick else 3.0)
            peak = records.peak_bytes(work, device)
            measured.append({"case": case, "impl": impl, "pass": "forward+backward", **spent, "peak_bytes": peak})
    file = records.append(results, "kernels", device, measured)
    _print(measured, device)
    print(f"appended {len(measured)} records to {file}")


def make_case(
    targets: int, auxiliaries: int, batch: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor, NeighborTable, Tensor]:
    """Seeded logits [B, C], labels [B], a table in which each auxiliary class has one target, and counts [C]."""
    classes = targets + auxiliaries
    draw = torch.Generator().manual_seed(0)
    parents = torch.arange(auxiliaries) % targets
    table = NeighborTable.from_pairs(classes, torch.stack([parents, torch.arange(targets, classes)], dim=1))
    counts = torch.cat([1 + 1000 / torch.arange(1, targets + 1), torch.full((auxiliaries,), 50.0)])
    logits = torch.randn(batch, classes, generator=draw).mul(3).to(device, dtype)
    labels = torch.randint(0, classes, (batch,), generator=draw).to(device)
    return logits, labels, table.to(device), counts.to(device)


def ways(table: NeighborTable, counts: Tensor, dtype: torch.dtype) -> dict[str, Loss]:
    """The implementations to compare; each takes (logits, labels) and returns the mean loss."""
    bias = log_prior(counts)

    def fastlt(logits: Tensor, labels: Tensor) -> Tensor:
        return neighbor_silencing_loss(logits, labels, table, counts, lambda_s=LAMBDA)

    def eager(logits: Tensor, labels: Tensor) -> Tensor:
        starts, ends = table.indptr[labels], table.indptr[labels + 1]
        rows = torch.repeat_interleave(ends - starts)
        place = torch.arange(len(rows), device=rows.device) - ((ends - starts).cumsum(0) - (ends - starts))[rows]
        log_weight = torch.zeros(logits.shape, device=logits.device)
        log_weight[rows, table.indices[starts[rows] + place]] = torch.tensor(LAMBDA).log().to(logits.device)
        scores = logits.float() + bias  # [B, C]
        return ((scores + log_weight).logsumexp(1) - scores.gather(1, labels[:, None])[:, 0]).mean()

    found: dict[str, Loss] = {"fastlt": fastlt, "eager": eager}
    if 2 * 8 * table.num_classes**2 <= DENSE_LIMIT:
        silenced = table.silenced(torch.arange(table.num_classes, device=counts.device))
        keep, fade = (~silenced).double(), silenced.double() * torch.tensor(LAMBDA).log().item()  # both [C, C]

        def authors(logits: Tensor, labels: Tensor) -> Tensor:
            scores = logits + bias
            masked = scores * keep[labels] + (scores + fade[labels]) * (1 - keep[labels])  # [B, C] float64
            return torch.nn.functional.cross_entropy(masked, labels)

        found["authors"] = authors
    return found


def _forward_backward(loss: Loss, logits: Tensor, labels: Tensor) -> Callable[[], None]:
    leaf = logits.requires_grad_()

    def work() -> None:
        leaf.grad = None
        loss(leaf, labels).backward()

    return work


def _print(measured: list[dict[str, Any]], device: torch.device) -> None:
    table = Table(title=f"loss on logits, forward + backward, on {records.device_name(device)}")
    for column in ("case", "impl", "median ms", "p20..p80", "peak MB", "time / fastlt"):
        table.add_column(column, no_wrap=True)
    ours = {m["case"]: m["median_ms"] for m in measured if m["impl"] == "fastlt"}
    for m in measured:
        spread, ratio = f"{m['p20_ms']:.1f}..{m['p80_ms']:.1f}", m["median_ms"] / ours[m["case"]]
        peak = f"{m['peak_bytes'] / 1e6:.0f}"
        table.add_row(m["case"], m["impl"], f"{m['median_ms']:.2f}", spread, peak, f"{ratio:.2f}x")
    Console(width=120).print(table)
