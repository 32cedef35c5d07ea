"""Peers whose images are uint8 arrays from the decoder on; see `pipelines`.

FFCV's own loader and SPDL have no RandAugment; torchvision's is not timm's, but as much work.
"""

from __future__ import annotations

import itertools
import math
import random
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from bench.harness.timing import Unavailable
from bench.harness.turns import Tick
from bench.inputs.image_sets import BUILD
from bench.peers.pipelines import BATCH, CORES, MANY, tick_batches

SPDL = BUILD / "spdl"
SCALE, LOG_RATIO = (0.08, 1.0), (math.log(3 / 4), math.log(4 / 3))  # of the random crop
SETTINGS = {
    "ffcv's loader": "FFCV's own, on our file: decodes images whole with TJFLAG_FASTDCT, resizes by OpenCV's area",
    "torchvision v2": "torchvision.io and transforms.v2 on uint8 tensors, antialiased bicubic, worker processes",
    "spdl": "SPDL's pipeline of threads: FFmpeg decodes, crops, resizes (bicubic) and flips",
}


def ffcv_loader(data: Path, size: int, transform: str, tick: Tick) -> None:
    """FFCV's loader on what we encoded in its format."""
    if transform != "crop":
        raise Unavailable("FFCV has no RandAugment")
    from ffcv.fields.basics import IntDecoder
    from ffcv.fields.rgb_image import RandomResizedCropRGBImageDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.reader import Reader
    from ffcv.transforms import RandomHorizontalFlip, ToTensor, ToTorchImage

    file = str(data / "train.beton")
    images = int(Reader(file).num_samples)
    steps = [RandomResizedCropRGBImageDecoder((size, size)), RandomHorizontalFlip(), ToTensor(), ToTorchImage()]
    loader = Loader(
        file,
        BATCH,
        num_workers=CORES,
        os_cache=True,
        order=OrderOption.RANDOM,
        indices=np.arange(10**6) % images,  # a long epoch, as none reads ahead into the next
        pipelines={"image": steps, "label": [IntDecoder(), ToTensor()]},
    )
    tick_batches((images for _ in itertools.count() for images, _ in loader), tick)


def torchvision_v2(folder: Path, size: int, transform: str, tick: Tick) -> None:
    """torchvision's ImageFolder, decoders and transforms, without Pillow."""
    from torch.utils.data import DataLoader, RandomSampler
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import InterpolationMode, v2

    steps: list = [v2.RandomResizedCrop(size, interpolation=InterpolationMode.BICUBIC, antialias=True)]
    steps += [v2.RandomHorizontalFlip()]
    if transform == "full":
        steps += [v2.RandAugment(2, 9, interpolation=InterpolationMode.BILINEAR)]  # of tensors it has no other
    dataset = ImageFolder(str(folder), v2.Compose(steps), loader=_read_rgb)
    loader = DataLoader(
        dataset, BATCH, sampler=RandomSampler(dataset, num_samples=MANY), num_workers=CORES, drop_last=True
    )
    tick_batches((images for images, _ in loader), tick)


def _read_rgb(name: str):
    from torchvision.io import ImageReadMode, decode_image, read_file

    return decode_image(read_file(name), ImageReadMode.RGB)


def spdl(folder: Path, size: int, transform: str, tick: Tick) -> None:
    """SPDL's threads, each of which decodes, crops, resizes and flips an image inside FFmpeg."""
    if transform != "crop":
        raise Unavailable("SPDL has no RandAugment")
    sys.path.append(str(SPDL))
    try:
        import spdl.io
        from spdl.pipeline import PipelineBuilder
    except ImportError:
        raise Unavailable(f"pip install --no-deps --target {SPDL} spdl-core spdl-io") from None
    one_thread = spdl.io.decode_config(decoder_options={"threads": "1"})

    def decode(name: str):
        packets = spdl.io.demux_image(name)
        crop = _random_crop(packets.width, packets.height)
        steps = f"crop={crop},scale={size}:{size}:flags=bicubic{random.choice(('', ',hflip'))},format=rgb24"
        return spdl.io.decode_packets(packets, decode_config=one_thread, filter_desc=steps)

    try:
        decode(str(next(folder.glob("*/*"))))
    except RuntimeError as error:
        reason = "FFmpeg's libraries are not here (Debian: apt-get install libavdevice59)"
        raise Unavailable(reason if "libspdl" in str(error) else str(error)) from None
    pipeline = (
        PipelineBuilder()
        .add_source(_names(folder))
        .pipe(decode, concurrency=CORES)
        .aggregate(BATCH)
        .pipe(lambda frames: spdl.io.to_torch(spdl.io.convert_frames(frames)))
        .add_sink()
        .build(num_threads=CORES + 1)
    )
    with pipeline.auto_stop():
        tick_batches(pipeline.get_iterator(), tick)


def _names(folder: Path) -> Iterator[str]:
    names = [str(file) for file in folder.glob("*/*")]
    while True:
        yield random.choice(names)


def _random_crop(width: int, height: int) -> str:
    """torchvision's RandomResizedCrop, as FFmpeg's filter takes it."""
    for _ in range(10):
        area, ratio = width * height * random.uniform(*SCALE), math.exp(random.uniform(*LOG_RATIO))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return f"{w}:{h}:{random.randint(0, width - w)}:{random.randint(0, height - h)}:exact=1"
    side = min(width, height)
    return f"{side}:{side}:{(width - side) // 2}:{(height - side) // 2}:exact=1"
