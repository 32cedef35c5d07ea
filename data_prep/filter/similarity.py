"""How near crawled images are: to target prototypes, and to validation and test images.

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
_GAMMA2 = 0.98, 0.99  # the least that is found, and the share of training images that lie below what is found


@dataclass(frozen=True)
class References:
    """The validation and test images: paths, and where their embeddings are."""

    paths: list[Path]
    splits: list[str]
    keys: np.ndarray
    rows: np.ndarray


class Space:
    """Stored features as they are compared: of norm 1, on the device.

    Attributes:
        prototypes: of the targets, [T, D].
    """

    def __init__(self, store: RowStore, device: torch.device, target_rows: list[np.ndarray]) -> None:
        self._stored, self.device = store.rows(), device
        rows, targets = np.concatenate(target_rows), np.repeat(np.arange(len(target_rows)), [*map(len, target_rows)])
        sums = self.sums(rows, targets, len(target_rows))
        self.prototypes = F.normalize(sums)
        self._training = rows, targets, sums

    def hashes(self, rows: np.ndarray) -> np.ndarray:
        """Perceptual hashes of images and their mirror images, int64 [n, 2]."""
        return self._stored["hashes"][rows]

    def __call__(self, rows: np.ndarray) -> Tensor:
        """Features [n, D] of rows."""
        return F.normalize(torch.from_numpy(self._stored["features"][rows]).to(self.device).float())

    def sums(self, rows: np.ndarray, classes: np.ndarray, number: int) -> Tensor:
        """Sums of the features of each class, [number, D]; rows and their classes are int64 [n]."""
        sums = torch.zeros(number, self._stored["features"].shape[1], device=self.device)
        for part in blocks_of(np.arange(len(rows)), _BLOCK):
            sums.index_add_(0, torch.from_numpy(classes[part]).to(self.device), self(rows[part]))
        return sums

    def gamma2(self) -> float:
        """A similarity to a prototype that means a copy: more than nearly all training images have to their class."""
        rows, targets, sums = self._training
        cosines = []
        for part in blocks_of(np.flatnonzero(np.bincount(targets)[targets] > 1), _BLOCK):
            features = self(rows[part])
            others = sums[torch.from_numpy(targets[part]).to(self.device)] - features
            cosines.append((F.normalize(others) * features).sum(1).cpu().numpy())
        least, below = _GAMMA2
        return max(least, float(np.quantile(np.concatenate(cosines), below))) if cosines else least


class Neighbors:
    """Positions of the targets that each category neighbors, as a padded table."""

    def __init__(self, catalog: Catalog, targets: list[str], categories: np.ndarray) -> None:
        position = {name: i for i, name in enumerate(targets)}
        lists: dict[int, list[int]] = {int(category): [] for category in np.unique(categories)}
        for category, target in catalog.given_pairs():
            if category in lists:
                lists[category].append(position[target])
        self.ids = np.array(list(lists))  # ascending
        self._table = np.full((len(lists), max(1, *map(len, lists.values()))), -1)
        for row, found in zip(self._table, lists.values(), strict=True):
            row[: len(found)] = found

    def of(self, categories: np.ndarray) -> np.ndarray:
        """Targets of each image's category, int64 [n, K], filled up with -1; all -1 means any target."""
        return self._table[np.searchsorted(self.ids, categories)]

    def without(self) -> np.ndarray:
        """Ids of the categories that have none."""
        return self.ids[self._table[:, 0] < 0]

    def pairs(self) -> list[tuple[int, int]]:
        """(category id, target)."""
        return [(c, t) for c, row in zip(self.ids.tolist(), self._table.tolist(), strict=True) for t in row if t >= 0]


