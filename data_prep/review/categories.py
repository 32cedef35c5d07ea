"""Categories as a person goes through them: with their targets, counts, and what is doubtful about each."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np

from fastlt.data_prep.catalog import Catalog
from fastlt.data_prep.review.snapshot import Snapshot
from fastlt.data_prep.status import shown

ORDERS = ("doubt", "target", "images", "title")
_FEW = 20  # images
_FAR = 2.0  # standard deviations from the mean similarity of all categories


@dataclass
class Row:
    """A category; `targets` are (id, name, title) of those that it neighbors, `doubt` is 0 for none."""

    id: int
    name: str
    title: str
    state: str
    reason: str
    decided: str
    targets: list[tuple[int, str, str]] = field(default_factory=list)
    images: int = 0
    taken: int = 0
    similarity: float = math.nan
    doubt: float = 0.0
    doubts: list[str] = field(default_factory=list)


def category_rows(catalog: Catalog, snapshot: Snapshot) -> list[Row]:
    """All categories, with their doubts."""
    decided = {d.what: d.verdict for d in catalog.decisions() if d.kind == "category"}
    rows = {
        row["id"]: Row(row["id"], row["name"], row["title"], row["state"], row["reason"], decided.get(row["name"], ""))
        for row in catalog.categories()
    }
    for category, target in catalog.pairs_with_targets():
        rows[category].targets.append(target)
    found = snapshot.by_category({row.id for row in rows.values() if row.state != "kept"})
    for category, (images, taken, similarity) in found.items():
        if category in rows:
            rows[category].images, rows[category].taken, rows[category].similarity = images, taken, similarity
    _doubt(list(rows.values()), bool(len(snapshot.ids)))
    return list(rows.values())


def _doubt(rows: list[Row], are_crawled: bool) -> None:
    """Says what is doubtful about categories that no person has decided about."""
    known = np.array([row.similarity for row in rows if not math.isnan(row.similarity)])
    mean, spread = (float(known.mean()), float(known.std())) if len(known) > 2 else (0.0, 0.0)
    for row in rows:
        if row.decided or row.state != "kept":
            continue
        if row.reason:
            row.doubt += 1
            row.doubts.append(shown(row.reason))
        if not row.targets:
            row.doubt += 0.25
            row.doubts.append("no target")
        if are_crawled and row.taken < _FEW:
            row.doubt += 1 - row.taken / _FEW
            row.doubts.append("few images" if row.taken else "no image")
        if spread and not math.isnan(row.similarity) and abs(row.similarity - mean) > _FAR * spread:
            row.doubt += min(abs(row.similarity - mean) / spread / 4, 1)
            row.doubts.append(f"similarity {row.similarity:.2f}, of others {mean:.2f} ± {spread:.2f}")


def arranged(rows: list[Row], order: str, show: str, text: str) -> list[tuple[Row, tuple[int, str, str] | None]]:
    """Categories in an order, each with the target that it is shown beside; by target, each as often as it has some.

    Args:
        rows: all of them.
        order: one of `ORDERS`.
        show: "all", "kept", "rejected", "doubtful" or "decided".
        text: part of the title, the name or a target's title.
    """
    chosen = [row for row in rows if _is_shown(row, show)]
    wanted = text.casefold()
    if wanted:
        chosen = [
            row
            for row in chosen
            if any(wanted in said.casefold() for said in (row.title, row.name, *(title for *_, title in row.targets)))
        ]
    if order == "target":
        beside: dict[tuple[int, str, str], list[Row]] = defaultdict(list)
        for row in chosen:
            for target in row.targets:
                beside[target].append(row)
        found = [(row, target) for target in sorted(beside) for row in _doubtful_first(beside[target])]
        return [*found, *((row, None) for row in _doubtful_first([row for row in chosen if not row.targets]))]
    if order == "images":
        chosen.sort(key=lambda row: (row.taken, row.title))
    elif order == "title":
        chosen.sort(key=lambda row: row.title.casefold())
    else:
        chosen = _doubtful_first(chosen)
    return [(row, row.targets[0] if row.targets else None) for row in chosen]


def _doubtful_first(rows: list[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: (-row.doubt, row.state != "kept", row.title))


def _is_shown(row: Row, show: str) -> bool:
    if show == "doubtful":
        return row.doubt > 0
    if show == "decided":
        return bool(row.decided)
    return show == "all" or row.state == show
