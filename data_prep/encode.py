"""Class folders in, an encoded data set out: whole, checked, or not at all."""

from __future__ import annotations

import _thread
import hashlib
import json
import multiprocessing
import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np
from fastlt.data_prep.class_folders import scan, scan_like
from tqdm.contrib.concurrent import process_map

from fastlt.atomic import new_folder
from fastlt.encoded import Format, Split, manifest_json
from fastlt.images import BrokenImageError, read_image
from fastlt.label_space import LabelSpace

Classes = dict[str, list[Path]]


@dataclass(frozen=True)
class EncodeOptions:
    """How images are written.

    Attributes:
        format: "ffcv" (.beton files) or "plain" (an index of the original files).
        mode: FFCV storage: "jpg", "raw", or "smart" (raw below `smart_bytes`, else jpg).
        max_resolution: longer side in pixels above which an image is shrunk; None keeps the size.
        quality: JPEG quality, 1..100.
        workers: processes; 0 takes all cores.
        skip_broken: leave broken images out instead of failing.
    """

    format: Format = "ffcv"
    mode: Literal["jpg", "raw", "smart"] = "jpg"
    max_resolution: int | None = None
    quality: int = 90
    workers: int = 0
    skip_broken: bool = False

    smart_bytes = 100_000

    @property
    def num_workers(self) -> int:
        return self.workers or os.cpu_count() or 1


def encode(
    out: Path,
    train: Path,
    val: Path,
    test: Path | None = None,
    auxiliary: Path | None = None,
    neighbors: Path | None = None,
    options: EncodeOptions | None = None,
) -> LabelSpace:
    """Writes the encoded data set `out`.

    Args:
        out: folder to make; must not exist.
        train, val, test: class folders of the target classes.
        auxiliary: class folders of the auxiliary classes.
        neighbors: JSON object {target: [auxiliary, ...]}.
        options: see `EncodeOptions`.

    Raises:
        ValueError: missing or empty folders, broken images, unknown neighbors, FFCV not installed.
    """
    options = options or EncodeOptions()
    if options.format == "ffcv":
        _require_ffcv()
    if (auxiliary is None) != (neighbors is None):
        raise ValueError("--auxiliary and --neighbors go together: give both or neither.")
    targets = scan(train, "training images")
    auxiliaries = scan(auxiliary, "auxiliary images") if auxiliary else {}
    splits = {"train": targets | auxiliaries, "val": scan_like(val, "validation images", targets)}
    if test:
        splits["test"] = scan_like(test, "test images", targets)
    pairs = _read_neighbors(neighbors) if neighbors else {}
    _label_space(targets, auxiliaries, pairs)  # contradictions show before an hour of encoding, not after

    with new_folder(out) as folder:
        broken = _write_splits(folder, splits, options)
        if broken and not options.skip_broken:
            raise ValueError(_broken_sentence(broken) + " Nothing was written; --skip-broken leaves such images out.")
        if broken:
            print(_broken_sentence(broken) + " Left out, as --skip-broken says.")
            splits = {split: _without(classes, broken) for split, classes in splits.items()}
            _write_splits(folder, splits, options)
        kept = splits["train"]
        label_space = _label_space(
            {name: kept[name] for name in targets}, {name: kept[name] for name in auxiliaries}, pairs
        )
        label_space.save(folder / "label_space.json")
        described = {name: _describe(folder / _file_name(name, options), c) for name, c in splits.items()}
        manifest = manifest_json(options.format, described, _settings(options, sorted(broken)))
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


def _write_splits(folder: Path, splits: dict[str, Classes], options: EncodeOptions) -> dict[str, str]:
    """Writes each split's file; returns {path: reason} of the images that could not be read."""
    broken: dict[str, str] = {}
    for name, classes in splits.items():
        images = list(chain.from_iterable(classes.values()))
        print(f"{name}: {len(images):,} images of {len(classes):,} classes", flush=True)
        if options.format == "ffcv":
            broken |= _write_beton(folder / _file_name(name, options), classes, options)
        else:
            reasons = process_map(_reason_if_broken, images, max_workers=options.num_workers, chunksize=64)
            broken |= {str(image): reason for image, reason in zip(images, reasons, strict=True) if reason}
            (folder / _file_name(name, options)).write_text(json.dumps([str(image) for image in images]))
    return broken


