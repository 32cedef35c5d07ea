"""Which crawled images stay: near enough to a target they neighbor, near no validation or test image.

Everything that costs time is stored beside the catalog, so other thresholds take seconds. Shapes: N crawled images,
V validation and test images, T targets, A categories, B images of a block, K neighbors of a category, D features.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from fastlt.data_prep.catalog import Catalog
from fastlt.data_prep.class_folders import scan
from fastlt.data_prep.embed import Encoder, RowStore, embed, file_keys, open_embeddings
from fastlt.data_prep.perceptual import HashIndex
from torch import Tensor
from torch.nn import functional as F

from fastlt.atomic import new_file
from fastlt.images import EXTENSIONS, in_tar

KEPT = "kept"
BROKEN, TOO_FAR, TOO_NEAR, LIKE_ANOTHER = "broken", "too far", "too near", "looks like another category"
NEAR_DUPLICATE = "near-duplicate of a {} image"
_BLOCK = 4096
_BLOCK_ELEMENTS = 1 << 26  # of a matrix of similarities: 256 MiB
_NEAREST = np.dtype([("cosine", "<f4"), ("reference", "<i4")])
_MOST_NAMED = 20
_SEED = 0  # of the wrong names that thresholds are found with


@dataclass(frozen=True)
class FilterOptions:
    """What is kept.

    Attributes:
        gamma1, gamma2: an image stays if gamma1 < similarity < gamma2; gamma1 None finds it from `wrong_share`.
        duplicate: cosine from which an image is a near-duplicate; always of features as they are, never centered.
        hash_radius: Hamming distance of perceptual hashes up to which it is one as well, mirrored or not.
        center: take the targets' mean off all features: those of small networks all point the same way otherwise.
        own_category: drop images that resemble another category more than their own, by a margin from `wrong_share`.
        wrong_share: how many images under a wrong name may pass a threshold that is found.
        batch_size: images embedded at once.
        workers: processes that read images; None takes all cores.
    """

    gamma1: float | None = 0.7
    gamma2: float = 0.98
    duplicate: float = 0.95
    hash_radius: int = 8
    center: bool = False
    own_category: bool = False
    wrong_share: float = 0.2
    batch_size: int = 128
    workers: int | None = None

    def __post_init__(self) -> None:
        if self.gamma1 is not None and not self.gamma1 < self.gamma2:
            raise ValueError(f"--gamma1 {self.gamma1} must be below --gamma2 {self.gamma2}: nothing lies between them.")
        if not 0 < self.duplicate <= 1:
            raise ValueError(f"--duplicate {self.duplicate} must be a cosine above 0, at most 1: 1 finds copies only.")
        if not 0 < self.wrong_share < 1:
            raise ValueError(f"--wrong-share {self.wrong_share} must lie between 0 and 1.")


@dataclass(frozen=True)
class Judgment:
    """What becomes of every image; arrays are in the order of `ids`.

    Attributes:
        ids, categories: catalog ids of the images and of their categories, int64 [N].
        names: the images, as `read_image` takes them.
        targets: {name: training images}, whose order `nearest` counts in.
        similarity, nearest: to which prototype; float32 [N] (NaN of broken images) and int64 [N] (-1).
        reasons: why an image is dropped, "" of kept ones; object [N].
        likes: {position: (what it is like, cosine)}: a path for near-duplicates, or the title of another category.
        broken: {position: why}.
        gamma1, margin: thresholds as given or found; margin None without `own_category`.
        encoder: for people.
    """

    ids: np.ndarray
    categories: np.ndarray
    names: Sequence[str]
    targets: dict[str, list[Path]]
    similarity: np.ndarray
    nearest: np.ndarray
    reasons: np.ndarray
    likes: dict[int, tuple[str, float]]
    broken: dict[int, str]
    options: FilterOptions
    gamma1: float
    margin: float | None
    encoder: str

    def counts(self) -> dict[str, int]:
        """{reason, or kept: images}, most frequent first."""
        return dict(Counter(reason or KEPT for reason in self.reasons).most_common())

    def thresholds(self) -> str:
        """For people."""
        found = " (found)" if self.options.gamma1 is None else ""
        parts = [f"kept between {self.gamma1:.3f}{found} and {self.options.gamma2:.3f}"]
        parts += [f"near-duplicates from cosine {self.options.duplicate} or within {self.options.hash_radius} bits"]
        parts += ["centered"] if self.options.center else []
        parts += [f"own category ahead by more than {self.margin:.3f}"] if self.margin is not None else []
        return ", ".join(parts)

    @property
    def num_kept(self) -> int:
        return int((self.reasons == "").sum())

    def require_kept(self) -> None:
        """Is loud about a filter that drops everything.

        Raises:
            ValueError: no image is kept.
        """
        if not self.num_kept:
            low, high = np.nanmin(self.similarity), np.nanmax(self.similarity)
            why = ", ".join(f"{number:,} {reason}" for reason, number in self.counts().items())
            raise ValueError(
                f"nothing is kept ({why}): similarities run from {low:.3f} to {high:.3f}, the thresholds are "
                f"{self.gamma1:.3f} and {self.options.gamma2:.3f}. The catalog is left as it was."
            )


def judge(
    catalog: Catalog, encoder: Encoder, train: Path, val: Path, test: Path | None, options: FilterOptions
) -> Judgment:
    """Embeds what is not embedded yet and decides about every image of the finished shards; writes no states.

    Args:
        catalog: held by `lock`.
        encoder: see `embed.py`.
        train: class folders of the targets.
        val, test: folders of images that no kept image may repeat; every image below them counts.
        options: see `FilterOptions`.

    Raises:
        ValueError: no images, targets without folder, broken training, validation or test images.
    """
    images = _read_images(catalog)
    targets = _targets(catalog, scan(train, "training images"))
    splits = {"validation": _images_below(val, "validation")}
    if test:
        splits["test"] = _images_below(test, "test")
    folder = catalog.path.with_name(f"{catalog.path.stem}_embeddings")
    workers = len(os.sched_getaffinity(0)) if options.workers is None else options.workers
    with open_embeddings(folder, encoder) as store:
        training = {"training": [path for files in targets.values() for path in files]}
        for what, paths in (training | splits).items():
            broken = embed(encoder, [*map(str, paths)], file_keys(paths), store, options.batch_size, workers, what)
            if broken:
                raise ValueError(f"{len(broken)} of the {what} images cannot be read: {next(iter(broken.values()))}")
        broken = embed(encoder, images.names, images.keys, store, options.batch_size, workers, "auxiliary")
        rows = store.find(images.keys)
        space = _Space(store, encoder.device, [store.find(file_keys(paths)) for paths in targets.values()], options)
        paths = [path for split in splits.values() for path in split]
        names = [name for name, split in splits.items() for _ in split]
        keys = file_keys(paths)
        references = _References(paths, names, keys, store.find(keys))

    whole = np.flatnonzero(rows >= 0)  # the positions of all images but broken ones, [n]
    if not len(whole):
        raise ValueError(f"none of the images of {catalog.path} can be read: {next(iter(broken.values()))}")
    rows, categories = rows[whole], images.categories[whole]
    duplicates = _near_duplicates(folder / encoder.digest, space, images.keys[whole], rows, references, options)
    neighbors = _Neighbors(catalog, list(targets), images.categories)
    similarity, nearest = _similarities(space, rows, neighbors.of(categories))
    gamma1, margin = options.gamma1, None
    if gamma1 is None:
        gamma1 = _found_gamma1(space, rows, categories, neighbors, options)
    reasons, likes = np.full(len(rows), "", object), {}
    reasons[similarity <= gamma1] = TOO_FAR
    reasons[similarity >= options.gamma2] = TOO_NEAR
    if options.own_category:
        margin, unlike = _unlike_their_category(space, rows, categories, options)
        titles = dict(catalog.connection.execute("SELECT id, title FROM category").fetchall())
        for at, (category, cosine) in unlike.items():
            if not reasons[at]:
                reasons[at], likes[int(whole[at])] = LIKE_ANOTHER, (titles[category], cosine)
    for at, (reference, cosine) in duplicates.items():
        reasons[at] = NEAR_DUPLICATE.format(references.splits[reference])
        likes[int(whole[at])] = str(references.paths[reference]), cosine
    return Judgment(
        ids=images.ids,
        categories=images.categories,
        names=images.names,
        targets=targets,
        similarity=_spread(similarity, whole, len(images.ids), np.nan),
        nearest=_spread(nearest, whole, len(images.ids), -1),
        reasons=_spread(reasons, whole, len(images.ids), BROKEN),
        likes=likes,
        broken={at: broken[images.names[at]] for at in np.setdiff1d(np.arange(len(images.ids)), whole).tolist()},
        options=options,
        gamma1=gamma1,
        margin=margin,
        encoder=encoder.title,
    )


def _spread(values: np.ndarray, positions: np.ndarray, size: int, fill: object) -> np.ndarray:
    spread = np.full(size, fill, values.dtype)
    spread[positions] = values
    return spread


def write_states(catalog: Catalog, judgment: Judgment) -> None:
    """Writes the states of all images in one transaction: the catalog never mixes two sets of thresholds."""
    with catalog.transaction() as sql:
        if not sql.execute("SELECT 1 FROM target").fetchone():  # a crawl of URL lists names no targets
            rows = [(name, name.replace("_", " "), len(paths)) for name, paths in judgment.targets.items()]
            sql.executemany("INSERT INTO target (name, title, count) VALUES (?, ?, ?)", rows)
        ids = dict(sql.execute("SELECT name, id FROM target").fetchall())
        nearest = [ids[name] for name in judgment.targets] + [None]  # the last is -1
        before = sql.execute("SELECT id, state, reason, similarity, nearest FROM image ORDER BY id")
        sql.executemany(
            "UPDATE image SET state = ?, reason = ?, similarity = ?, nearest = ? WHERE id = ?",
            list(_changes(before, judgment, nearest)),
        )
        options = asdict(judgment.options) | {"gamma1": judgment.gamma1, "margin": judgment.margin}
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
        if new != tuple(old)[1:]:
            yield (*new, old["id"])
        position += 1


def write_report(catalog: Catalog, judgment: Judgment, path: Path) -> None:
    """Writes a CSV of the near-duplicates, the images like another category and the broken ones: which, and of what."""
    query = "SELECT url, category.name FROM candidate JOIN category ON category.id = category WHERE candidate.id = ?"
    broken = {at: (why, float("nan")) for at, why in judgment.broken.items()}
    with new_file(path) as temporary, temporary.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["image", "url", "category", "reason", "like", "cosine"])
        for at, (like, cosine) in sorted((judgment.likes | broken).items()):
            image = int(judgment.ids[at])
            url, category = catalog.connection.execute(query, [image]).fetchone()
            shown = "" if np.isnan(cosine) else f"{cosine:.4f}"
            table.writerow([image, url, category, judgment.reasons[at], like, shown])


def summary(catalog: Catalog, judgment: Judgment) -> str:
    """What became of the images, for a terminal."""
    lines = [f"{len(judgment.ids):,} images, {judgment.encoder}; {judgment.thresholds()}"]
    lines += [f"{number:>10,}  {reason}" for reason, number in judgment.counts().items()]
    if judgment.broken:
        lines.append(f"broken, for example: {next(iter(judgment.broken.values()))}")
    emptied = _emptied_categories(catalog, judgment)
    if emptied:
        more = f" and {len(emptied) - _MOST_NAMED:,} more" if len(emptied) > _MOST_NAMED else ""
        names = ", ".join(emptied[:_MOST_NAMED])
        lines.append(f"warning: nothing is left of {len(emptied):,} categories: {names}{more}")
    return "\n".join(lines)


def _emptied_categories(catalog: Catalog, judgment: Judgment) -> list[str]:
    left = set(judgment.categories[judgment.reasons == ""].tolist())
    emptied = set(judgment.categories.tolist()) - left
    return [name for i, name in catalog.connection.execute("SELECT id, name FROM category ORDER BY id") if i in emptied]


@dataclass(frozen=True)
class _Crawled:
    """Columns of the catalog's images, by id."""

    ids: np.ndarray
    categories: np.ndarray
    keys: np.ndarray
    names: list[str]


