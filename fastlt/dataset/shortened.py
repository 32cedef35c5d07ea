"""An encoded data set without some images that came from a catalog: written anew beside it, and put in its place."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from hashlib import file_digest
from pathlib import Path
from typing import Any

import numpy as np

from fastlt.atomic import new_folder
from fastlt.dataset.attribution import FILE, Credit, read_credits, write_credits
from fastlt.dataset.card import CARD, settings, write_card
from fastlt.dataset.encoded import FORMATS, EncodedDataset, Split, manifest_json
from fastlt.dataset.images import read_bytes
from fastlt.dataset.stored import Place, StoredImage
from fastlt.label_space import LabelSpace
from fastlt.messages import listed


def shorten(path: Path, is_dropped: Callable[[Credit], bool]) -> str:
    """Takes training images out of an encoded data set, and auxiliary classes that have no others; says how many.

    What is there stays whole until the new one is: killed at any instant, it is the one or the other after
    `finish_swap`.

    Raises:
        ValueError: it is none, or damaged, or the disk has no room for both.
    """
    path = path.resolve()
    finish_swap(path)
    data = EncodedDataset.open(path)
    dropped = np.array([credit.sample for credit in read_credits(path) if is_dropped(credit)], np.int64)
    if not len(dropped):
        return f"{path}: holds none of what was removed"
    labels = data.split("train").labels()
    if dropped[-1] >= len(labels):
        raise ValueError(f"{path / FILE} is of another data set: it has an image {dropped[-1]:,} of {len(labels):,}.")
    free, needed = shutil.disk_usage(path.parent).free, data.split("train").num_bytes
    if free < needed:
        raise ValueError(f"{path} needs {needed:,} bytes beside it to be written anew, and {free:,} are free.")
    with new_folder(_new(path)) as folder:
        gone = _write(folder, data, dropped)
    _swap(path)
    said = f"{path}: {len(dropped):,} of {len(labels):,} training images removed"
    if gone:
        said += (
            f"; {listed(gone)} {'has' if len(gone) == 1 else 'have'} none left and {'is' if len(gone) == 1 else 'are'} "
            "no class any more: runs on the data set as it was cannot be resumed on it"
        )
    return said


def finish_swap(path: Path) -> None:
    """Ends what a killed call left: there is one data set again, whole, and nothing beside it."""
    path = path.resolve()
    if not path.exists() and _new(path).exists():
        _new(path).rename(path)
    for left in (_new(path), _old(path)):
        if path.exists() and left.exists():
            shutil.rmtree(left)


def _new(path: Path) -> Path:
    return path.with_name(f".{path.name}.shortened")


def _old(path: Path) -> Path:
    return path.with_name(f".{path.name}.before")


def _swap(path: Path) -> None:
    path.rename(_old(path))
    _new(path).rename(path)
    finish_swap(path)


def _write(folder: Path, data: EncodedDataset, dropped: np.ndarray) -> list[str]:
    """Writes everything; returns the classes that are gone."""
    split, space = data.split("train"), data.label_space
    is_kept = np.ones(sum(split.counts), bool)
    is_kept[dropped] = False
    counts = np.bincount(split.labels()[is_kept], minlength=space.num_classes)
    new_space = _label_space(space, counts)
    new_counts = counts[(counts > 0) | (np.arange(space.num_classes) < space.num_targets)]
    train = _write_split(folder, data, is_kept, new_counts)
    kept = {name: old for name, old in data.splits.items() if name != "train"}
    written = {train.file, Path(train.file).with_suffix(".idx").name, "label_space.json", "manifest.json", FILE, CARD}
    for entry in data.path.iterdir():
        if entry.is_file() and entry.name not in written:
            _link(entry, folder / entry.name)
    new_space.save(folder / "label_space.json")
    about = settings(data)
    about["removed"] = about.get("removed", 0) + len(dropped)
    (folder / "manifest.json").write_text(manifest_json(data.format, {"train": train, **kept}, about))
    write_credits(folder, _kept_credits(data.path, dropped))
    write_card(folder)
    return [name for name, count in zip(space.names, counts.tolist(), strict=True) if not count]


def _label_space(space: LabelSpace, counts: np.ndarray) -> LabelSpace:
    """The same without auxiliary classes that have no image any more."""
    numbers = dict(zip(space.names, counts.tolist(), strict=True))
    targets = {name: numbers[name] for name in space.target_names}
    auxiliaries = {name: numbers[name] for name in space.auxiliary_names if numbers[name]}
    strengths = space.strengths or (1.0,) * len(space.neighbors)
    pairs: dict[str, dict[str, float]] = {}
    for (target, auxiliary), strength in zip(space.neighbors, strengths, strict=True):
        if space.names[auxiliary] in auxiliaries:
            pairs.setdefault(space.names[target], {})[space.names[auxiliary]] = strength
    return LabelSpace.build(targets, auxiliaries, pairs)


def _write_split(folder: Path, data: EncodedDataset, is_kept: np.ndarray, counts: np.ndarray) -> Split:
    old = data.split("train")
    names: list[Any] = [] if data.format == "ffcv" else list(np.array(data.image_names("train"), object)[is_kept])
    file = folder / old.file
    form = FORMATS[data.format]
    layout = form.Layout(file, names, np.repeat(np.arange(len(counts)), counts))
    records, end = [], layout.start
    with file.open("w+b") as stream:
        stream.seek(end)
        for index, image in enumerate(_images(data, is_kept)):
            record, end = layout.append(stream, end, index, image)
            records.append(record)
        layout.finish(stream, end, records)
    with file.open("rb") as stream:
        sha256 = file_digest(stream, "sha256").hexdigest()
    return replace(old, counts=counts.tolist(), num_bytes=file.stat().st_size, sha256=sha256)


def _images(data: EncodedDataset, is_kept: np.ndarray) -> Iterator[StoredImage]:
    file = data.file("train")
    with file.open("rb") as stream:
        for index, place in enumerate(FORMATS[data.format].places(file, data.split("train").labels())):
            if isinstance(place, str):
                raise ValueError(f"{place}: {data.path} is damaged, encode it again.")
            if is_kept[index]:
                yield _stored(data, stream, place)


def _stored(data: EncodedDataset, stream: Any, place: Place) -> StoredImage:
    if data.format == "plain":  # an index alone
        return StoredImage(b"", False, 0, 0)
    if data.format == "webdataset":
        return StoredImage(read_bytes(place.name), False, 0, 0)
    stream.seek(place.offset)
    return StoredImage(stream.read(place.num_bytes), place.is_raw, place.width, place.height)


def _kept_credits(path: Path, dropped: np.ndarray) -> Iterator[Credit]:
    gone = set(dropped.tolist())
    for credit in read_credits(path):
        if credit.sample not in gone:
            yield credit._replace(sample=credit.sample - int(np.searchsorted(dropped, credit.sample)))


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copy2(source, target)
