"""Which crawled images stay: near enough to a target they neighbor, near no validation or test image.

Everything that costs time is stored beside the catalog, so other thresholds take seconds. N is the number of crawled
images in shapes.
"""

from __future__ import annotations

import csv
import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from fastlt.atomic import new_file
from fastlt.cores import available_cores
from fastlt.data_prep.catalog import Catalog
from fastlt.data_prep.filter.embed import Encoder, embed, open_embeddings
from fastlt.data_prep.filter.embedding_store import file_keys
from fastlt.data_prep.filter.options import FilterOptions
from fastlt.data_prep.filter.similarity import (
    Neighbors,
    References,
    Space,
    found_gamma1,
    near_duplicates,
    similarities,
    unlike_their_category,
)
from fastlt.data_prep.inputs.images import ClassImages, TargetImages, read_class_images
from fastlt.data_prep.inputs.split_files import is_json
from fastlt.dataset.images import EXTENSIONS, in_tar

KEPT = "kept"
BROKEN, TOO_FAR, TOO_NEAR, LIKE_ANOTHER = "broken", "too far", "too near", "looks like another category"
NEAR_DUPLICATE = "near-duplicate of a {} image"
_MAX_NAMED = 20


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
        found = " (found)" if self.options.gamma1 == "auto" else ""
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


def judge(catalog: Catalog, encoder: Encoder, sources: TargetImages, options: FilterOptions) -> Judgment:
    """Embeds what is not embedded yet and decides about every image of the finished shards; writes no states.

    Args:
        catalog: held by `lock`.
        encoder: see `embed.py`.
        sources: the images of the targets, and in `val` and `test` those that no kept image may repeat; of held-out
            folders every image below them counts.
        options: see `FilterOptions`.

    Raises:
        ValueError: no images, targets without folder, broken training, validation or test images, or none of these.
    """
    require_split(sources)
    assert sources.train, "as required"
    images = _read_images(catalog)
    classes = read_class_images(sources.train, "training images", sources.images)
    targets = _targets(catalog, classes)
    splits = {
        what: _held_out(source, what, sources.images, list(classes))
        for what, source in (("validation", sources.val), ("test", sources.test))
        if source
    }
    folder = catalog.path.with_name(f"{catalog.path.stem}_embeddings")
    workers = available_cores() if options.workers is None else options.workers
    with open_embeddings(folder, encoder) as store:
        training = {"training": [path for files in targets.values() for path in files]}
        for what, paths in (training | splits).items():
            broken = embed(encoder, [*map(str, paths)], file_keys(paths), store, options.batch_size, workers, what)
            if broken:
                raise ValueError(f"{len(broken)} of the {what} images cannot be read: {next(iter(broken.values()))}")
        broken = embed(encoder, images.names, images.keys, store, options.batch_size, workers, "auxiliary")
        rows = store.find(images.keys)
        space = Space(store, encoder.device, [store.find(file_keys(paths)) for paths in targets.values()], options)
        paths = [path for split in splits.values() for path in split]
        names = [name for name, split in splits.items() for _ in split]
        keys = file_keys(paths)
        references = References(paths, names, keys, store.find(keys))

    whole = np.flatnonzero(rows >= 0)  # the positions of all images but broken ones, [n]
    if not len(whole):
        raise ValueError(f"none of the images of {catalog.path} can be read: {next(iter(broken.values()))}")
    rows, categories = rows[whole], images.categories[whole]
    duplicates = near_duplicates(folder / encoder.digest, space, images.keys[whole], rows, references, options)
    neighbors = Neighbors(catalog, list(targets), images.categories)
    similarity, nearest = similarities(space, rows, neighbors.of(categories))
    gamma1 = found_gamma1(space, rows, categories, neighbors, options) if options.gamma1 == "auto" else options.gamma1
    margin = None
    reasons, likes = np.full(len(rows), "", object), {}
    reasons[similarity <= gamma1] = TOO_FAR
    reasons[similarity >= options.gamma2] = TOO_NEAR
    if options.own_category:
        margin, unlike = unlike_their_category(space, rows, categories, options)
        titles = {row["id"]: row["title"] for row in catalog.categories()}
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


def require_split(sources: TargetImages) -> None:
    """Raises ValueError where training images, or all held-out ones, are not named."""
    if not sources.train:
        raise ValueError("--train is missing: say where the training images of the target classes are.")
    if not (sources.val or sources.test):
        raise ValueError("say with --val or --test, or both, which images no kept image may repeat.")


