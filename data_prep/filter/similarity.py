"""How near crawled images are: to target prototypes, to their own category and others, to validation and test images.

Shapes: N crawled images, n of them asked about, V validation and test images, T targets, A categories, B images of a
block, K neighbors of a category, D features.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fastlt.data_prep.catalog import Catalog
from fastlt.data_prep.filter.embedding_store import RowStore
from fastlt.data_prep.filter.options import FilterOptions
from fastlt.data_prep.perceptual.index import HashIndex

_BLOCK = 4096
_BLOCK_ELEMENTS = 1 << 26  # of a matrix of similarities: 256 MiB
_NEAREST = np.dtype([("cosine", "<f4"), ("reference", "<i4")])
_SEED = 0  # of the wrong names that thresholds are found with


@dataclass(frozen=True)
class References:
    """The validation and test images: paths, and where their embeddings are."""

    paths: list[Path]
    splits: list[str]
    keys: np.ndarray
    rows: np.ndarray


class Space:
    """Stored features as they are compared: of norm 1, after the center was taken off, on the device.

    Attributes:
        prototypes: [T, D].
    """

    def __init__(
        self, store: RowStore, device: torch.device, target_rows: list[np.ndarray], options: FilterOptions
    ) -> None:
        self._stored, self.device = store.rows(), device
        self.center: Tensor | None = None
        if options.center:  # of the classes, not of the images: a long tail's head would be the center
            self.center = torch.stack([self._mean(rows) for rows in target_rows]).mean(0)
        self.prototypes = F.normalize(torch.stack([self._mean(rows) for rows in target_rows]))

    def hashes(self, rows: np.ndarray) -> np.ndarray:
        """Perceptual hashes of images and their mirror images, int64 [n, 2]."""
        return self._stored["hashes"][rows]

    def plain(self, rows: np.ndarray) -> Tensor:
        """Features [n, D] of rows, never centered."""
        return F.normalize(torch.from_numpy(self._stored["features"][rows]).to(self.device).float())

    def __call__(self, rows: np.ndarray) -> Tensor:
        """Features [n, D] of rows."""
        features = self.plain(rows)
        return features if self.center is None else F.normalize(features - self.center)

    def _mean(self, rows: np.ndarray) -> Tensor:
        return sum(self(part).sum(0) for part in _blocks_of(rows, _BLOCK)) / len(rows)  # type: ignore[return-value]


class Neighbors:
    """Positions of the targets that each category neighbors, as a padded table."""

    def __init__(self, catalog: Catalog, targets: list[str], categories: np.ndarray) -> None:
        position = {name: i for i, name in enumerate(targets)}
        lists: dict[int, list[int]] = {int(category): [] for category in np.unique(categories)}
        for category, target in catalog.neighbor_pairs():
            if category in lists:
                lists[category].append(position[target])
        self.ids = np.array(list(lists))  # ascending
        self._table = np.full((len(lists), max(1, *map(len, lists.values()))), -1)
        for row, found in zip(self._table, lists.values(), strict=True):
            row[: len(found)] = found

    def of(self, categories: np.ndarray) -> np.ndarray:
        """Targets of each image's category, int64 [n, K], filled up with -1; all -1 means any target."""
        return self._table[np.searchsorted(self.ids, categories)]

    def with_neighbors(self) -> np.ndarray:
        """Ids of the categories that have any."""
        return self.ids[self._table[:, 0] >= 0]


