"""The DALI loader: its pixels are Pillow's and timm's, and follow from the keys alone."""

import subprocess
import sys
from itertools import count

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import auto_augment as timm_operations

pytest.importorskip("nvidia.dali", reason="nvidia-dali is not installed: pip install -e .[dali]")
from nvidia.dali import fn, pipeline_def, types

from fastlt.dataset.encoded import EncodedDataset
from fastlt.dataset.images import read_image
from fastlt.loaders import choices
from fastlt.loaders.choices import NOTHING, OPERATIONS, Choices
from fastlt.loaders.dali.operations import augment, layer_inputs
from fastlt.loaders.dali.resize import resize_by_dali
from fastlt.loaders.readers import open_reader
from fastlt.loaders.sample_keys import join_keys
from fastlt.loaders.transform import Transform

pytestmark = pytest.mark.medium

SIZES = [(90, 120), (121, 75), (64, 64), (40, 51), (200, 130), (77, 150)]  # height, width
SIZE = 48
RECIPE = Transform(SIZE, train=True, seed=3, rand_augment="rand-m9-mstd0.5-inc1", color_jitter=0.4)
FILL = RECIPE.fill
# Mean absolute difference from timm, in levels. Where images are turned or moved Pillow's bicubic is steeper (a = -1)
# than DALI's (-0.75); Pillow's equalize divides whole numbers; the rest is rounding.
TOLERANCE = {"AutoContrast": 0.5, "Equalize": 0.6, "ColorIncreasing": 0.7, "SharpnessIncreasing": 0.6}
TOLERANCE |= dict.fromkeys(("Rotate", "ShearX", "ShearY", "TranslateXRel", "TranslateYRel"), 1.5)


def drawn_photograph(seed: int, height: int, width: int) -> Image.Image:
    """Smooth colors with some grain; every third lies on white."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 256, (6, 7, 3), dtype=np.uint8))
    pixels = np.array(coarse.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float64)
    pixels += random.normal(0, 4, pixels.shape)
    if seed % 3 == 0:
        pixels[: height // 2] = 255
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def data(workshop) -> EncodedDataset:
    folder = workshop.folder / "photographs"
    for split in ("train", "val"):
        for i, (height, width) in enumerate(SIZES + SIZES):
            file = folder / split / f"class{i % 2}" / f"{i}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            drawn_photograph(i, height, width).save(file, quality=90, subsampling=(i % 2) * 2)
    folders = ["--train", folder / "train", "--val", folder / "val"]
    done = workshop.fastlt("encode", "webdataset", *folders, "--format", "webdataset")
    assert done.returncode == 0, done.stderr
    return EncodedDataset.open(workshop.folder / "webdataset")


@pytest.fixture(scope="module")
def recipe_source(data):
    return open_reader(data, "train", RECIPE, 16, 2, "dali")


def keys(epochs: int) -> np.ndarray:
    return np.concatenate([join_keys(np.arange(12), epoch) for epoch in range(epochs)])


def collect(source, batches) -> torch.Tensor:
    return torch.cat([images.clone() for images in source.batches(batches)])


def difference(images: torch.Tensor | np.ndarray, expected: list[Image.Image]) -> np.ndarray:
    """Mean absolute difference of each image from Pillow's, in levels."""
    pixels = np.asarray(images)
    if pixels.shape[1] == 3:
        pixels = pixels.transpose(0, 2, 3, 1)
    wanted = np.stack([np.asarray(image) for image in expected])
    return np.abs(pixels.astype(int) - wanted).mean(axis=(1, 2, 3))


def cropped(data: EncodedDataset, key: int) -> Image.Image:
    """What choices.py says of the crop and the flip, by Pillow."""
    image = read_image(data.image_names("train")[key & 0xFF])
    sizes = np.array([[image.height, image.width]])
    ((top, left, h, w),), (flip,), *_ = Choices.of(RECIPE).of_batch(np.array([key], np.uint64), sizes)
    image = image.crop((left, top, left + w, top + h)).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flip else image


def by_timm(image: Image.Image, operation: int, argument: float) -> Image.Image:
    name = OPERATIONS[operation]
    whole = operation in (choices.POSTERIZE, choices.SOLARIZE, choices.SOLARIZE_ADD)
    arguments = () if operation in (choices.AUTO_CONTRAST, choices.EQUALIZE, choices.INVERT) else (argument,)
    arguments = tuple(map(int, arguments)) if whole else arguments
    return timm_operations.NAME_TO_OP[name](image, *arguments, fillcolor=FILL, resample=Image.Resampling.BICUBIC)