def _read_images(catalog: Catalog) -> _Crawled:
    query = (
        "SELECT image.id, category, shard, offset, image.num_bytes, sha256, shard.state FROM image"
        " JOIN shard ON shard.id = shard ORDER BY image.id"
    )
    ids, categories, keys, names, waiting = [], [], [], [], 0
    for image, category, shard, offset, num_bytes, sha256, state in catalog.connection.execute(query):
        if state != "done":
            waiting += 1
            continue
        ids.append(image)
        categories.append(category)
        keys.append(int.from_bytes(sha256[:8], "little", signed=True))  # of the content: ids come back in new catalogs
        names.append(in_tar(catalog.shard_path(shard), offset, num_bytes))
    if not ids:
        where = f"in a finished shard ({waiting:,} wait in an unfinished one)" if waiting else "in it"
        raise ValueError(f"{catalog.path} has no images {where}: `fastlt crawl` brings them.")
    if waiting:
        print(f"warning: {waiting:,} images of an unfinished shard are left alone; `fastlt crawl` finishes it.")
    for (shard,) in catalog.connection.execute("SELECT id FROM shard WHERE state = 'done'"):
        if not catalog.shard_path(shard).is_file():
            raise ValueError(f"the shard {catalog.shard_path(shard)} is missing: it moves together with its catalog.")
    return _Crawled(np.array(ids), np.array(categories), np.array(keys, np.int64), names)