def similarities(space: Space, rows: np.ndarray, neighbors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The largest cosine of each image to the prototypes of its targets, and which: float32 [n], int64 [n]."""
    similarity, nearest = np.empty(len(rows), np.float32), np.empty(len(rows), np.int64)
    some = neighbors[:, 0] >= 0
    for chosen in blocks_of(np.flatnonzero(some), _BLOCK_ELEMENTS // (neighbors.shape[1] * space.prototypes.shape[1])):
        targets = torch.from_numpy(neighbors[chosen]).to(space.device)  # [B, K]
        cosines = torch.einsum("bd,bkd->bk", space(rows[chosen]), space.prototypes[targets.clamp(min=0)])
        best, at = cosines.masked_fill(targets < 0, -torch.inf).max(1)
        similarity[chosen], nearest[chosen] = best.cpu(), targets.gather(1, at[:, None])[:, 0].cpu()
    for chosen in blocks_of(np.flatnonzero(~some), _BLOCK_ELEMENTS // len(space.prototypes)):
        best, at = (space(rows[chosen]) @ space.prototypes.T).max(1)
        similarity[chosen], nearest[chosen] = best.cpu(), at.cpu()
    return similarity, nearest


def nearest_targets(space: Space, rows: np.ndarray, categories: np.ndarray, number: int) -> list[tuple[int, int]]:
    """(category, target) pairs: the `number` targets whose prototypes are nearest to that of each category's images.

    What all targets have in common is taken off first: small encoders find everything alike.
    """
    ids, category = np.unique(categories, return_inverse=True)
    center = space.prototypes.mean(0)
    means = F.normalize(space.sums(rows, category, len(ids)))
    pairs = []
    for part in blocks_of(np.arange(len(ids)), _BLOCK_ELEMENTS // len(space.prototypes)):
        cosines = F.normalize(means[part] - center) @ F.normalize(space.prototypes - center).T
        nearest = cosines.topk(min(number, cosines.shape[1])).indices.tolist()
        pairs += [
            (category, target) for category, few in zip(ids[part].tolist(), nearest, strict=True) for target in few
        ]
    return pairs


def strengths_of_pairs(
    space: Space, rows: np.ndarray, categories: np.ndarray, pairs: list[tuple[int, int]]
) -> list[float]:
    """How alike the two of each (category, target) are, in 0..1: the cosine of their prototypes over the largest one.

    Compared as in `nearest_targets`; 0 for a category without images, and for those that are less alike than chance.
    """
    ids, category = np.unique(categories, return_inverse=True)
    center = space.prototypes.mean(0)
    of_categories = F.normalize(F.normalize(space.sums(rows, category, len(ids))) - center)
    of_targets = F.normalize(space.prototypes - center)
    at = {int(c): i for i, c in enumerate(ids)}
    cosines = [float(of_categories[at[c]] @ of_targets[t]) if c in at else 0.0 for c, t in pairs]
    most = max(cosines, default=0.0)
    return [min(max(cosine / most, 0.0), 1.0) if most > 0 else 0.0 for cosine in cosines]


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
            features = space(references.rows)  # [V, D]
            for part in blocks_of(missing, _BLOCK_ELEMENTS // len(features)):
                found = np.empty(len(part), _NEAREST)
                cosine, at = (space(rows[part]) @ features.T).max(1)
                found["cosine"], found["reference"] = cosine.cpu(), at.cpu()
                store.append(keys[part], found)
        nearest = store.rows()[store.find(keys)]
    index = HashIndex(options.hash_radius)
    index.add(space.hashes(references.rows).T.reshape(-1))  # [2 V], upright ones first
    alike = index.nearest(space.hashes(rows)[:, 0].copy())
    duplicates = {}
    for position in np.flatnonzero(alike >= 0).tolist():
        reference = int(alike[position]) % len(references.rows)
        both = space(np.array([rows[position], references.rows[reference]]))
        duplicates[position] = reference, float(both[0] @ both[1])
    for position in np.flatnonzero(nearest["cosine"] >= options.duplicate).tolist():
        duplicates[position] = int(nearest["reference"][position]), float(nearest["cosine"][position])
    return duplicates


def blocks_of(positions: np.ndarray, most: int) -> Iterator[np.ndarray]:
    """Pieces of at most `most` positions, so that what is computed from one stays small."""
    most = min(max(1, most), _BLOCK)
    for start in range(0, len(positions), most):
        yield positions[start : start + most]
