"""Images from an FFCV file: compiled decoding, cropping and augmentation, random by sample and not by thread.

The file is read as FFCV describes it. Its loader is not used: that compiles anew at each start, which takes longer than
anything else there, draws from a generator in each thread, and decodes a damaged image to what the buffer held before.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import cycle

import numpy as np
import torch
from ffcv.fields.rgb_image import IMAGE_MODES
from ffcv.reader import Reader
from numba import njit
from torch import Tensor

from fastlt.encoded import EncodedDataset
from fastlt.loaders.choices import Choices, augmentations, is_flipped, random_crop, uniform_numbers
from fastlt.loaders.pixel_operations import apply_operations
from fastlt.loaders.resample import resize_crop
from fastlt.loaders.transform import Transform
from fastlt.loaders.turbojpeg import decode_jpeg

_AHEAD = 2  # batches that are read while one is used
_TOGETHER = 8  # images that a thread takes at once
_JPEG = IMAGE_MODES["jpg"]
_INDEX_MASK = np.uint64((1 << 40) - 1)


class FFCVImages:
    """Reads the images of a split that was encoded with `--format ffcv`."""

    def __init__(self, data: EncodedDataset, split: str, transform: Transform, batch_size: int, workers: int) -> None:
        """Raises ValueError where the file does not match its manifest or this loader lacks the transform."""
        self._transform, self._threads = transform, max(workers, 1)
        self._choices = Choices.of(transform) if transform.train else None
        self._file = data.file(split)
        reader = Reader(str(self._file))
        labels, stored = data.split(split).labels(), reader.metadata[f"f{reader.field_names.index('label')}"]
        if len(stored) < len(labels) or (stored[: len(labels)] != labels).any():
            raise ValueError(f"the labels in {self._file} are not those of its manifest: encode again.")
        self._rows = reader.metadata[f"f{reader.field_names.index('image')}"]
        allocated = np.sort(reader.alloc_table, order="ptr")
        self._num_bytes = allocated["size"][np.searchsorted(allocated["ptr"], self._rows["data_ptr"]) % len(allocated)]
        self._mapped = np.memmap(self._file, np.uint8, mode="r")
        shape = (_AHEAD + 2, batch_size, transform.size, transform.size, 3)
        self._buffers = torch.empty(shape, dtype=torch.uint8, pin_memory=torch.cuda.is_available())

    def batches(self, keys: Iterable[np.ndarray]) -> Iterator[Tensor]:
        """See `ImageSource`."""
        reading: deque[tuple[Tensor, list[Future]]] = deque()
        with ThreadPoolExecutor(self._threads) as pool:
            try:
                for buffer, batch in zip(cycle(self._buffers), keys, strict=False):
                    parts = range(0, len(batch), _TOGETHER)
                    images = buffer[: len(batch)]
                    reading.append((images, [pool.submit(self._read, batch, images.numpy(), i) for i in parts]))
                    if len(reading) > _AHEAD:
                        yield self._ended(*reading.popleft())
                while reading:
                    yield self._ended(*reading.popleft())
            finally:
                for _, futures in reading:
                    for future in futures:
                        future.cancel()

    def _ended(self, images: Tensor, futures: list[Future]) -> Tensor:
        for future in futures:
            damaged = future.result()
            if damaged >= 0:
                raise ValueError(
                    f"image {damaged:,} of {self._file} is damaged: `fastlt encode --check` finds all such."
                )
        return images.permute(0, 3, 1, 2)  # [B, 3, H, W]

    def _read(self, keys: np.ndarray, images: np.ndarray, start: int) -> int:
        """Reads a part of a batch; the index of a damaged image, or -1."""
        part = slice(start, start + _TOGETHER)
        stored = self._mapped, self._rows, self._num_bytes
        choices = self._choices
        if choices is None:
            shorter = math.floor(self._transform.size / self._transform.crop_fraction)
            return read_center_crops(keys[part], *stored, shorter, images[part])
        crop = choices.scale, choices.log_ratio, choices.flip
        layers = choices.layers, choices.probability, choices.magnitude, choices.deviation, choices.most, choices.jitter
        fill = np.array(self._transform.fill, np.uint8)
        return read_augmented(keys[part], *stored, choices.seed, crop, layers, fill, images[part])


@njit(nogil=True, cache=True)
def _pixels(mapped, row, num_bytes):
    """(uint8 [H, W, 3], whether they could be decoded) of a sample, given its row in FFCV's table."""
    content = mapped[row["data_ptr"] : row["data_ptr"] + num_bytes]
    shape = (np.int64(row["height"]), np.int64(row["width"]), 3)
    if row["mode"] == _JPEG:
        pixels = np.empty(shape, np.uint8)
        return pixels, decode_jpeg(content, pixels)
    return content.copy().reshape(shape), True


@njit(nogil=True, cache=True)
def read_augmented(keys, mapped, rows, num_bytes, seed, crop, layers, fill, images):
    """Training images: decodes, crops, resizes, flips and augments.

    Args:
        keys: uint64 [B].
        mapped, rows, num_bytes: the file uint8 [bytes], its table of images, and the bytes that each of them takes.
        seed, crop, layers, fill: fields of `Choices` and `Transform`.
        images: uint8 [B, h, w, 3], overwritten.

    Returns:
        The index of a damaged image, or -1.
    """
    scale, log_ratio, flip = crop
    count, probability, magnitude, deviation, most, jitter = layers
    for i in range(len(keys)):
        index = np.int64(keys[i] & _INDEX_MASK)
        pixels, decoded = _pixels(mapped, rows[index], num_bytes[index])
        if not decoded:
            return index
        numbers = uniform_numbers(seed, keys[i])
        top, left, h, w = random_crop(pixels.shape[0], pixels.shape[1], scale, log_ratio, numbers)
        image = images[i]
        flipped = is_flipped(numbers, flip)
        resize_crop(pixels, top, left, h, w, image.shape[0], image.shape[1], 0, 0, flipped, image)
        if count or jitter > 0:
            operations, arguments = augmentations(numbers, count, probability, magnitude, deviation, most, jitter)
            apply_operations(image, operations, arguments, fill, np.empty_like(image))
    return -1


@njit(nogil=True, cache=True)
def read_center_crops(keys, mapped, rows, num_bytes, shorter, images):
    """Evaluation images, as torchvision's Resize(shorter) and CenterCrop; see `read_augmented`."""
    for i in range(len(keys)):
        index = np.int64(keys[i] & _INDEX_MASK)
        pixels, decoded = _pixels(mapped, rows[index], num_bytes[index])
        if not decoded:
            return index
        height, width = pixels.shape[0], pixels.shape[1]
        if height < width:
            h, w = shorter, int(shorter * width / height)
        else:
            h, w = int(shorter * height / width), shorter
        image = images[i]
        top, left = round((h - image.shape[0]) / 2), round((w - image.shape[1]) / 2)
        resize_crop(pixels, 0, 0, height, width, h, w, top, left, False, image)
    return -1
