"""Class folders in, an encoded data set out: whole, checked, or not at all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from fastlt.data_prep.beton import require_ffcv, write_beton
from fastlt.data_prep.class_folders import scan, scan_like
from fastlt.data_prep.indexed_tar import write_indexed_tar
from fastlt.data_prep.kept_images import kept_images
from fastlt.data_prep.storage import ImageName, Storage
from tqdm.contrib.concurrent import process_map

from fastlt.atomic import new_folder
from fastlt.encoded import SPLIT_FILES, Split, manifest_json
from fastlt.images import BrokenImageError, read_image
from fastlt.label_space import LabelSpace

Classes = Mapping[str, Sequence[ImageName]]
_WRITERS = {"ffcv": write_beton, "webdataset": write_indexed_tar}


def encode(
    out: Path,
    train: Path,
    val: Path,
    test: Path | None = None,
    auxiliary: Path | None = None,
    neighbors: Path | None = None,
    storage: Storage | None = None,
    catalog: Path | None = None,
    unfiltered: bool = False,
) -> LabelSpace:
    """Writes the encoded data set `out`.

    Args:
        out: folder to make; must not exist.
        train, val, test: class folders of the target classes.
        auxiliary: class folders of the auxiliary classes.
        neighbors: JSON object {target: [auxiliary, ...]}.
        storage: how images are written.
        catalog: of crawled images, instead of `auxiliary` and `neighbors`.
        unfiltered: take images of the catalog that filter did not keep, too.

    Raises:
        ValueError: missing or empty folders, broken images, unknown neighbors, FFCV not installed.
    """
    storage = storage or Storage()
    if storage.format == "ffcv":
        require_ffcv()
    if (auxiliary is None) != (neighbors is None):
        raise ValueError("--auxiliary and --neighbors go together: give both or neither.")
    if catalog and auxiliary:
        raise ValueError(
            "--catalog has the auxiliary images and their neighbors: leave out --auxiliary and --neighbors."
        )
    targets = scan(train, "training images")
    auxiliaries: Classes = scan(auxiliary, "auxiliary images") if auxiliary else {}
    pairs: Mapping[str, Sequence[str]] = _read_neighbors(neighbors) if neighbors else {}
    if catalog:
        auxiliaries, pairs = kept_images(catalog, unfiltered)
    splits: dict[str, Classes] = {
        "train": {**targets, **auxiliaries},
        "val": scan_like(val, "validation images", targets),
    }
    if test:
        splits["test"] = scan_like(test, "test images", targets)
    _label_space(targets, auxiliaries, pairs)  # contradictions show before an hour of encoding, not after

    with new_folder(out) as folder:
        broken = _write_splits(folder, splits, storage)
        if broken and not storage.skip_broken:
            raise ValueError(_broken_sentence(broken) + " Nothing was written; --skip-broken leaves such images out.")
        if broken:
            print(_broken_sentence(broken) + " Left out, as --skip-broken says.")
            splits = {split: _without(classes, broken) for split, classes in splits.items()}
            _write_splits(folder, splits, storage)
        kept = splits["train"]
        label_space = _label_space(
            {name: kept[name] for name in targets}, {name: kept[name] for name in auxiliaries}, pairs
        )
        label_space.save(folder / "label_space.json")
        described = {name: _describe(folder / _file_name(name, storage), c) for name, c in splits.items()}
        manifest = manifest_json(storage.format, described, _settings(storage, sorted(broken)))
        (folder / "manifest.json").write_text(manifest)
    return label_space


def _label_space(targets: Classes, auxiliaries: Classes, pairs: Mapping[str, Sequence[str]]) -> LabelSpace:
    sizes = [{name: len(images) for name, images in classes.items()} for classes in (targets, auxiliaries)]
    return LabelSpace.build(sizes[0], sizes[1], pairs)


def _read_neighbors(path: Path) -> dict[str, list[str]]:
    try:
        neighbors = json.loads(path.read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise ValueError(f"the neighbor list {path} cannot be read: {error}.") from None
    is_list = isinstance(neighbors, dict) and all(
        isinstance(names, list) and all(isinstance(name, str) for name in names) for names in neighbors.values()
    )
    if not is_list:
        raise ValueError(f"the neighbor list {path} must be a JSON object {{target: [auxiliary, ...]}}.")
    return neighbors


def _write_splits(folder: Path, splits: dict[str, Classes], storage: Storage) -> dict[str, str]:
    """Writes each split's file; returns {image: reason} of the images that could not be read."""
    broken: dict[str, str] = {}
    for name, classes in splits.items():
        images = list(chain.from_iterable(classes.values()))
        print(f"{name}: {len(images):,} images of {len(classes):,} classes", flush=True)
        file = folder / _file_name(name, storage)
        if storage.format in _WRITERS:
            labels = np.repeat(np.arange(len(classes)), [len(images) for images in classes.values()])
            broken |= _WRITERS[storage.format](file, images, labels, storage)
        else:
            reasons = process_map(
                _reason_if_broken, images, max_workers=storage.num_workers, chunksize=64, disable=None
            )
            broken |= {str(image): reason for image, reason in zip(images, reasons, strict=True) if reason}
            file.write_text(json.dumps([str(image) for image in images]))
    return broken


def _reason_if_broken(name: ImageName) -> str | None:
    try:
        read_image(name)
    except BrokenImageError as error:
        return str(error)
    return None


def _without(classes: Classes, broken: Mapping[str, str]) -> Classes:
    kept = {name: [image for image in images if str(image) not in broken] for name, images in classes.items()}
    empty = [name for name, images in kept.items() if not images]
    if empty:
        raise ValueError(f"every image of class {empty[0]!r} is broken.")
    return kept


def _broken_sentence(broken: Mapping[str, str]) -> str:
    names = "\n  ".join(broken[path] for path in sorted(broken))
    return f"{len(broken)} broken image{'s' * (len(broken) > 1)}:\n  {names}\n"


def _file_name(split: str, storage: Storage) -> str:
    return f"{split}{SPLIT_FILES[storage.format]}"


def _describe(file: Path, classes: Classes) -> Split:
    with file.open("rb") as stream:
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    return Split(file.name, [len(images) for images in classes.values()], file.stat().st_size, sha256)


def _settings(storage: Storage, skipped: list[str]) -> dict[str, Any]:
    packages = ["pillow", "numpy"] + ["ffcv", "opencv-python"] * (storage.format == "ffcv")
    settings: dict[str, Any] = {"versions": {name: version(name) for name in packages}, "skipped_broken": skipped}
    if storage.format == "ffcv":
        settings |= {"mode": storage.mode, "max_resolution": storage.max_resolution, "quality": storage.quality}
    return settings
