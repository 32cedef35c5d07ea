"""Prints what was measured: a table per case, and the ratios that are aimed at."""

from __future__ import annotations

import torch
from rich.console import Console
from rich.table import Table

from bench.harness import records
from bench.harness.records import Record

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
    for column in columns + ["of ceiling", "host ms"] * on_gpu:
        table.add_column(column, no_wrap=True, justify="left" if column in ("pass", "impl") else "right")
    for which in dict.fromkeys(r["pass"] for r in found):
        rows = [r for r in found if r["pass"] == which]
        ours = next((r["median_ms"] for r in rows if r["impl"].startswith("fastlt")), None)  # sliced if no other
        for r in rows:
            ratio = "" if ours is None else f"{r['median_ms'] / ours:.2f}x"
            digits = 3 if on_gpu else 2
            spread = f"{r['p20_ms']:.{digits}f}..{r['p80_ms']:.{digits}f}"
            cells = [which, r["impl"], f"{r['median_ms']:.{digits}f}", spread]
            cells += [f"{r['peak_bytes'] / 1e6:.1f}", f"{r['extra_bytes'] / 1e6:.1f}", ratio]
            if on_gpu:
                cells += [f"{r['fraction']:.0%}" if "fraction" in r else "", f"{r['host_ms']:.3f}"]
            table.add_row(*cells, end_section=r is rows[-1])
    console.print(table)
    for impl, note in {r["impl"]: r["note"] for r in found if "note" in r}.items():
        console.print(f"{impl}: {note}", highlight=False)


def print_rates(console: Console, title: str, found: list[Record]) -> None:
    """Records of images/s or ms, a section for each case."""
    table = Table(title=title, title_justify="left")
    for column in ("case", "impl", "storage", "images/s", "ms", "p20..p80", "peak MB"):
        table.add_column(column, no_wrap=True, justify="left" if column in ("case", "impl", "storage") else "right")
    for r, following in zip(found, [*found[1:], None], strict=True):
        kind = "images_per_s" if "images_per_s" in r else "ms"
        middle = f"{r['images_per_s' if kind != 'ms' else 'median_ms']:.0f}"
        spread = f"{r[f'p20_{kind}']:.0f}..{r[f'p80_{kind}']:.0f}"
        peak = f"{r['peak_bytes'] / 1e6:.0f}" if r["peak_bytes"] else ""
        both = ("", middle) if kind == "ms" else (middle, "")
        ends = following is None or following["case"] != r["case"]
        table.add_row(r["case"], r["impl"], r.get("storage", ""), *both, spread, peak, end_section=ends)
    console.print(table)
    for impl, note in {r["impl"]: r["note"] for r in found if "note" in r}.items():
        console.print(f"{impl}: {note}", highlight=False)


def print_target(console: Console, what: str, value: float, aim: float, at_most: bool = False) -> None:
    """One target, and whether it is reached."""
    reached = value <= aim if at_most else value >= aim
    aims = f"{'at most' if at_most else 'at least'} {aim:g}"
    console.print(f"  {'reached' if reached else 'MISSED '}  {what}: {value:.3g} (target {aims})", highlight=False)


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
    """Shares of the ceilings, with what is aimed at, and the time of everything else over ours."""
    for r in measured:
        if r["case"] == "ceiling":
            rate = f"{r['gb_per_s']:.0f} GB/s" if "gb_per_s" in r else f"{r['tflop_per_s']:.0f} TFLOP/s"
            console.print(f"ceiling, {r['impl']}: {rate}", highlight=False)
    for ours in (r for r in measured if "fraction" in r and r["pass"] != "backward"):
        same = [r for r in measured if (r["case"], r["pass"]) == (ours["case"], ours["pass"])]
        others = [r for r in same if not r["impl"].startswith("fastlt") or r["impl"] == "fastlt-unsilenced"]
        against = "".join(f", {r['impl']} {r['median_ms'] / ours['median_ms']:.2f} x" for r in others if r is not ours)
        aim = _aim(ours)
        of = f"{ours['fraction']:.0%} of the ceiling" + (f" (target {aim:.0%})" if aim else "")
        console.print(f"{ours['case']}, {ours['impl']}, {ours['pass']}: {of}{against}", highlight=False)


def _aim(r: Record) -> float | None:
    """The share of the ceiling that is aimed at on an H100 or H200."""
    if r["D"] == 0:
        return {"forward": 0.90, BOTH: 0.85}[r["pass"]] if r["C"] >= 8_000 and r["impl"] == "fastlt" else None
    if r["C"] < 131_000 or r["pass"] != BOTH:
        return None
    return 0.65 if r["impl"] == "fastlt-sliced" else {768: 0.75, 1024: 0.80, 2048: 0.85}.get(r["D"])
