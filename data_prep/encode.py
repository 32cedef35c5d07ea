"""Images of classes in, an encoded data set out: whole, checked, or not at all; one that is killed goes on."""

from __future__ import annotations

import errno
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from fastlt.data_prep.beton import BetonLayout
from fastlt.data_prep.encode_inputs import Inputs, Sources, read_inputs
from fastlt.data_prep.estimate import announce
from fastlt.data_prep.indexed_tar import TarLayout
from fastlt.data_prep.partial_folder import PartialFolder
from fastlt.data_prep.plain_index import PlainLayout
from fastlt.data_prep.split_writer import Layout, SplitWriter
from fastlt.data_prep.storage import ImageName, Storage

from fastlt.encoded import SPLIT_FILES, Format, Split, manifest_json
from fastlt.label_space import LabelSpace
from fastlt.loader_workers import WORKERS, end_with_parent, start_server

_LAYOUTS: dict[Format, Callable[[Path, Sequence[ImageName], np.ndarray], Layout]] = {
    "ffcv": BetonLayout,
    "webdataset": TarLayout,
    "plain": PlainLayout,
}


def encode(out: Path, sources: Sources, storage: Storage | None = None) -> LabelSpace:
    """Writes the encoded data set `out`, or goes on where an earlier call with the same arguments was killed.

    Args:
        out: folder to make; must not exist. What is not complete lies in `.OUT.partial` beside it.
        sources: where the images are.
        storage: how they are written.

    Raises:
        ValueError: bad inputs, broken images, another encode of `out` that did not end, no room.
    """
    storage = storage or Storage()
    inputs = read_inputs(sources)
    digest = _digest(inputs, storage)
    partial = PartialFolder(out, digest)
    writers: list[SplitWriter] = []
    try:
        with partial.lock():
            if not partial.is_complete:
                writers += _writers(partial.path, inputs, storage)
                _write(partial, inputs, storage, writers, digest)
            partial.publish()
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise ValueError(f"the disk is full; {_how_far(writers)}") from None
    except KeyboardInterrupt:
        print(f"\nstopped; {_how_far(writers)}", flush=True)
        raise
    return LabelSpace.load(out / "label_space.json")


def _digest(inputs: Inputs, storage: Storage) -> str:
    settings = [storage.format, storage.mode, storage.max_resolution, storage.quality]
    return hashlib.sha256(json.dumps([inputs.digest(), *settings]).encode()).hexdigest()


def _writers(folder: Path, inputs: Inputs, storage: Storage) -> list[SplitWriter]:
    writers = []
    for name, classes in inputs.splits.items():
        file = folder / f"{name}{SPLIT_FILES[storage.format]}"
        images = list(chain.from_iterable(classes.values()))
        labels = np.repeat(np.arange(len(classes)), [len(images) for images in classes.values()])
        layout = _LAYOUTS[storage.format](file, images, labels)
        writers.append(SplitWriter(file, layout, images, retry_broken=not storage.skip_broken))
    return writers


def _write(partial: PartialFolder, inputs: Inputs, storage: Storage, writers: list[SplitWriter], digest: str) -> None:
    """Everything but the rename."""
    for writer, (name, classes) in zip(writers, inputs.splits.items(), strict=True):
        there = f", of which {writer.done:,} are done" if writer.done else ""
        print(f"{name}: {len(writer.images):,} images of {len(classes):,} classes{there}", flush=True)
    missing = list(chain.from_iterable(w.images[w.done :] for w in writers))
    if missing:
        announce(missing, storage, partial.path)
    start_server("fastlt.data_prep.stored_image")
    broken: dict[str, str] = {}
    with ProcessPoolExecutor(storage.num_workers, WORKERS, initializer=end_with_parent, initargs=(0,)) as pool:
        for writer in writers:
            broken |= writer.write(pool, storage)
    if broken and not storage.skip_broken:
        raise ValueError(
            f"{_broken_sentence(broken)}  {partial.path} keeps all others: repair these and type the same command "
            "again, or type it with --skip-broken, which leaves them out."
        )
    if broken:
        print(f"{_broken_sentence(broken)}  Left out, as --skip-broken says.")
    kept = inputs.without(broken)
    kept.label_space().save(partial.path / "label_space.json")
    splits = {}
    for writer, (name, classes) in zip(writers, kept.splits.items(), strict=True):
        counts = [len(images) for images in classes.values()]
        with writer.file.open("rb") as stream:
            sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
        splits[name] = Split(writer.file.name, counts, writer.file.stat().st_size, sha256)
    partial.complete(manifest_json(storage.format, splits, _settings(storage, digest, sorted(broken))))


def _how_far(writers: list[SplitWriter]) -> str:
    splits = ", ".join(f"{w.done:,} of {len(w.images):,} images of {w.file.stem}" for w in writers)
    return f"{f'{splits} are' if splits else 'nothing is'} written: the same command goes on from there."


def _broken_sentence(broken: Mapping[str, str]) -> str:
    names = "\n  ".join(broken[path] for path in sorted(broken))
    return f"{len(broken)} broken image{'s' * (len(broken) > 1)}:\n  {names}\n"


def _settings(storage: Storage, digest: str, skipped: list[str]) -> dict[str, Any]:
    versions = {name: version(name) for name in ("pillow", "numpy")}
    settings: dict[str, Any] = {"versions": versions, "skipped_broken": skipped}
    if storage.format == "ffcv":
        settings["mode"] = storage.mode
    if storage.format != "plain":
        settings |= {"max_resolution": storage.max_resolution, "quality": storage.quality}
    return settings | {"inputs": digest}