@dataclass(frozen=True)
class _References:
    """The validation and test images: paths, and where their embeddings are."""

    paths: list[Path]
    splits: list[str]
    keys: np.ndarray
    rows: np.ndarray


def _targets(catalog: Catalog, folders: dict[str, list[Path]]) -> dict[str, list[Path]]:
    names = [name for (name,) in catalog.connection.execute("SELECT name FROM target ORDER BY id")]
    missing = [name for name in names if name not in folders]
    if missing:
        raise ValueError(
            f"{len(missing)} targets of {catalog.path} have no class folder among the training images, "
            f"the first is {missing[0]!r}."
        )
    return {name: folders[name] for name in names or folders}


def _images_below(root: Path, what: str) -> list[Path]:
    """Every image below a folder, through links to folders too: a guarantee must not miss what training reads."""
    found = []
    for folder, _, files in os.walk(root, followlinks=True):
        found += [Path(folder, name).absolute() for name in files if Path(name).suffix.lower() in EXTENSIONS]
    if not found:
        raise ValueError(f"there is no {what} image in {root}.")
    return sorted(found)


class _Space:
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


class _Neighbors:
    """Positions of the targets that each category neighbors, as a padded table."""

    def __init__(self, catalog: Catalog, targets: list[str], categories: np.ndarray) -> None:
        position = {name: i for i, name in enumerate(targets)}
        lists: dict[int, list[int]] = {int(category): [] for category in np.unique(categories)}
        query = "SELECT category, name FROM neighbor JOIN target ON target.id = target"
        for category, target in catalog.connection.execute(query):
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


def _similarities(space: _Space, rows: np.ndarray, neighbors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
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


def _found_gamma1(
    space: _Space, rows: np.ndarray, categories: np.ndarray, neighbors: _Neighbors, options: FilterOptions
) -> float:
    """The similarity that `wrong_share` of the images exceed when they stand under another category's name."""
    possible = neighbors.with_neighbors()
    if len(possible) < 2:
        raise ValueError("--gamma1 auto needs images of two categories with neighbors: give --gamma1 a number.")
    wrong, _ = _similarities(space, rows, neighbors.of(_wrong_names(categories, possible)))
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


def _unlike_their_category(
    space: _Space, rows: np.ndarray, categories: np.ndarray, options: FilterOptions
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


def _near_duplicates(
    folder: Path, space: _Space, keys: np.ndarray, rows: np.ndarray, references: _References, options: FilterOptions
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