def _reason_if_broken(path: Path) -> str | None:
    try:
        read_image(path)
    except BrokenImageError as error:
        return str(error)
    return None


class _Samples:
    """What FFCV's writer reads in its worker processes: (image, label) by index.

    The writer waits forever for a worker that raised, so a broken image becomes one black pixel
    here and is reported beside; `encode` never publishes a data set with such a pixel in it.
    """

    def __init__(self, classes: Classes) -> None:
        self.paths = list(chain.from_iterable(classes.values()))
        self.labels = np.repeat(np.arange(len(classes)), [len(images) for images in classes.values()])
        self.broken = multiprocessing.Manager().dict()

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        path = self.paths[index]
        try:
            image = np.asarray(read_image(path))
        except BrokenImageError as error:
            self.broken[str(path)] = str(error)
            image = np.zeros((1, 1, 3), np.uint8)
        return image, int(self.labels[index])


def _write_beton(file: Path, classes: Classes, options: EncodeOptions) -> dict[str, str]:
    from ffcv.fields import IntField, RGBImageField
    from ffcv.writer import DatasetWriter

    image_field = RGBImageField(
        write_mode=options.mode,
        max_resolution=options.max_resolution,
        smart_threshold=options.smart_bytes,
        jpeg_quality=options.quality,
    )
    samples = _Samples(classes)
    workers = min(options.num_workers, len(samples))
    writer = DatasetWriter(str(file), {"image": image_field, "label": IntField()}, num_workers=workers)
    with _interrupt_if_a_worker_dies():
        writer.from_indexed_dataset(samples, chunksize=min(100, -(-len(samples) // workers)))
    return dict(samples.broken)


class _interrupt_if_a_worker_dies:
    """FFCV's writer polls a counter that a dead worker never raises: watch the workers and stop it."""

    def __enter__(self) -> None:
        self._done = threading.Event()
        self._died: int | None = None
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        seen: set[Any] = set()
        while not self._done.wait(0.2):
            seen.update(multiprocessing.active_children())
            codes = [worker.exitcode for worker in seen if worker.exitcode]
            if codes:
                self._died = codes[0]
                _thread.interrupt_main()
                return

    def __exit__(self, kind: type | None, error: BaseException | None, trace: Any) -> None:
        self._done.set()
        if self._died is not None and kind is KeyboardInterrupt:
            for worker in multiprocessing.active_children():
                worker.terminate()
            raise ValueError(
                f"a process that writes images died (exit code {self._died}): is the disk full, or the memory?"
            ) from None


def _require_ffcv() -> None:
    try:
        import ffcv  # noqa: F401
    except ImportError as error:
        raise ValueError(
            f"FFCV is not usable ({error}): run `make install`, or encode with --format plain, which needs no FFCV."
        ) from None


def _without(classes: Classes, broken: Mapping[str, str]) -> Classes:
    kept = {name: [path for path in images if str(path) not in broken] for name, images in classes.items()}
    empty = [name for name, images in kept.items() if not images]
    if empty:
        raise ValueError(f"every image of class {empty[0]!r} is broken.")
    return kept


def _broken_sentence(broken: Mapping[str, str]) -> str:
    names = "\n  ".join(broken[path] for path in sorted(broken))
    return f"{len(broken)} broken image{'s' * (len(broken) > 1)}:\n  {names}\n"


def _file_name(split: str, options: EncodeOptions) -> str:
    return f"{split}.beton" if options.format == "ffcv" else f"{split}.json"


def _describe(file: Path, classes: Classes) -> Split:
    with file.open("rb") as stream:
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    return Split(file.name, [len(images) for images in classes.values()], file.stat().st_size, sha256)


def _settings(options: EncodeOptions, skipped: list[str]) -> dict[str, Any]:
    packages = ["pillow", "numpy"] + ["ffcv", "opencv-python"] * (options.format == "ffcv")
    settings: dict[str, Any] = {"versions": {name: version(name) for name in packages}, "skipped_broken": skipped}
    if options.format == "ffcv":
        settings |= {"mode": options.mode, "max_resolution": options.max_resolution, "quality": options.quality}
    return settings
