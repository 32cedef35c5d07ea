"""One split as an FFCV file."""

from __future__ import annotations

import _thread
import multiprocessing
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from fastlt.data_prep.storage import ImageName, Storage

from fastlt.images import BrokenImageError, read_image


class _Samples:
    """What FFCV's writer reads in its worker processes: (image, label) by index.

    The writer waits forever for a worker that raised, so a broken image becomes one black pixel
    here and is reported beside; `encode` never publishes a data set with such a pixel in it.
    """

    def __init__(self, images: Sequence[ImageName], labels: np.ndarray) -> None:
        self.images, self.labels = images, labels
        self.broken = multiprocessing.Manager().dict()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        name = self.images[index]
        try:
            image = np.asarray(read_image(name))
        except BrokenImageError as error:
            self.broken[str(name)] = str(error)
            image = np.zeros((1, 1, 3), np.uint8)
        return image, int(self.labels[index])


def write_beton(file: Path, images: Sequence[ImageName], labels: np.ndarray, storage: Storage) -> dict[str, str]:
    """Writes one split, labels int64 [N]; returns {image: reason} of the broken ones, for which a black pixel is there.

    Raises:
        ValueError: FFCV is not installed, or a process that writes died.
    """
    require_ffcv()
    from ffcv.fields import IntField, RGBImageField
    from ffcv.writer import DatasetWriter

    image_field = RGBImageField(
        write_mode=storage.mode,
        max_resolution=storage.max_resolution,
        smart_threshold=storage.smart_bytes,
        jpeg_quality=storage.quality,
    )
    samples = _Samples(images, labels)
    workers = min(storage.num_workers, len(samples))
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


def require_ffcv() -> None:
    try:
        import ffcv  # noqa: F401
    except ImportError as error:
        raise ValueError(
            f"FFCV is not usable ({error}): run `make install`, or encode with --format plain, which needs no FFCV."
        ) from None
