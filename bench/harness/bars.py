"""Draws rates as bars, one panel for each case, with their spread."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import torch

from bench.harness import records
from bench.harness.records import Record

matplotlib.use("Agg")
from matplotlib import pyplot as plt


def draw(found: list[Record], file: Path, title: str, device: torch.device) -> Path:
    """Bars of images/s with p20..p80; ours are filled, peers are not. Returns the file."""
    chosen = [r for r in found if "images_per_s" in r]
    cases = list(dict.fromkeys(r["case"] for r in chosen))
    rows = [[r for r in chosen if r["case"] == case] for case in cases]
    height = sum(len(of) for of in rows)
    figure, axes = plt.subplots(
        len(cases), 1, figsize=(9, 1 + 0.3 * height + 0.7 * len(cases)), layout="constrained", squeeze=False,
        height_ratios=[len(of) + 1 for of in rows],
    )  # fmt: skip
    figure.suptitle(f"{title}, images/s, on {records.device_name(device)}")
    for panel, case, of in zip(axes[:, 0], cases, rows, strict=True):
        rates = [r["images_per_s"] for r in of]
        spread = [
            [r["images_per_s"] - r["p20_images_per_s"] for r in of],
            [r["p80_images_per_s"] - r["images_per_s"] for r in of],
        ]
        colors = ["tab:blue" if records.is_ours(r) else "lightgray" for r in of]
        bars = panel.barh([f"{r['impl']} {r.get('storage', '')}".strip() for r in of], rates, xerr=spread, color=colors)
        panel.bar_label(bars, fmt="%.0f", fontsize=8, padding=4)
        panel.set_title(case, loc="left", fontsize=9)
        panel.invert_yaxis()
        panel.margins(x=0.12)  # for the numbers
        panel.tick_params(labelsize=8)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=120)
    plt.close(figure)
    return file
