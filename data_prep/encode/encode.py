"""Images of classes in, an encoded data set out: whole, checked, or not at all; one that is killed goes on."""

from __future__ import annotations

import errno
import hashlib
import json
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fastlt.cores import available_cores
from fastlt.data_prep.encode.credits import credit
from fastlt.data_prep.encode.estimate import announce
from fastlt.data_prep.encode.inputs import EncodeInputs, Inputs, read_inputs
from fastlt.data_prep.encode.on_ray import pool_on_ray
from fastlt.data_prep.encode.options import EncodeOptions
from fastlt.data_prep.encode.partial_folder import PartialFolder
from fastlt.data_prep.encode.stored_image import too_large_images
from fastlt.data_prep.encode.writer import SplitWriter
from fastlt.dataset.card import write_card
from fastlt.dataset.encoded import FORMATS, MANIFEST, EncodedDataset, Split, manifest_json
from fastlt.dataset.images import ImageName
from fastlt.foreign import load_json
from fastlt.label_space import LabelSpace
from fastlt.loaders.workers import process_pool

_CHUNK = 1024  # images whose headers a process looks at
_SHOWN = 20  # images that are named


def encode(
    out: Path, sources: EncodeInputs, options: EncodeOptions | None = None, ray: str | None = None
) -> LabelSpace:
    """Writes the encoded data set `out`, or goes on where an earlier call with the same arguments was killed.

    Args:
        out: folder to make; must not exist. What is not complete lies in `.OUT.partial` beside it.
        sources: where the images are.
        options: how they are stored.
        ray: address of a Ray cluster whose machines read and store images; None for processes of this machine.

    Raises:
        ValueError: bad inputs, broken images, another encode of `out` that did not end, no room.
    """
    options = options or EncodeOptions()
    inputs = read_inputs(sources)
    digest = _digest(inputs, options)
    partial = PartialFolder(out, digest)
    writers: list[SplitWriter] = []
    try:
        with partial.lock():
            if not partial.is_complete:
                writers += _writers(partial.path, inputs, options)
                with _processes(options, ray) as processes:
                    _write(partial, inputs, sources, options, writers, digest, processes)
            if sources.catalog:
                write_card(partial.path)
            partial.publish()
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise ValueError(f"the disk is full; {_how_far(writers)}") from None
    except KeyboardInterrupt:
        print(f"\nstopped; {_how_far(writers)}", flush=True)
        raise
    return LabelSpace.load(out / "label_space.json")


def require_encode_of(out: Path, sources: EncodeInputs, options: EncodeOptions) -> None:
    """Raises ValueError where a data set that is there was not made of these images with these settings."""
    EncodedDataset.open(out)
    if load_json(out / MANIFEST)["settings"].get("inputs") != _digest(read_inputs(sources), options):
        raise ValueError(f"{out} was encoded from other images or with other settings: choose another name.")


def _digest(inputs: Inputs, options: EncodeOptions) -> str:
    settings = [options.format, options.mode, options.max_resolution, options.quality]
    return hashlib.sha256(json.dumps([inputs.digest(), *settings]).encode()).hexdigest()


def _writers(folder: Path, inputs: Inputs, options: EncodeOptions) -> list[SplitWriter]:
    writers = []
    for name, classes in inputs.splits.items():
        file = folder / f"{name}{FORMATS[options.format].SUFFIX}"
        images = list(chain.from_iterable(classes.values()))
        labels = np.repeat(np.arange(len(classes)), [len(images) for images in classes.values()])
        layout = FORMATS[options.format].Layout(file, images, labels)
        writers.append(SplitWriter(file, layout, images, retry_broken=not options.skip_broken))
    return writers


class _Processes(NamedTuple):
    """What reads images: how many processes, on how many cores."""

    pool: Executor
    number: int
    cores: int


@contextmanager
def _processes(options: EncodeOptions, ray: str | None) -> Iterator[_Processes]:
    if ray is None:
        with process_pool("fastlt.data_prep.encode.stored_image", options.num_workers) as pool:
            yield _Processes(pool, options.num_workers, available_cores())
    else:
        with pool_on_ray(ray) as spread:
            yield _Processes(spread, spread.cores, spread.cores)


def _write(
    partial: PartialFolder,
    inputs: Inputs,
    sources: EncodeInputs,
    options: EncodeOptions,
    writers: list[SplitWriter],
    digest: str,
    processes: _Processes,
) -> None:
    """Everything but the rename."""
    for writer, (name, classes) in zip(writers, inputs.splits.items(), strict=True):
        there = f", of which {writer.done:,} are done" if writer.done else ""
        print(f"{name}: {len(writer.images):,} images of {len(classes):,} classes{there}", flush=True)
    missing = list(chain.from_iterable(w.images[w.done :] for w in writers))
    if missing:
        announce(missing, options, partial.path, processes.number, processes.cores)
    broken: dict[str, str] = {}
    if not options.skip_broken:
        _refuse_too_large(missing, options, processes.pool)
    for writer in writers:
        broken |= writer.write(processes.pool, processes.number, options)
    if broken and not options.skip_broken:
        raise ValueError(
            f"{_broken_sentence(broken)}  {partial.path} keeps all others: repair these and run the same command "
            "again, or add --skip-broken to leave them out."
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
    settings = _settings(options, digest, sorted(broken))
    if sources.own_license:
        settings["own_license"] = sources.own_license
    # Also where there is none: a data set that says nothing is of before, and its images may be anybody's.
    settings["catalog"] = credit(partial.path, kept, sources) if sources.catalog else None
    partial.complete(manifest_json(options.format, splits, settings))


def _refuse_too_large(images: list[ImageName], options: EncodeOptions, pool: Executor) -> None:
    """Raises ValueError where images have too many pixels: before an hour of encoding, not after."""
    chunks = [images[i : i + _CHUNK] for i in range(0, len(images), _CHUNK)]
    found = list(chain.from_iterable(pool.map(partial(too_large_images, max_pixels=options.max_pixels), chunks)))
    if found:
        more = f"\n  and {len(found) - _SHOWN:,} more" if len(found) > _SHOWN else ""
        raise ValueError(
            f"{len(found):,} images are too large:\n  " + "\n  ".join(found[:_SHOWN]) + f"{more}\n  Give a higher "
            "--max-megapixels, or leave them out with --skip-broken."
        )


def _how_far(writers: list[SplitWriter]) -> str:
    splits = ", ".join(f"{w.done:,} of {len(w.images):,} images of {w.file.stem}" for w in writers)
    return f"{f'{splits} are' if splits else 'nothing is'} written: the same command continues from there."


def _broken_sentence(broken: Mapping[str, str]) -> str:
    names = "\n  ".join(broken[path] for path in sorted(broken))
    return f"{len(broken)} broken image{'s' * (len(broken) > 1)}:\n  {names}\n"


def _settings(options: EncodeOptions, digest: str, skipped: list[str]) -> dict[str, Any]:
    versions = {name: version(name) for name in ("pillow", "numpy")}
    settings: dict[str, Any] = {"versions": versions, "skipped_broken": skipped}
    settings["max_megapixels"] = options.max_megapixels
    if options.format == "ffcv":
        settings["mode"] = options.mode
    if options.format != "plain":
        settings |= {"max_resolution": options.max_resolution, "quality": options.quality}
    return settings | {"inputs": digest}
