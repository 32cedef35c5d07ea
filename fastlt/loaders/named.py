"""Images by their names, read in processes as those of a validation split are; broken ones are told, not raised."""

from __future__ import annotations

import math
import os
import stat
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice

import numpy as np
import torch
from PIL import UnidentifiedImageError
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from fastlt.dataset.images import FORMATS, BrokenImageError, TooLargeError, read_pixels
from fastlt.loaders.compiled import say_that_nothing_is_kept
from fastlt.loaders.ffcv.images import center_crop
from fastlt.loaders.transform import Transform
from fastlt.loaders.workers import WORKERS, end_with_parent, start_server

Batch = tuple[list[str], list[str], Tensor]
"""Names of B images, why each is broken or "", and those that are not, uint8 [b, 3, H, W] in the same order."""
_Part = tuple[Tensor, list[str]]


def named_batches(
    names: Iterable[str], transform: Transform, batch_size: int, workers: int, shared: bool
) -> Iterator[Batch]:
    """The images of these names, in order; `names` is read some batches ahead and never kept whole.

    Args:
        names: as `read_pixels` takes them.
        transform: of evaluation.
        batch_size: images at once.
        workers: processes that read; 0 for none.
        shared: whether they compute on the cores that the model needs too: each batch is then read by all of them at
            the same time, as one that reads has all the others wait.

    Raises:
        ValueError: a worker was killed.
    """
    assert not transform.train, "nothing is random about an image to be judged"
    names = iter(names)
    first = list(islice(names, batch_size))
    if len(first) < batch_size:
        workers = 0  # starting them takes longer than a batch
    say_that_nothing_is_kept()
    _warm_up()
    if workers:
        start_server(__name__)
    asked: deque[tuple[list[str], int]] = deque()

    def parts() -> Iterator[list[str]]:
        batch = first
        while batch:
            length = math.ceil(len(batch) / workers) if shared and workers else len(batch)
            cut = [batch[i : i + length] for i in range(0, len(batch), length)]
            asked.append((batch, len(cut)))
            yield from cut
            batch = list(islice(names, batch_size))

    loader = DataLoader(
        _Named(transform),
        batch_sampler=parts(),
        collate_fn=_collate,
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=end_with_parent,
        multiprocessing_context=WORKERS if workers else None,
    )
    read: list[_Part] = []
    try:
        for part in loader:
            read.append(part)
            if len(read) == asked[0][1]:
                batch, _ = asked.popleft()
                yield batch, [why for _, reasons in read for why in reasons], torch.cat([images for images, _ in read])
                read = []
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise ValueError(
            "a process that reads images was killed, perhaps because there was no memory left: give fewer --workers."
        ) from None


def _warm_up() -> None:
    """Compiles what the workers need, which would each do so."""
    center_crop(np.zeros((8, 8, 3), np.uint8), 8, np.empty((8, 8, 3), np.uint8))


class _Named(Dataset):
    """Images by name: (uint8 [3, H, W], "") or, of a broken one, (None, why)."""

    def __init__(self, transform: Transform) -> None:
        self._size, self._shorter = transform.size, math.floor(transform.size / transform.crop_pct)

    def __getitem__(self, name: str) -> tuple[Tensor | None, str]:
        if why := _why_not_opened(name):
            return None, why
        try:
            pixels = read_pixels(name)  # [H, W, 3]
        except BrokenImageError as error:
            return None, _reason(name, error)
        image = np.empty((self._size, self._size, 3), np.uint8)
        # As the FFCV loader does, bit for bit timm's; numba has compiled it for writable memory.
        center_crop(np.require(pixels, requirements=["C", "W"]), self._shorter, image)
        return torch.from_numpy(image).permute(2, 0, 1), ""


def _collate(samples: list[tuple[Tensor | None, str]]) -> _Part:
    images = [image for image, _ in samples if image is not None]
    return torch.stack(images) if images else torch.empty(0, dtype=torch.uint8), [why for _, why in samples]


def _why_not_opened(name: str) -> str:
    """What is there that is no file, as one might wait for it for ever; "" for a file, or for nothing."""
    try:
        mode = os.stat(name).st_mode
    except (OSError, ValueError):
        return ""
    if stat.S_ISDIR(mode):
        return "a folder that cannot be read"
    return "" if stat.S_ISREG(mode) else "a pipe, a device or the like"


def _reason(name: str, error: BrokenImageError) -> str:
    """Why an image is broken, without its name, in words for people who look for it in a table."""
    cause = error.__context__
    if isinstance(cause, UnidentifiedImageError):
        return f"not an image of a format that is read ({', '.join(FORMATS)})"
    if isinstance(cause, TooLargeError):
        return str(cause).partition(", more than")[0].replace("it has ", "too large: ")
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror
    return str(error).removeprefix(f"broken image {name}: ").rstrip(".")
