"""Images from an FFCV file: compiled decoding, cropping and augmentation, random by sample and not by thread.

The files are FFCV's, its loader is not used: that compiles anew at each start, which takes longer than anything else
there, decodes images whole, draws from a generator in each thread, and shows a damaged image as what was there before.

Pixels are Pillow's to the bit, but with `data.scaled_decoding`. Of photographs of 500 px read at 112 px, that decodes
half of the crops to a half or less: their pixels differ by 1.7 levels of 255 on average (38 dB), and have 4 % less
contrast to their neighbors. At 224 px it is one crop in 25, by 0.9 levels (43 dB). Entropy decoding, 0.6 of the time of
the whole, stays.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import cycle

import numpy as np
import torch
from torch import Tensor

from fastlt.dataset.beton import JPEG, find_images, read_tables
from fastlt.dataset.encoded import EncodedDataset
from fastlt.dataset.images import decode_jpeg
from fastlt.loaders.choices import Choices, augmentations, is_flipped, random_crop, uniform_numbers
from fastlt.loaders.compiled import compiled, say_that_nothing_is_kept
from fastlt.loaders.ffcv import jpeg
from fastlt.loaders.ffcv.jpeg import decode_window
from fastlt.loaders.ffcv.pixel_operations import apply_operations
from fastlt.loaders.resample import resize_crop
from fastlt.loaders.sample_keys import sample_index, split_keys
from fastlt.loaders.transform import Transform

_AHEAD = 2  # batches that are read while one is used
_TOGETHER = 8  # images that a thread takes at once, at least


class FFCVImages:
    """Reads the images of a split that was encoded with `--format ffcv`."""

    def __init__(self, data: EncodedDataset, split: str, transform: Transform, batch_size: int, workers: int) -> None:
        """Raises ValueError where the file does not match its manifest or this loader lacks the transform."""
        self._transform, self._batch_size, self._threads = transform, batch_size, max(workers, 1)
        self._choices = Choices.of(transform) if transform.train else None
        self._file = data.file(split)
        rows, allocations = read_tables(self._file)
        if not np.array_equal(rows["label"], data.split(split).labels()):
            raise ValueError(f"the labels in {self._file} are not those of its manifest: encode again.")
        self._rows = rows["image"]
        say_that_nothing_is_kept()
        if (self._rows["mode"] == JPEG).any():
            if transform.scaled_decoding and jpeg.MISSING:
                raise ValueError(
                    f"data.scaled_decoding needs the C part of the decoder: {jpeg.MISSING}; {jpeg.GET_IT}."
                )
            jpeg.say_what_is_missing()
        self._num_bytes, whole = find_images(self._file, rows, allocations)
        if not whole.all():  # compiled code would read whatever lies there
            raise ValueError(f"{self._file}, sample {whole.argmin()}: its table entry is damaged: encode again.")
        # Private, though never written: numba compiles anew for memory that is read-only.
        self._mapped = np.asarray(np.memmap(self._file, np.uint8, mode="c"))

    def batches(self, keys: Iterable[np.ndarray]) -> Iterator[Tensor]:
        """See `ImageReader`; channels last in memory."""
        shape = (_AHEAD + 2, self._batch_size, self._transform.size, self._transform.size, 3)
        buffers = torch.empty(shape, dtype=torch.uint8, pin_memory=torch.cuda.is_available())
        reading: deque[tuple[Tensor, list[Future]]] = deque()
        with ThreadPoolExecutor(self._threads) as pool:
            try:
                for buffer, batch in zip(cycle(buffers), keys, strict=False):
                    images = buffer[: len(batch)]
                    together = max(math.ceil(len(batch) / self._threads), _TOGETHER)  # handing out takes time, too
                    parts = [slice(i, i + together) for i in range(0, len(batch), together)]
                    futures = [pool.submit(self._read, batch[part], images[part].numpy()) for part in parts]
                    reading.append((images, futures))
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

    def _read(self, keys: np.ndarray, images: np.ndarray) -> int:
        """Reads a part of a batch; the index of a damaged image, or -1."""
        stored = self._mapped, self._rows, self._num_bytes
        if self._choices is None:
            shorter = math.floor(self._transform.size / self._transform.crop_pct)
            if not jpeg.MISSING:
                return read_center_crops(keys, *stored, shorter, images)
            return self._read_whole(keys, lambda pixels, _, image: center_crop(pixels, shorter, image), images)
        choices = self._choices
        crop = choices.scale, choices.log_ratio, choices.flip
        # None is a type of its own: what is not asked for is not compiled, which takes most of a first start.
        layers = (
            (choices.layers, choices.probability, choices.magnitude, choices.deviation, choices.most, choices.jitter)
            if choices.num_layers
            else None
        )
        how = choices.seed, crop, layers, np.array(self._transform.fill, np.uint8)
        if not jpeg.MISSING:
            return read_augmented(keys, *stored, *how, self._transform.scaled_decoding, images)
        return self._read_whole(keys, lambda pixels, key, image: augment(pixels, key, *how, image), images)

    def _read_whole(self, keys: np.ndarray, finish: Callable[..., None], images: np.ndarray) -> int:
        """As `_read`, without the C part of the decoder: finish(pixels uint8 [H, W, 3], key, image)."""
        for key, index, image in zip(keys, split_keys(keys)[1].tolist(), images, strict=True):
            mode, width, height, start = self._rows[index].tolist()
            content = self._mapped[start : start + int(self._num_bytes[index])]
            if mode == JPEG:
                try:
                    pixels = decode_jpeg(content)
                except ValueError:
                    return index
                if pixels.shape != (height, width, 3):
                    return index
            else:
                pixels = content.reshape(height, width, 3)
            finish(pixels, key, image)
        return -1


@compiled
def _memory(keys, rows):
    """Room for the largest of the images, uint8; one for all of them, as new pages are slow."""
    most = np.int64(0)
    for key in keys:
        row = rows[sample_index(key)]
        size = 3 * np.int64(row["height"]) * np.int64(row["width"])
        if size > most:
            most = size
    return np.empty(most, np.uint8)


@compiled
def _pixels(mapped, row, num_bytes, shrink, top, left, h, w, memory):
    """A window of a sample, with more around it where that costs nothing, given its row in FFCV's table.

    A JPEG's is `shrink` times smaller: 1, 2, 4 or 8.

    Returns:
        (uint8 [H, W, 3], top, left, height and width of the window in these, whether they could be decoded).
    """
    content = mapped[row["data_ptr"] : row["data_ptr"] + num_bytes]
    height, width = np.int64(row["height"]), np.int64(row["width"])
    if row["mode"] == JPEG:
        above, before = top // shrink, left // shrink  # whole pixels that hold all of the window
        rows, columns = -(-(top + h) // shrink) - above, -(-(left + w) // shrink) - before
        pixels, first, decoded = decode_window(content, height, width, shrink, above, before, rows, columns, memory)
        return pixels, (top / shrink - above, left / shrink - first, h / shrink, w / shrink), decoded
    return content.reshape(height, width, 3), (float(top), float(left), float(h), float(w)), True


@compiled
def _shrink(length, target):
    """By how much a JPEG may be made smaller as it is decoded, where `length` of its pixels are to become `target`."""
    for shrink in (8, 4, 2):
        if length >= shrink * target:
            return shrink
    return 1


@compiled
def read_augmented(keys, mapped, rows, num_bytes, seed, crop, layers, fill, scaled, images):
    """Training images: decodes, crops, resizes, flips and augments.

    Args:
        keys: uint64 [B].
        mapped, rows, num_bytes: the file uint8 [bytes], its table of images, and the bytes that each of them takes.
        seed, crop, layers, fill: fields of `Choices` and `Transform`; layers are None where there are none.
        scaled: `Transform.scaled_decoding`.
        images: uint8 [B, h, w, 3], overwritten.

    Returns:
        The index of a damaged image, or -1.
    """
    scale, log_ratio, flip = crop
    scratch = np.empty(images.shape[1:], np.uint8)
    memory = _memory(keys, rows)
    for i in range(len(keys)):
        index = sample_index(keys[i])
        height, width = np.int64(rows[index]["height"]), np.int64(rows[index]["width"])
        numbers = uniform_numbers(seed, keys[i])
        top, left, h, w = random_crop(height, width, scale, log_ratio, numbers)
        shrink = _shrink(min(h, w), images.shape[1]) if scaled else 1
        pixels, window, decoded = _pixels(mapped, rows[index], num_bytes[index], shrink, top, left, h, w, memory)
        if not decoded:
            return index
        _finish(pixels, window, numbers, flip, layers, fill, images[i], scratch)
    return -1


@compiled
def augment(pixels, key, seed, crop, layers, fill, image):
    """One training image of decoded pixels, uint8 [H, W, 3]; see `read_augmented`."""
    scale, log_ratio, flip = crop
    numbers = uniform_numbers(seed, key)
    top, left, h, w = random_crop(pixels.shape[0], pixels.shape[1], scale, log_ratio, numbers)
    window = float(top), float(left), float(h), float(w)
    _finish(pixels, window, numbers, flip, layers, fill, image, np.empty(image.shape, np.uint8))


@compiled
def _finish(pixels, window, numbers, flip, layers, fill, image, scratch):
    """Resizes and flips a window of the pixels into `image`, and augments that."""
    top, left, h, w = window
    flipped = is_flipped(numbers, flip)
    resize_crop(pixels, top, left, h, w, image.shape[0], image.shape[1], 0, 0, flipped, image)
    if layers is not None:
        operations, arguments = augmentations(numbers, *layers)
        apply_operations(image, operations, arguments, fill, scratch)


@compiled
def read_center_crops(keys, mapped, rows, num_bytes, shorter, images):
    """Evaluation images; see `read_augmented`."""
    memory = _memory(keys, rows)
    for i in range(len(keys)):
        index = sample_index(keys[i])
        height, width = np.int64(rows[index]["height"]), np.int64(rows[index]["width"])
        pixels, _, decoded = _pixels(mapped, rows[index], num_bytes[index], 1, 0, 0, height, width, memory)
        if not decoded:
            return index
        center_crop(pixels, shorter, images[i])
    return -1


@compiled
def center_crop(pixels, shorter, image):
    """One evaluation image of pixels uint8 [H, W, 3], as torchvision's Resize(shorter) and CenterCrop."""
    height, width = pixels.shape[0], pixels.shape[1]
    if height < width:
        h, w = shorter, int(shorter * width / height)
    else:
        h, w = int(shorter * height / width), shorter
    top, left = round((h - image.shape[0]) / 2), round((w - image.shape[1]) / 2)
    resize_crop(pixels, 0.0, 0.0, float(height), float(width), h, w, top, left, False, image)