def test_pixels_follow_from_the_keys(data, recipe_source):
    """Whatever the order, the batches and the number of threads."""
    wanted = keys(3)
    images = collect(recipe_source, [wanted[:16], wanted[16:32], wanted[32:]])
    assert (images.shape, images.dtype) == ((36, 3, SIZE, SIZE), torch.uint8)
    order = np.random.default_rng(0).permutation(36)
    alone = open_reader(data, "train", RECIPE, 7, 1, "dali")
    assert collect(alone, np.split(wanted[order], range(5, 36, 5))).equal(images[order])
    assert not images[:12].equal(images[12:24]), "another epoch has other pixels"


def test_endless_streams_of_two_pipelines(data, recipe_source):
    """A tensor is valid until the next but one is asked for; a stream that is left is no hindrance to the next."""
    evaluated = open_reader(data, "val", Transform(SIZE, train=False), 5, 1, "dali")
    endless = (join_keys(np.arange(8), epoch) for epoch in count())
    left = recipe_source.batches(endless)
    held, copies = [], []
    for images, _ in zip(left, evaluated.batches([keys(1)[:5], keys(1)[5:10], keys(1)[10:]]), strict=False):
        if held:
            assert held[-1].equal(copies[-1])
        held.append(images)
        copies.append(images.clone())
    expected = [join_keys(np.arange(8), epoch) for epoch in range(3)]
    assert len(copies) == 3
    assert torch.cat(copies).equal(collect(recipe_source, expected))
    assert torch.cat(copies).equal(collect(recipe_source, expected)), "the stream before was read to its end"


def test_crops_and_flips_are_those_of_choices(data):
    """A crop of the decoded image, resized as if nothing lay around it."""
    plain = Transform(SIZE, train=True, seed=RECIPE.seed)
    images = collect(open_reader(data, "train", plain, 12, 2, "dali"), np.split(keys(4), 4))
    assert difference(images, [cropped(data, int(key)) for key in keys(4)]).max() < 0.05


def test_layers_are_those_of_choices(data, recipe_source):
    """RandAugment's layers, then color jitter's, in their order."""
    images = collect(recipe_source, np.split(keys(4), 4))
    expected = []
    for key in keys(4):
        image = cropped(data, int(key))
        *_, operations, arguments = Choices.of(RECIPE).of_batch(np.array([key], np.uint64), np.array([[SIZE, SIZE]]))
        for operation, argument in zip(operations[0], arguments[0], strict=True):
            image = image if operation == NOTHING else by_timm(image, operation, argument)
        expected.append(image)
    found = difference(images, expected)
    assert found.mean() < 2
    assert found.max() < 10, "an early difference of a level may be stretched by equalize"


def test_compiled_choices_are_those_of_one_sample():
    chosen = Choices.of(RECIPE)
    sizes = np.array([SIZES[key % 6] for key in range(36)])
    batch = chosen.of_batch(keys(3), sizes)
    for i, key in enumerate(keys(3)):
        numbers = choices.uniform_numbers(chosen.seed, key)
        assert tuple(batch[0][i]) == choices.random_crop(*sizes[i], chosen.scale, chosen.log_ratio, numbers)
        assert batch[1][i] == choices.is_flipped(numbers, chosen.flip)
        layers = chosen.layers, chosen.probability, chosen.magnitude, chosen.deviation, chosen.most, chosen.jitter
        for found, expected in zip(batch[2:], choices.augmentations(numbers, *layers), strict=True):
            np.testing.assert_array_equal(found[i], expected)


LEVELS = [(0, False), (2.3, True), (9, False), (9, True), (10, False)]


@pytest.fixture(scope="module")
def operations_by_dali():
    """uint8 [operations, levels, images, H, W, 3], and the images."""
    images = [drawn_photograph(seed, 224, 224) for seed in range(4)] + [Image.new("RGB", (224, 224), (200, 90, 13))]
    cases = [(o, choices.argument(o, *level)) for o in range(len(OPERATIONS)) for level in LEVELS for _ in images]
    operations, arguments = (np.array(column) for column in zip(*cases, strict=True))
    pixels = np.tile(np.stack([np.asarray(image) for image in images]), (len(OPERATIONS) * len(LEVELS), 1, 1, 1))

    @pipeline_def(
        batch_size=len(cases), num_threads=2, device_id=None, prefetch_queue_depth=1, enable_conditionals=True
    )
    def pipeline():
        inputs = fn.external_source(lambda: layer_inputs(operations, arguments, 224), num_outputs=4)
        return fn.copy(augment(fn.external_source(lambda: pixels, layout="HWC"), inputs, FILL))

    (found,) = pipeline().run()
    return np.array(found.as_tensor()).reshape(len(OPERATIONS), len(LEVELS), len(images), 224, 224, 3), images


