"""What filter reads: the crawled images, the training images of the targets, and those that nothing may repeat."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fastlt.data_prep.catalog import Catalog
from fastlt.data_prep.filter.embedding_store import image_keys
from fastlt.data_prep.inputs.class_folders import images_below
from fastlt.data_prep.inputs.images import ClassImages, TargetImages, read_class_images
from fastlt.data_prep.inputs.split_files import is_json
from fastlt.dataset.images import in_tar

SPLITS = {"val": "validation", "test": "test"}
"""Those that nothing may repeat, as messages call them."""


def require_split(sources: TargetImages) -> None:
    """Raises ValueError where training images, or all held-out ones, are not named."""
    if not sources.train:
        raise ValueError("--train is missing: say where the training images of the target classes are.")
    if not (sources.val or sources.test):
        raise ValueError("say with --val or --test, or both, which images no kept image may repeat.")


@dataclass(frozen=True)
class CrawledImages:
    """Columns of the catalog's images, by id."""

    ids: np.ndarray
    categories: np.ndarray
    shards: np.ndarray
    keys: np.ndarray
    names: list[str]


def read_crawled(catalog: Catalog) -> CrawledImages:
    """The images of the finished shards.

    Raises:
        ValueError: there are none, or a shard is missing.
    """
    ids, categories, shards, digests, names, waiting = [], [], [], [], [], 0
    for row in catalog.images():
        if row["shard_state"] != "done":
            waiting += 1
            continue
        ids.append(row["id"])
        categories.append(row["category"])
        shards.append(row["shard"])
        digests.append(row["sha256"])
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
    return CrawledImages(np.array(ids), np.array(categories), np.array(shards), image_keys(digests), names)


def training_images(catalog: Catalog, classes: ClassImages) -> dict[str, list[Path]]:
    """{target: its training images}: the catalog's targets, or where it names none all classes.

    Raises:
        ValueError: a target is not among the classes.
    """
    names = [target["name"] for target in catalog.targets()]
    missing = [name for name in names if name not in classes]
    if missing:
        raise ValueError(
            f"{len(missing)} targets of {catalog.path} have no class among the training images, "
            f"the first is {missing[0]!r}."
        )
    return {name: [Path(image) for image in classes[name]] for name in names or classes}


def held_out_images(source: Path, split: str, root: Path | None, names: list[str]) -> list[Path]:
    """The images of a split, "val" or "test", in the order of the training classes' `names` where it needs one."""
    what = SPLITS[split]
    if not source.is_file():
        # All of them, in class folders or not: training could read any.
        images, _ = images_below(source) if source.is_dir() else ([], None)
        if not images:
            raise ValueError(f"there is no {what} image in {source}.")
        return images
    classes = read_class_images(source, f"{what} images", root, None if is_json(source) else names, split=split)
    return [Path(path) for paths in classes.values() for path in paths]
