"""Images from an FFCV .beton file: compiled decoding, cropping and flipping, random by sample and not by thread."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import takewhile
from queue import Empty

import ffcv.loader.loader
import numpy as np
from ffcv.fields.rgb_image import (
    IMAGE_MODES,
    CenterCropRGBImageDecoder,
    ResizedCropRGBImageDecoder,
)
from ffcv.libffcv import imdecode, resize_crop
from ffcv.loader import Loader
from ffcv.loader.epoch_iterator import EpochIterator
from ffcv.memory_managers import OSCacheManager
from ffcv.pipeline.compiler import Compiler
from ffcv.reader import Reader
from ffcv.transforms import ToTensor, ToTorchImage
from numba import njit
from torch import Tensor

from fastlt.encoded import EncodedDataset
from fastlt.loaders.choices import is_flipped, random_crop, uniform_numbers
from fastlt.loaders.transform import Transform


class FFCVImages:
    """Reads the images of a split that was encoded with `--format ffcv`."""

    def __init__(self, data: EncodedDataset, split: str, transform: Transform, batch_size: int, workers: int) -> None:
        """Raises ValueError where the file does not match its manifest or the transform is not to be had in FFCV."""
        if transform.rand_augment:
            raise ValueError(
                f"the FFCV loader has no RandAugment: drop augment.rand_augment={transform.rand_augment!r} "
                "or encode with --format plain."
            )
        file = data.file(split)
        self._check_labels(file, data.split(split).labels())
        size = (transform.size, transform.size)
        if transform.train:
            decoder = _RandomCropAndFlip(size, transform)
        else:
            decoder = CenterCropRGBImageDecoder(size, transform.crop_fraction)
        self._loader = Loader(
            str(file),
            batch_size,
            num_workers=max(workers, 1),
            os_cache=True,
            drop_last=False,
            batches_ahead=2,
            # Labels follow from the sample index, so only the images are decoded.
            pipelines={"image": [decoder, ToTensor(), ToTorchImage()], "label": None},
        )

    def batches(self, keys: Iterable[np.ndarray]) -> Iterator[Tensor]:
        """See `ImageSource`."""
        Compiler.set_num_threads(self._loader.num_workers)
        reading = _Reading(self._loader, keys)
        try:
            for (images,) in reading:
                yield images
        finally:
            reading.close()

    @staticmethod
    def _check_labels(file, labels: np.ndarray) -> None:
        reader = Reader(str(file))
        stored = reader.metadata[f"f{reader.field_names.index('label')}"]
        if len(stored) != len(labels) or (stored != labels).any():
            raise ValueError(f"the labels in {file} are not those of its manifest: encode again.")


class _Reading(EpochIterator):
    """FFCV's reading thread, for a stream of batches that may be endless instead of the order of one epoch.

    Its errors reach the consumer, which would wait forever, and it ends when closed.
    """

    error: BaseException | None = None
    closed: bool

    def __init__(self, loader: Loader, keys: Iterable[np.ndarray]) -> None:
        self._keys = keys
        super().__init__(loader, np.empty(0, np.uint64))

    def run(self) -> None:
        self.iter_ixes = takewhile(lambda _: not self.terminate_event.is_set(), self._keys)
        try:
            super().run()
        except BaseException as error:
            self.error = error
            self.output_queue.put(None)

    def __next__(self) -> tuple:
        try:
            return super().__next__()
        except StopIteration:
            if self.error is not None:
                raise RuntimeError(f"reading {self.loader.reader.file_name} failed: {self.error!r}") from self.error
            raise

    def close(self) -> None:
        if self.closed:
            return
        self.terminate_event.set()
        while self.is_alive():  # It may be waiting for room in the queue.
            with suppress(Empty):
                self.output_queue.get(timeout=0.01)
        super().close()
        self.closed = True


class _MappedFile(OSCacheManager):
    """FFCV's access to the memory-mapped file, without its `uint8[::1].mutable = False`.

    Numba interns its types, so that line changes the keys under which other compiled functions are already stored, and
    the second loader of a process dies on a KeyError.
    """

    def compile_reader(self) -> Callable:
        def read(address, state):
            mapped, addresses, sizes = state
            return mapped[address : address + sizes[np.searchsorted(addresses, address)]]

        return Compiler.compile(read)


ffcv.loader.loader.OSCacheManager = _MappedFile


class _RandomCropAndFlip(ResizedCropRGBImageDecoder):
    """Random resized crop and flip whose choices follow from (seed, sample key).

    FFCV's own use numpy's generator in each thread, so a run could never be repeated, let alone resumed.
    """

    def __init__(self, size: tuple[int, int], transform: Transform) -> None:
        super().__init__(size)
        self.scale, self.ratio = transform.crop_scale, transform.crop_ratio
        self.flip, self.seed = transform.flip, transform.seed

    @property
    def get_crop_generator(self) -> Callable:
        return random_crop

    def generate_code(self) -> Callable:
        jpg = IMAGE_MODES["jpg"]
        read, parallel_range = self.memory_read, Compiler.get_iterator()
        scale, log_ratio = np.array(self.scale), np.log(np.array(self.ratio))
        flip, seed = self.flip, np.uint64(self.seed)
        index_mask = np.uint64((1 << 40) - 1)

        def decode(keys, memory, metadata, storage_state):
            images, scratch = memory
            for i in parallel_range(len(keys)):
                field = metadata[keys[i] & index_mask]
                data = read(field["data_ptr"], storage_state)
                height, width = np.uint32(field["height"]), np.uint32(field["width"])
                if field["mode"] == jpg:
                    pixels = scratch[i]
                    _decode_jpeg(data, pixels, height, width, height, width, 0, 0, 1, 1, False, False)
                    pixels = pixels.reshape(-1)[: 3 * height * width].reshape(height, width, 3)
                else:
                    pixels = data.reshape(height, width, 3)
                numbers = uniform_numbers(seed, keys[i])
                top, left, h, w = random_crop(height, width, scale, log_ratio, numbers)
                _resize(pixels, top, top + h, left, left + w, images[i])
                if is_flipped(numbers, flip):
                    images[i] = images[i][:, ::-1].copy()
            return images[: len(keys)]

        decode.is_parallel = True  # type: ignore[attr-defined]
        return decode


_decode_jpeg, _resize = njit(nogil=True)(imdecode), njit(nogil=True)(resize_crop)
