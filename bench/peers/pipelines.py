"""The pipelines that are compared, each an arm that makes batches of training images without end.

All give batches of the same size on the host, ours and timm's as uint8, the authors' as normalized float32, as each
trains. All use the machine's cores: as threads (ffcv, dali, turbojpeg) or as worker processes (plain, timm, authors).
"""

from __future__ import annotations

import ctypes
import itertools
import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from bench.harness.timing import Unavailable
from bench.harness.turns import Tick
from bench.inputs.image_sets import BUILD
from fastlt.cores import available_cores
from fastlt.dataset.beton import JPEG, read_tables

BATCH = 64
CORES = available_cores()
RAND_AUGMENT = {"crop": None, "full": "rand-m9-mstd0.5-inc1"}
SETTINGS = {
    "timm": "Pillow without SIMD, fast_collate, persistent workers, epochs of a million images",
    "authors": "Pillow without SIMD, random erasing off, no epoch ends within a run",
    "turbojpeg": "decodes alone, full scale, TJFLAG_FASTDCT, its fastest",
}
PRELOAD = ("torchvision.datasets", "timm.data", "fastlt.loaders.readers", "fastlt.dataset.encoded")
MANY = 10**9  # samples; a peer whose epoch ended would stop reading ahead


def fastlt(data: Path, backend: str, size: int, transform: str, scaled: bool, tick: Tick) -> None:
    """Ours, from an encoded data set; `scaled`: with `data.scaled_decoding`."""
    from fastlt.dataset.encoded import EncodedDataset
    from fastlt.loaders.readers import open_reader
    from fastlt.loaders.sampler import EpochPlan
    from fastlt.loaders.transform import Transform

    encoded = EncodedDataset.open(data)
    wanted = Transform(size, train=True, rand_augment=RAND_AUGMENT[transform], scaled_decoding=scaled)
    try:
        reader = open_reader(encoded, "train", wanted, BATCH, CORES, backend)  # type: ignore[arg-type]
    except ValueError as error:  # not installed, or without this transform
        raise Unavailable(str(error)) from None
    plan = EpochPlan.of(encoded.label_space, 10**6, seed=0)
    tick_batches(reader.batches(plan.keys(start, BATCH) for start in itertools.count(0, BATCH)), tick)


def timm(folder: Path, size: int, transform: str, tick: Tick) -> None:
    """timm's loader as its train.py makes it, without what it does on the device."""
    import torch
    from timm.data import create_dataset, create_loader

    dataset = create_dataset("", root=str(folder), search_split=False, is_training=True)
    reader = dataset.reader
    reader.samples = reader.samples * (10**6 // len(reader.samples))
    loader = create_loader(
        dataset,
        input_size=(3, size, size),
        batch_size=BATCH,
        is_training=True,
        color_jitter=None,  # type: ignore[arg-type]  # it means none
        auto_augment=RAND_AUGMENT[transform],
        interpolation="bicubic",
        num_workers=CORES,
        device=torch.device("cpu"),
    )
    tick_batches((images for _ in itertools.count() for images, _ in loader.loader), tick)


def authors(folder: Path, size: int, transform: str, tick: Tick) -> None:
    """torchvision's ImageFolder with timm's transforms, down to normalized float32 in the workers."""
    from timm.data import create_transform
    from torch.utils.data import DataLoader, RandomSampler
    from torchvision.datasets import ImageFolder

    made = create_transform(
        size,
        is_training=True,
        color_jitter=None,  # type: ignore[arg-type]  # it means none
        auto_augment=RAND_AUGMENT[transform],
        interpolation="bicubic",
    )
    dataset = ImageFolder(str(folder), made)
    loader = DataLoader(
        dataset, BATCH, sampler=RandomSampler(dataset, num_samples=MANY), num_workers=CORES, drop_last=True
    )
    tick_batches((images for images, _ in loader), tick)


def turbojpeg(source: Path, tick: Tick) -> None:
    """libjpeg-turbo in C, on the JPEGs of class folders or of an encoded data set in FFCV's format."""
    images = list(_stored_jpegs(source / "train.beton") if (source / "train.beton").exists() else _files(source))
    if not images:
        raise Unavailable(f"{source} has no JPEG")
    call = 4 * BATCH  # so that threads rarely wait for each other at its end
    images *= -(-call // len(images))
    library = _jpeg_limit()
    everything = b"".join(images)
    starts = np.cumsum([0, *map(len, images)], dtype=np.int64)
    for first in itertools.cycle(range(0, len(images) - call + 1, call)):
        place = starts[first:].ctypes.data_as(ctypes.POINTER(ctypes.c_long))
        if library.decode_all(everything, place, call, CORES):
            raise RuntimeError(f"libjpeg-turbo cannot decode images of {source}.")
        tick(call)


def tick_batches(batches: Iterable, tick: Tick) -> None:
    for images in batches:
        tick(len(images))


def _files(folder: Path) -> Iterator[bytes]:
    for file in sorted(folder.glob("*/*")):
        content = file.read_bytes()
        if content.startswith(b"\xff\xd8"):
            yield content


def _stored_jpegs(beton: Path) -> Iterator[bytes]:
    rows, allocations = read_tables(beton)
    images, sizes = rows["image"], dict(zip(allocations["ptr"], allocations["size"], strict=True))
    with beton.open("rb") as file:
        for image in images[images["mode"] == JPEG]:
            file.seek(int(image["data_ptr"]))
            yield file.read(int(sizes[image["data_ptr"]]))


def _jpeg_limit() -> ctypes.CDLL:
    """The C part, compiled where it has changed."""
    source, library = Path(__file__).with_name("jpeg_limit.c"), BUILD / "jpeg_limit.so"
    if not library.exists() or library.stat().st_mtime < source.stat().st_mtime:
        if shutil.which("gcc") is None:
            raise Unavailable("there is no gcc")
        fresh = library.with_suffix(f".{os.getpid()}.so")  # of several processes that compile at once, each its own
        command = ["gcc", "-O3", "-shared", "-fPIC", "-o", str(fresh), str(source), "-lturbojpeg", "-lpthread"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise Unavailable(f"gcc says: {done.stderr.strip().splitlines()[0]}")
        fresh.replace(library)
    return ctypes.CDLL(str(library))