@pytest.mark.parametrize("operation", range(len(OPERATIONS)), ids=OPERATIONS)
def test_operation_means_what_timm_means(operations_by_dali, operation):
    found, images = operations_by_dali
    for level, pixels in zip(LEVELS, found[operation], strict=True):
        argument = choices.argument(operation, *level)
        expected = [by_timm(image, operation, argument) for image in images]
        assert difference(pixels, expected).max() <= TOLERANCE.get(OPERATIONS[operation], 0.02), level


def test_dalis_own_resizing_means_the_same():
    """What resizes on a GPU, here on the CPU: a window of the resized image, flipped or not."""
    images = [drawn_photograph(seed, height, width) for seed, (height, width) in enumerate(SIZES)]
    placed = np.array([[70, 81, 11, 20, 0, seed % 2] for seed in range(6)], dtype=np.int32)

    @pipeline_def(batch_size=6, num_threads=1, device_id=None, prefetch_queue_depth=1)
    def pipeline():
        pixels = fn.external_source(lambda: [np.asarray(image) for image in images], layout="HWC")
        shape = fn.external_source(lambda: np.array(SIZES, dtype=np.int32))
        return resize_by_dali(pixels, shape, fn.external_source(lambda: placed, dtype=types.INT32), SIZE)

    (found,) = pipeline().run()
    expected = [
        image.resize((81, 70), Image.Resampling.BICUBIC).crop((20, 11, 20 + SIZE, 11 + SIZE)) for image in images
    ]
    expected[1::2] = [image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for image in expected[1::2]]
    assert difference(np.array(found.as_tensor()), expected).max() < 0.4


@pytest.mark.parametrize("crop_pct", [0.875, 1.0])
def test_evaluation_is_that_of_the_plain_loader(data, crop_pct):
    transform = Transform(SIZE, train=False, crop_pct=crop_pct)
    dali, plain = (
        collect(open_reader(data, "val", transform, 8, workers, backend), [keys(1)[:8], keys(1)[8:]])
        for backend, workers in (("dali", 2), ("plain", 0))
    )
    assert difference(dali, list(plain.permute(0, 2, 3, 1).numpy())).max() < 0.05


@pytest.mark.parametrize("damage", ["truncated", "no JPEG"])
def test_broken_image_is_named(data, recipe_source, damage):
    name = data.image_names("train")[7]
    offset, size = map(int, name.rpartition("#")[2].split("+"))
    tar = data.file("train")
    original = tar.read_bytes()
    damaged = bytearray(original)
    where = slice(offset, offset + size) if damage == "no JPEG" else slice(offset + size // 8, offset + size)
    damaged[where] = bytes(where.stop - where.start)
    try:
        tar.write_bytes(damaged)
        with pytest.raises(ValueError, match=rf"sample 7 is a broken image .*train.tar#{offset}\+{size}"):
            collect(recipe_source, [keys(1)[:6], keys(1)[6:]])
    finally:
        tar.write_bytes(original)
    assert collect(recipe_source, [keys(1)[6:]]).shape[0] == 6, "reads on when the file is whole again"


@pytest.mark.slow
def test_other_augmentations_are_refused(data):
    with pytest.raises(ValueError, match="increasing operations"):
        open_reader(data, "train", Transform(SIZE, train=True, rand_augment="rand-m9-mstd0.5"), 8, 1, "dali")


def test_process_ends_in_the_middle_of_a_stream(data):
    script = f"""
from itertools import count
from pathlib import Path
import numpy as np
from fastlt.dataset.encoded import EncodedDataset
from fastlt.loaders.readers import open_reader
from fastlt.loaders.transform import Transform
data = EncodedDataset.open(Path({str(data.path)!r}))
reading = open_reader(data, "train", Transform(32, train=True), 8, 2, "dali").batches(
    np.arange(8, dtype=np.uint64) for _ in count()
)
print(next(reading).shape)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "torch.Size([8, 3, 32, 32])\n", "")
