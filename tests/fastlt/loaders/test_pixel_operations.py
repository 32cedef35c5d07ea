"""Compiled pixels against Pillow's and timm's: resizing, and each operation of RandAugment and color jitter."""

from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data.auto_augment import LEVEL_TO_ARG, NAME_TO_OP, rand_augment_transform
from torchvision.transforms import ColorJitter

from fastlt.loaders.choices import NOTHING, OPERATIONS, Choices, argument
from fastlt.loaders.ffcv.pixel_operations import apply_operations
from fastlt.loaders.resample import resize_crop
from fastlt.loaders.transform import Transform

pytestmark = pytest.mark.medium

FILL = (124, 116, 104)
LEVELS = np.array([0, 0.1, 2.5, 5, 8.7, 9, 9.3, 10])


def picture(height: int, width: int, seed: int) -> np.ndarray:
    """Smooth areas, edges and noise, uint8 [H, W, 3]."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (4, 5, 3), np.uint8)).resize((width, height), Image.Resampling.BICUBIC)
    pixels = np.asarray(small).astype(int)
    pixels[height // 3 : height // 2, width // 4 : width // 2] = rng.integers(0, 256, 3)
    return np.clip(pixels + rng.normal(0, 12, pixels.shape), 0, 255).astype(np.uint8)


PICTURES = {
    "square": picture(64, 64, 0),
    "odd": picture(45, 77, 1),
    "tall": picture(90, 31, 2),
    "tiny": picture(8, 8, 3),
    "gray": picture(40, 40, 4)[..., :1].repeat(3, axis=2),
    "constant": np.full((20, 24, 3), 127, np.uint8),
    "black and white": (picture(33, 32, 5) > 128).astype(np.uint8) * 255,
}


def operated(pixels: np.ndarray, operation: int, value: float) -> np.ndarray:
    image, scratch = pixels.copy(), np.empty_like(pixels)
    apply_operations(image, np.array([operation]), np.array([value]), np.array(FILL, np.uint8), scratch)
    return image


@pytest.mark.parametrize("name", OPERATIONS)
def test_operation_is_timms(name):
    operation = OPERATIONS.index(name)
    for pixels in PICTURES.values():
        for value in sorted({argument(operation, level, sign) for level in LEVELS for sign in (False, True)}):
            level_fn = LEVEL_TO_ARG[name]
            words = () if level_fn is None else (int(value) if isinstance(level_fn(5, {})[0], int) else value,)
            resample = Image.Resampling.BICUBIC
            expected = NAME_TO_OP[name](Image.fromarray(pixels), *words, fillcolor=FILL, resample=resample)
            difference = np.abs(operated(pixels, operation, value).astype(int) - np.asarray(expected))
            # Turned pixels are computed in float32, and cut off instead of rounded.
            assert difference.max() <= (name == "Rotate"), value
            assert (difference > 0).mean() <= 1e-3


@pytest.mark.parametrize("name", OPERATIONS)
def test_arguments_are_timms(name):
    level_fn = LEVEL_TO_ARG[name]
    for level in LEVELS:
        mine = {argument(OPERATIONS.index(name), level, negative) for negative in (False, True)}
        theirs = {0.0} if level_fn is None else {level_fn(level, {})[0] for _ in range(50)}
        assert sorted(mine) == pytest.approx(sorted(theirs))


def test_choices_are_spread_as_timms():
    """How often nothing is done, which operations, and how strongly, in 20,000 samples."""
    samples = 20_000
    choices = Choices.of(Transform(32, train=True, rand_augment="rand-m9-mstd0.5-inc1", seed=3))
    *_, operations, arguments = choices.of_batch(np.arange(samples, dtype=np.uint64), np.full((samples, 2), 32))
    layers = list(zip(operations, arguments, strict=True))
    operations = Counter(int(op) for ops, _ in layers for op in ops[:2])
    assert operations[NOTHING] / (2 * samples) == pytest.approx(0.5, abs=0.01)
    for operation in range(len(OPERATIONS)):
        assert operations[operation] / (2 * samples) == pytest.approx(0.5 / 15, rel=0.1)
    together = np.array([[op != NOTHING for op in ops[:2]] for ops, _ in layers])
    assert np.corrcoef(together.T)[0, 1] == pytest.approx(0, abs=0.03)

    rotate = OPERATIONS.index("Rotate")
    mine = np.array([a for ops, arguments in layers for op, a in zip(ops, arguments, strict=True) if op == rotate])
    (timms,) = (
        op for op in rand_augment_transform("rand-m9-mstd0.5-inc1", {"img_mean": FILL}).ops if op.name == "Rotate"
    )
    timms.prob, timms.aug_fn = 1.0, lambda image, degrees, **_: degrees
    theirs = np.array([timms(None) for _ in range(5000)])
    for quantile in (0.02, 0.25, 0.75, 0.98):
        assert np.quantile(np.abs(mine), quantile) == pytest.approx(np.quantile(np.abs(theirs), quantile), abs=0.5)
    assert (mine > 0).mean() == pytest.approx(0.5, abs=0.05)


def test_jitter_is_torchvisions():
    """Factors and order are spread alike, and so are the pixels."""
    pixels, scratch = PICTURES["square"], np.empty_like(PICTURES["square"])
    choices = Choices.of(Transform(64, train=True, color_jitter=0.4, seed=5))
    torch.manual_seed(0)
    theirs, mine, firsts = [], [], Counter()
    jitter = ColorJitter(0.4, 0.4, 0.4)
    *_, chosen, strengths = choices.of_batch(np.arange(1500, dtype=np.uint64), np.full((1500, 2), 64))
    for operations, factors in zip(chosen, strengths, strict=True):
        assert sorted(OPERATIONS[op] for op in operations) == [
            "BrightnessIncreasing", "ColorIncreasing", "ContrastIncreasing"
        ]  # fmt: skip
        assert ((factors >= 0.6) & (factors <= 1.4)).all()
        firsts[operations[0]] += 1
        image = pixels.copy()
        apply_operations(image, operations, factors, np.array(FILL, np.uint8), scratch)
        mine.append((image.mean(), image.std()))
        image = np.asarray(jitter(Image.fromarray(pixels)))
        theirs.append((image.mean(), image.std()))
    assert min(firsts.values()) > 400
    mine, theirs = np.array(mine), np.array(theirs)
    np.testing.assert_allclose(mine.mean(axis=0), theirs.mean(axis=0), rtol=0.02)
    np.testing.assert_allclose(mine.std(axis=0), theirs.std(axis=0), rtol=0.1)


@pytest.mark.parametrize("flip", [False, True])
def test_resizing_is_pillows(flip):
    """To the bit: crops of all sizes, larger and smaller than the result, and windows of it."""
    rng = np.random.default_rng(7)
    for _ in range(100):
        height, width, out_height, out_width = rng.integers(1, 150, 4)
        pixels = rng.integers(0, 256, (height, width, 3), np.uint8)
        h, w = rng.integers(1, height + 1), rng.integers(1, width + 1)
        top, left = rng.integers(0, height - h + 1), rng.integers(0, width - w + 1)
        crop = Image.fromarray(pixels[top : top + h, left : left + w])
        expected = np.asarray(crop.resize((out_width, out_height), Image.Resampling.BICUBIC))
        y, x = rng.integers(0, out_height), rng.integers(0, out_width)
        window = np.empty((rng.integers(1, out_height - y + 1), rng.integers(1, out_width - x + 1), 3), np.uint8)
        resize_crop(pixels, top, left, h, w, out_height, out_width, y, x, flip, window)
        expected = expected[y : y + window.shape[0], x : x + window.shape[1]]
        np.testing.assert_array_equal(window, expected[:, ::-1] if flip else expected)