def similarities(space: Space, rows: np.ndarray, neighbors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The largest cosine of each image to the prototypes of its targets, and which: float32 [n], int64 [n]."""
    similarity, nearest = np.empty(len(rows), np.float32), np.empty(len(rows), np.int64)
    some = neighbors[:, 0] >= 0
    for chosen in _blocks_of(np.flatnonzero(some), _BLOCK_ELEMENTS // (neighbors.shape[1] * space.prototypes.shape[1])):
        targets = torch.from_numpy(neighbors[chosen]).to(space.device)  # [B, K]
        cosines = torch.einsum("bd,bkd->bk", space(rows[chosen]), space.prototypes[targets.clamp(min=0)])
        best, at = cosines.masked_fill(targets < 0, -torch.inf).max(1)
        similarity[chosen], nearest[chosen] = best.cpu(), targets.gather(1, at[:, None])[:, 0].cpu()
    for chosen in _blocks_of(np.flatnonzero(~some), _BLOCK_ELEMENTS // len(space.prototypes)):
        best, at = (space(rows[chosen]) @ space.prototypes.T).max(1)
        similarity[chosen], nearest[chosen] = best.cpu(), at.cpu()
    return similarity, nearest


def found_gamma1(
    space: Space, rows: np.ndarray, categories: np.ndarray, neighbors: Neighbors, options: FilterOptions
) -> float:
    """The similarity that `wrong_share` of the images exceed when they stand under another category's name."""
    possible = neighbors.with_neighbors()
    if len(possible) < 2:
        raise ValueError("--gamma1 auto needs images of two categories with neighbors: give --gamma1 a number.")
    wrong, _ = similarities(space, rows, neighbors.of(_wrong_names(categories, possible)))
    gamma1 = float(np.quantile(wrong, 1 - options.wrong_share))
    if gamma1 >= options.gamma2:
        raise ValueError(
            f"--gamma1 auto finds {gamma1:.3f}, which is not below --gamma2 {options.gamma2}: this encoder finds all "
            "images alike; --center may help."
        )
    return gamma1


def _wrong_names(categories: np.ndarray, possible: np.ndarray) -> np.ndarray:
    """For each image a category of `possible` drawn from those that are not its own."""
    drawn = np.random.default_rng(_SEED).integers(0, len(possible), len(categories))
    own = possible[drawn] == categories
    return possible[np.where(own, (drawn + 1) % len(possible), drawn)]


def unlike_their_category(
    space: Space, rows: np.ndarray, categories: np.ndarray, options: FilterOptions
) -> tuple[float, dict[int, tuple[int, float]]]:
    """Images that resemble another category more than their own: the margin, and {position: (category, cosine)}.

    A category's prototype is the mean of its crawled images, without the image in question. What an image's cosine to
    its own prototype exceeds the best other one by must exceed what `wrong_share` of the images reach under a wrong
    name. A category of one image cannot be judged.
    """
    ids, category = np.unique(categories, return_inverse=True)  # [A], [n]
    if len(ids) < 2:
        raise ValueError("--own-category compares categories, but all images are of one: leave it out.")
    sums = torch.zeros(len(ids), space.prototypes.shape[1], device=space.device)
    for part in _blocks_of(np.arange(len(rows)), _BLOCK):
        sums.index_add_(0, torch.from_numpy(category[part]).to(space.device), space(rows[part]))
    prototypes = F.normalize(sums)  # [A, D]
    false = np.searchsorted(ids, _wrong_names(categories, ids))
    margins, wrong_margins = (np.empty(len(rows), np.float32) for _ in range(2))
    other, cosine = np.empty(len(rows), np.int64), np.empty(len(rows), np.float32)
    for part in _blocks_of(np.arange(len(rows)), _BLOCK_ELEMENTS // len(ids)):
        features = space(rows[part])
        mine, named = (torch.from_numpy(c[part]).to(space.device)[:, None] for c in (category, false))  # [B, 1]
        alone = F.normalize(sums[mine[:, 0]] - features)  # [B, D]
        cosines = features @ prototypes.T  # [B, A]
        cosines.scatter_(1, mine, (alone * features).sum(1, keepdim=True))
        best, at = cosines.scatter(1, mine, -torch.inf).max(1)
        margins[part] = (cosines.gather(1, mine)[:, 0] - best).cpu()
        other[part], cosine[part] = at.cpu(), best.cpu()
        best_of_wrong = cosines.scatter(1, named, -torch.inf).amax(1)
        wrong_margins[part] = (cosines.gather(1, named)[:, 0] - best_of_wrong).cpu()
    margin = float(np.quantile(wrong_margins, 1 - options.wrong_share))
    judged = np.bincount(category)[category] > 1
    unlike = np.flatnonzero((margins <= margin) & judged)
    return margin, {int(at): (int(ids[other[at]]), float(cosine[at])) for at in unlike}


def near_duplicates(
    folder: Path, space: Space, keys: np.ndarray, rows: np.ndarray, references: References, options: FilterOptions
) -> dict[int, tuple[int, float]]:
    """{position: (reference, cosine)} of the images that repeat a reference.

    The nearest reference of each image is stored too: it costs N x V x D and depends on no threshold.
    """
    name = f"nearest-{hashlib.sha256(references.keys.tobytes()).hexdigest()[:16]}"
    with RowStore(folder, name, _NEAREST) as store:
        missing = np.flatnonzero(store.find(keys) < 0)
        if len(missing):
            features = space.plain(references.rows)  # [V, D]
            for part in _blocks_of(missing, _BLOCK_ELEMENTS // len(features)):
                found = np.empty(len(part), _NEAREST)
                cosine, at = (space.plain(rows[part]) @ features.T).max(1)
                found["cosine"], found["reference"] = cosine.cpu(), at.cpu()
                store.append(keys[part], found)
        nearest = store.rows()[store.find(keys)]
    index = HashIndex(options.hash_radius)
    index.add(space.hashes(references.rows).T.reshape(-1))  # [2 V], upright ones first
    alike = index.nearest(space.hashes(rows)[:, 0].copy())
    duplicates = {}
    for position in np.flatnonzero(alike >= 0).tolist():
        reference = int(alike[position]) % len(references.rows)
        both = space.plain(np.array([rows[position], references.rows[reference]]))
        duplicates[position] = reference, float(both[0] @ both[1])
    for position in np.flatnonzero(nearest["cosine"] >= options.duplicate).tolist():
        duplicates[position] = int(nearest["reference"][position]), float(nearest["cosine"][position])
    return duplicates


def _blocks_of(positions: np.ndarray, most: int) -> Iterator[np.ndarray]:
    """Pieces of at most `most` positions, so that what is computed from one stays small."""
    most = min(max(1, most), _BLOCK)
    for start in range(0, len(positions), most):
        yield positions[start : start + most]