def _spread(values: np.ndarray, positions: np.ndarray, size: int, fill: object) -> np.ndarray:
    spread = np.full(size, fill, values.dtype)
    spread[positions] = values
    return spread


def write_states(catalog: Catalog, judgment: Judgment) -> None:
    """Writes the states of all images in one transaction: the catalog never mixes two sets of thresholds."""
    with catalog.transaction():
        if not catalog.targets():  # a crawl of URL lists names no targets
            catalog.enter_targets((n, n.replace("_", " "), "[]", len(paths)) for n, paths in judgment.targets.items())
        ids = {row["name"]: row["id"] for row in catalog.targets()}
        nearest = [ids[name] for name in judgment.targets] + [None]  # the last is -1
        catalog.judge_images(list(_changes(catalog.images(), judgment, nearest)))
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
            table.writerow([image, row["url"], row["category_name"], judgment.reasons[at], like, shown])


def summary(catalog: Catalog, judgment: Judgment) -> str:
    """What became of the images, for a terminal."""
    lines = [f"{len(judgment.ids):,} images, {judgment.encoder}; {judgment.thresholds()}"]
    lines += [f"{number:>10,}  {reason}" for reason, number in judgment.counts().items()]
    if judgment.broken:
        lines.append(f"broken, for example: {next(iter(judgment.broken.values()))}")
    emptied = _emptied_categories(catalog, judgment)
    if emptied:
        more = f" and {len(emptied) - _MAX_NAMED:,} more" if len(emptied) > _MAX_NAMED else ""
        names = ", ".join(emptied[:_MAX_NAMED])
        lines.append(f"warning: nothing is left of {len(emptied):,} categories: {names}{more}")
    return "\n".join(lines)


def _emptied_categories(catalog: Catalog, judgment: Judgment) -> list[str]:
    left = set(judgment.categories[judgment.reasons == ""].tolist())
    emptied = set(judgment.categories.tolist()) - left
    return [row["name"] for row in catalog.categories() if row["id"] in emptied]


@dataclass(frozen=True)
class _Crawled:
    """Columns of the catalog's images, by id."""

    ids: np.ndarray
    categories: np.ndarray
    keys: np.ndarray
    names: list[str]


def _read_images(catalog: Catalog) -> _Crawled:
    ids, categories, keys, names, waiting = [], [], [], [], 0
    for row in catalog.images():
        if row["shard_state"] != "done":
            waiting += 1
            continue
        ids.append(row["id"])
        categories.append(row["category"])
        # Of the content: ids come back in new catalogs.
        keys.append(int.from_bytes(row["sha256"][:8], "little", signed=True))
        names.append(in_tar(catalog.shard_path(row["shard"]), row["offset"], row["num_bytes"]))
    if not ids:
        where = f"in a finished shard ({waiting:,} wait in an unfinished one)" if waiting else "in it"
        raise ValueError(f"{catalog.path} has no images {where}: `fastlt crawl` brings them.")
    if waiting:
        print(f"warning: {waiting:,} images of an unfinished shard are left alone; `fastlt crawl` finishes it.")
    for shard in catalog.shards("done"):
        path = catalog.shard_path(shard["id"])
        if not path.is_file():
            raise ValueError(f"the shard {path} is missing: it moves together with its catalog.")
    return _Crawled(np.array(ids), np.array(categories), np.array(keys, np.int64), names)


def _targets(catalog: Catalog, classes: ClassImages) -> dict[str, list[Path]]:
    names = [target["name"] for target in catalog.targets()]
    missing = [name for name in names if name not in classes]
    if missing:
        raise ValueError(
            f"{len(missing)} targets of {catalog.path} have no class among the training images, "
            f"the first is {missing[0]!r}."
        )
    return {name: [Path(image) for image in classes[name]] for name in names or classes}


def _held_out(source: Path, what: str, root: Path | None, names: list[str]) -> list[Path]:
    if not source.is_file():
        return _images_below(source, what)
    classes = read_class_images(source, f"{what} images", root, None if is_json(source) else names)
    return [Path(path) for paths in classes.values() for path in paths]


def _images_below(root: Path, what: str) -> list[Path]:
    """Every image below a folder, through links to folders too: a guarantee must not miss what training reads."""
    found = []
    for folder, _, files in os.walk(root, followlinks=True):
        found += [Path(folder, name).absolute() for name in files if Path(name).suffix.lower() in EXTENSIONS]
    if not found:
        raise ValueError(f"there is no {what} image in {root}.")
    return sorted(found)
