"""What reads the images of an encoded data set: FFCV, DALI or plain, which nobody else knows about."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from fastlt.dataset.encoded import EncodedDataset
from fastlt.loaders.transform import Transform
from fastlt.recipe import LoaderName

_READS: dict[str, tuple[LoaderName, ...]] = {"ffcv": ("ffcv",), "webdataset": ("dali", "plain"), "plain": ("plain",)}


class ImageReader(Protocol):
    """A backend: reads the images of given samples."""

    def batches(self, keys: Iterable[np.ndarray]) -> Iterator[Tensor]:
        """For each batch of uint64 keys [B], uint8 [B, 3, H, W] on the host or the device, in order.

        `keys` may be endless, and is read some batches ahead. No B exceeds the batch size of the reader.
        A yielded tensor is valid until the next but one is asked for.

        Raises:
            ValueError: an image cannot be read; names it.
        """
        ...


def open_reader(
    data: EncodedDataset,
    split: str,
    transform: Transform,
    batch_size: int,
    workers: int,
    backend: LoaderName = "auto",
    device: torch.device | None = None,
) -> ImageReader:
    """The reader that fits the data set; `device` is where DALI may decode, None for the host.

    Raises:
        ValueError: the backend does not fit the data set, or is not installed.
    """
    wanted = loader_of(data, backend)
    if wanted not in _READS[data.format]:
        raise ValueError(f"{data.path} was encoded with --format {data.format}; the {wanted} loader cannot read it.")
    if transform.scaled_decoding and wanted != "ffcv":
        raise ValueError(
            f"data.scaled_decoding=true: the {wanted} loader decodes images whole; leave it out, or encode with "
            "--format ffcv."
        )
    if wanted == "ffcv":
        from fastlt.loaders.ffcv.images import FFCVImages  # here, as it loads compiled code

        return FFCVImages(data, split, transform, batch_size, workers)
    if wanted == "plain":
        from fastlt.loaders.plain import PlainImages

        return PlainImages(data, split, transform, batch_size, workers)
    try:
        from fastlt.loaders.dali.images import DALIImages  # an extra
    except ImportError as error:
        raise ValueError(
            f"the dali loader cannot be used here ({error}): pip install 'fastlt[dali]', or set data.loader=plain."
        ) from None
    return DALIImages(data, split, transform, batch_size, workers, device)


def loader_of(data: EncodedDataset, backend: LoaderName) -> LoaderName:
    """The backend that is meant: "auto" is the fastest that reads the data set and is installed."""
    return backend if backend != "auto" else next(b for b in _READS[data.format] if is_installed(b))


def is_installed(backend: LoaderName) -> bool:
    """Whether what the backend needs can be found."""
    if backend != "dali":
        return True
    try:
        return find_spec("nvidia.dali") is not None
    except ModuleNotFoundError:  # not even a package `nvidia`
        return False
