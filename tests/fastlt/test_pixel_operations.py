"""Compiled pixels against Pillow's and timm's: resizing, and each operation of RandAugment and color jitter."""

from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from timm.data.auto_augment import LEVEL_TO_ARG, NAME_TO_OP, rand_augment_transform
from torchvision.transforms import ColorJitter

from fastlt.loaders.choices import NOTHING, OPERATIONS, Choices, argument
from fastlt.loaders.pixel_operations import apply_operations
from fastlt.loaders.resample import resize_crop
from fastlt.loaders.transform import Transform

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
            # Moved pixels are cut off, not rounded: one next to a whole number may fall to either side.
            moved = name == "Rotate" or name.startswith(("Shear", "Translate"))
            assert difference.max() <= moved, (value, difference.max())
            assert difference.mean() < 0.05


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
    layers = [choices.augmentations(key) for key in range(samples)]
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
    for key in range(1500):
        operations, factors = choices.augmentations(key)
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
    rng = np.random.default_rng(7)
    differences = []
    for _ in range(60):
        height, width, out = (int(n) for n in rng.integers(4, 150, 3))
        pixels = (
            PICTURES["odd"] if rng.random() < 0.2 else picture(max(height, 6), max(width, 6), int(rng.integers(99)))
        )
        h, w = rng.integers(1, pixels.shape[0] + 1), rng.integers(1, pixels.shape[1] + 1)
        top, left = rng.integers(0, pixels.shape[0] - h + 1), rng.integers(0, pixels.shape[1] - w + 1)
        crop = Image.fromarray(pixels[top : top + h, left : left + w])
        expected = np.asarray(crop.resize((out, out), Image.Resampling.BICUBIC))
        expected = expected[:, ::-1] if flip else expected
        found = np.empty((out, out, 3), np.uint8)
        resize_crop(pixels, top, left, h, w, out, out, 0, 0, flip, found)
        difference = np.abs(found.astype(int) - expected)
        differences.append(difference.ravel())
        part = found[out // 4 : out // 4 + out // 2, out // 3 : out // 3 + out // 2]
        window = np.empty_like(part)
        if not flip and window.size:
            resize_crop(pixels, top, left, h, w, out, out, out // 4, out // 3, False, window)
            np.testing.assert_array_equal(window, part)
    differences = np.concatenate(differences)
    assert (differences > 1).mean() < 5e-3, "only where both passes overshoot"
    assert differences.mean() < 0.3


def test_resizing_has_antialiasing():
    """A pattern too fine for the result becomes gray, with the wrong filter it would flicker."""
    stripes = np.tile(np.array([0, 255], np.uint8), 64)[None, :, None].repeat(128, 0).repeat(3, 2)
    found = np.empty((32, 32, 3), np.uint8)
    resize_crop(np.ascontiguousarray(stripes), 0, 0, 128, 128, 32, 32, 0, 0, False, found)
    assert found[:, 2:-2].std() < 3
    blurred = Image.fromarray(stripes).filter(ImageFilter.BoxBlur(0)).resize((32, 32), Image.Resampling.NEAREST)
    assert np.asarray(blurred).std() in (0, pytest.approx(127.5, abs=1)), "nearest takes one of the two"
