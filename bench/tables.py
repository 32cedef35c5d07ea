"""Prints what was measured: a table per case, and the ratios that are aimed at."""

from __future__ import annotations

import torch
from rich.console import Console
from rich.table import Table

from bench import records
from bench.records import Record

BOTH = "forward+backward"
CAPTION = (
    "torch-linear, liger and cce compute plain cross-entropy, without prior and neighbors; torch-linear and liger "
    "compute gradients in forward. peak: what one call allocates, the gradients it returns included; extra: without "
    "them."
)


def print_case(console: Console, found: list[Record], device: torch.device) -> None:
    """The implementations of one case, a section for each pass."""
    title = f"{found[0]['case']}, {found[0]['prior']} prior, on {records.device_name(device)}"
    table = Table(title=title, caption=CAPTION, title_justify="left", caption_justify="left")
    columns = ["pass", "impl", "median ms", "p20..p80", "peak MB", "extra MB", "time / fastlt"]
    on_gpu = device.type == "cuda"
    for column in columns + ["of ceiling"] * on_gpu:
        table.add_column(column, no_wrap=True, justify="left" if column in ("pass", "impl") else "right")
    for which in dict.fromkeys(r["pass"] for r in found):
        rows = [r for r in found if r["pass"] == which]
        ours = next((r["median_ms"] for r in rows if r["impl"].startswith("fastlt")), None)  # sliced if no other
        for r in rows:
            ratio = "" if ours is None else f"{r['median_ms'] / ours:.2f}x"
            cells = [which, r["impl"], f"{r['median_ms']:.2f}", f"{r['p20_ms']:.2f}..{r['p80_ms']:.2f}"]
            cells += [f"{r['peak_bytes'] / 1e6:.1f}", f"{r['extra_bytes'] / 1e6:.1f}", ratio]
            cells += [f"{r['fraction']:.0%}" if "fraction" in r else ""] * on_gpu
            table.add_row(*cells, end_section=r is rows[-1])
    console.print(table)
    for impl, note in {r["impl"]: r["note"] for r in found if "note" in r}.items():
        console.print(f"{impl}: {note}", highlight=False)


def print_targets(console: Console, measured: list[Record], device: torch.device) -> None:
    """Ratios of forward + backward, with the targets where there are some."""
    (_print_gpu_targets if device.type == "cuda" else _print_cpu_targets)(console, measured)


def _print_cpu_targets(console: Console, measured: list[Record]) -> None:
    """The targets are set for logits of iNat18; without it (`--quick`), the largest case stands in."""
    logits = [r for r in measured if r["pass"] == BOTH and r["D"] == 0]
    case = next((r["case"] for r in logits if " inat18 " in r["case"]), logits[-1]["case"])
    of = {r["impl"]: r for r in logits if r["case"] == case}
    stand_in = "" if " inat18 " in case else " (the targets are set for inat18)"
    console.print(f"targets, {case}, {BOTH}{stand_in}", highlight=False)
    for impl, target in {"authors": 3, "eager": 1.5}.items():
        if impl in of:
            ratio = of[impl]["median_ms"] / of["fastlt"]["median_ms"]
            console.print(f"  vs {impl}: {ratio:.2f} x (target {target} x)", highlight=False)
    if "eager" in of:
        share = of["fastlt"]["extra_bytes"] / max(of["eager"]["extra_bytes"], 1)
        console.print(f"  extra memory: {share:.1%} of eager's (target below 10 %)", highlight=False)


def _print_gpu_targets(console: Console, measured: list[Record]) -> None:
    """No number is aimed at on a GPU; what counts is the share of the ceiling and the time of the peers."""
    for r in measured:
        if r["case"] == "ceiling":
            rate = f"{r['gb_per_s']:.0f} GB/s" if "gb_per_s" in r else f"{r['tflop_per_s']:.0f} TFLOP/s"
            console.print(f"ceiling, {r['impl']}: {rate}", highlight=False)
    whole = [r for r in measured if r["pass"] == BOTH]
    for case in dict.fromkeys(r["case"] for r in whole):
        of = {r["impl"]: r for r in whole if r["case"] == case}
        for ours in ("fastlt", "fastlt-inplace", "fastlt-sliced"):
            if ours in of:
                others = [n for n in of if not n.startswith("fastlt") or n == "fastlt-unsilenced"]
                against = ", ".join(f"{n} {of[n]['median_ms'] / of[ours]['median_ms']:.2f} x" for n in others)
                console.print(f"{case}, {ours}: {of[ours]['fraction']:.0%} of the ceiling; {against}", highlight=False)
