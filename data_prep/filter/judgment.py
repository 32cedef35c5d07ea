"""What filter decided about every image: counted, written into the catalog, and told.

N is the number of crawled images in shapes.
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from fastlt.atomic import new_file, write_text
from fastlt.data_prep.catalog import Catalog
from fastlt.data_prep.filter.labels import Labels
from fastlt.data_prep.filter.options import FilterOptions
from fastlt.data_prep.verdicts import KEPT
from fastlt.foreign import table_cell
from fastlt.messages import listed

_LEAST_KEPT = 0.2  # of the images; less is a mistake somewhere
_NEAR = 0.001  # by which float16 moves one similarity in a hundred


@dataclass(frozen=True)
class Judgment:
    """What becomes of every image; arrays are in the order of `ids`.

    Attributes:
        ids, categories: catalog ids of the images and of their categories, int64 [N].
        names: the images, as `read_image` takes them.
        targets: {name: training images}, whose order `nearest` counts in.
        similarity, nearest: to which prototype; float32 [N] (NaN of broken images) and int64 [N] (-1).
        reasons: why an image is dropped, "" of kept ones; object [N].
        kept: which images stay, as people decided otherwise of some; bool [N].
        likes: {position: (what it is like, cosine)}: a path for near-duplicates, or the title of another category.
        broken: {position: why}.
        gamma2: as given or found.
        labels: what the labels were found to be worth; None where gamma1 is given. Of the images that are not broken.
        found_pairs: (category id, position in `targets`) of the neighbors of categories for which nobody gave any.
        strengths: {(category id, position in `targets`): how alike they are, in 0..1}, of all pairs.
        encoder: for people.
    """

    ids: np.ndarray
    categories: np.ndarray
    names: Sequence[str]
    targets: dict[str, list[Path]]
    similarity: np.ndarray
    nearest: np.ndarray
    reasons: np.ndarray
    kept: np.ndarray
    likes: dict[int, tuple[str, float]]
    broken: dict[int, str]
    options: FilterOptions
    gamma2: float
    labels: Labels | None
    found_pairs: list[tuple[int, int]]
    strengths: dict[tuple[int, int], float]
    encoder: str

    def counts(self) -> dict[str, int]:
        """{reason, or kept: images}, most frequent first."""
        return dict(Counter(reason or KEPT for reason in self.reasons).most_common())

    def thresholds(self) -> str:
        """For people."""
        near = f"below similarity {self.gamma2:.3f}"
        if self.labels:
            parts = [f"kept what is more likely of its category than not, and {near}"]
        else:
            parts = [f"kept above similarity {self.options.gamma1:.3f} and {near}"]
        parts += [f"near-duplicates from cosine {self.options.duplicate} or within {self.options.hash_radius} bits"]
        return ", ".join(parts)

    def num_near(self) -> int:
        """Images so close to a threshold of similarity that other arithmetic may decide otherwise."""
        given = [t for t in (self.options.gamma1, self.gamma2) if isinstance(t, float)]
        return int(np.any([abs(self.similarity - t) < _NEAR for t in given], axis=0).sum())

    @property
    def num_kept(self) -> int:
        return int(self.kept.sum())

    def require_kept(self) -> None:
        """Is loud about a filter that drops nearly everything.

        Raises:
            ValueError: less than a fifth of the images are kept.
        """
        if self.num_kept >= _LEAST_KEPT * len(self.ids):
            return
        why = ", ".join(f"{number:,} {reason}" for reason, number in self.counts().items() if reason != KEPT)
        kept = f"only {self.num_kept:,} of {len(self.ids):,} images are kept" if self.num_kept else "nothing is kept"
        left = "" if self.num_kept else " The catalog is left as it was."
        raise ValueError(f"{kept} ({why}): {self._advice()}{left}")

    def _advice(self) -> str:
        """What to do when so little is kept."""
        if self.options.gamma1 == "auto":
            return (
                "look at the contact sheet. Where it drops images that are right, this encoder does not tell the "
                "categories apart: take another one; where they are wrong, the list is."
            )
        low, high = np.nanmin(self.similarity), np.nanmax(self.similarity)
        return (
            f"similarities run from {low:.3f} to {high:.3f}, the thresholds are {self.options.gamma1:.3f} and "
            f"{self.gamma2:.3f}. Thresholds are an encoder's own: without --gamma1 and --preset they are found."
        )


def write_states(catalog: Catalog, judgment: Judgment) -> None:
    """Writes the states of all images in one transaction: the catalog never mixes two sets of thresholds."""
    with catalog.transaction():
        if not catalog.targets():  # a crawl of URL lists names no targets
            catalog.enter_targets((n, n.replace("_", " "), "[]", len(paths)) for n, paths in judgment.targets.items())
        ids = {row["name"]: row["id"] for row in catalog.targets()}
        nearest = [ids[name] for name in judgment.targets] + [None]  # the last is -1
        catalog.judge_images(list(_changes(catalog.images(), judgment, nearest)))
        catalog.set_found_neighbors((nearest[target], category) for category, target in judgment.found_pairs)
        options = asdict(judgment.options) | {"gamma2": judgment.gamma2}
        catalog.remember("filter", json.dumps({"encoder": judgment.encoder} | options))


def _changes(before: Iterator, judgment: Judgment, target_ids: Sequence[int | None]) -> Iterator[tuple]:
    """Rows to write: a change of thresholds leaves most as they are."""
    position = 0
    for old in before:
        if position == len(judgment.ids) or old["id"] != judgment.ids[position]:  # in an unfinished shard
            continue
        reason, similarity = judgment.reasons[position], float(judgment.similarity[position])
        new = (
            "dropped" if reason else KEPT,
            reason,
            None if np.isnan(similarity) else round(similarity, 6),
            target_ids[judgment.nearest[position]],
        )
        if new != (old["state"], old["reason"], old["similarity"], old["nearest"]):
            yield (*new, old["id"])
        position += 1


def write_report(catalog: Catalog, judgment: Judgment, path: Path) -> None:
    """Writes a CSV of the near-duplicates, the images like another category and the broken ones: which, and of what."""
    broken = {at: (why, float("nan")) for at, why in judgment.broken.items()}
    with new_file(path) as temporary, temporary.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["image", "url", "category", "reason", "like", "cosine"])
        for at, (like, cosine) in sorted((judgment.likes | broken).items()):
            image = int(judgment.ids[at])
            row = catalog.candidate(image)
            shown = "" if np.isnan(cosine) else f"{cosine:.4f}"
            said = map(table_cell, (row["url"], row["category_name"], judgment.reasons[at], like))
            table.writerow([image, *said, shown])


def write_strengths(catalog: Catalog, judgment: Judgment, path: Path) -> None:
    """Writes {target: {category: strength}}, as `fastlt encode --neighbors` takes it."""
    names, targets = {row["id"]: row["name"] for row in catalog.categories()}, list(judgment.targets)
    found: dict[str, dict[str, float]] = {}
    for (category, target), strength in judgment.strengths.items():
        found.setdefault(targets[target], {})[names[category]] = round(strength, 4)
    write_text(path, json.dumps(found, ensure_ascii=False, indent=1) + "\n")


def summary(catalog: Catalog, judgment: Judgment) -> str:
    """What became of the images, for a terminal."""
    lines = [f"{len(judgment.ids):,} images, {judgment.encoder}; {judgment.thresholds()}"]
    lines += [f"{number:>10,}  {reason}" for reason, number in judgment.counts().items()]
    by_hand = judgment.kept != (judgment.reasons == "")
    if by_hand.any():
        kept = int((by_hand & judgment.kept).sum())
        lines.append(
            f"people decided otherwise of {by_hand.sum():,}: {kept:,} are kept, {by_hand.sum() - kept:,} dropped"
        )
    if near := judgment.num_near():
        lines.append(
            f"{near:,} lie within {_NEAR} of these similarities: a device of another kind may decide otherwise"
        )
    if judgment.labels and len(set(judgment.categories.tolist())) == 1:
        lines.append("warning: all images are of one category, so that no label could be judged by the others")
    elif judgment.labels:
        lines.append(_label_line(judgment.labels))
    if judgment.found_pairs:
        categories = len({category for category, _ in judgment.found_pairs})
        lines.append(f"{len(judgment.found_pairs):,} neighbor pairs found for {categories:,} categories without any")
    if judgment.broken:
        lines.append(f"broken, for example: {next(iter(judgment.broken.values()))}")
    emptied = _emptied_categories(catalog, judgment)
    if emptied:
        lines.append(f"warning: nothing is left of {len(emptied):,} categories: {listed(emptied)}")
    return "\n".join(lines)


def _label_line(labels: Labels) -> str:
    """What the labels are worth, as it is estimated without any truth."""
    if not labels.judged:
        return "warning: no label was judged, as no category has two images"
    kept = labels.right >= 0.5
    parts = [f"labels: an estimated {labels.wrong_share:.1%} are wrong"]
    if kept.any() and labels.wrong_share:
        right = labels.right[kept].sum()
        parts += [f"of the kept {right / kept.sum():.1%} are right, of the right {right / labels.right.sum():.1%} kept"]
    return "; ".join(parts)


def _emptied_categories(catalog: Catalog, judgment: Judgment) -> list[str]:
    left = set(judgment.categories[judgment.kept].tolist())
    emptied = set(judgment.categories.tolist()) - left
    return [row["name"] for row in catalog.categories() if row["id"] in emptied]
