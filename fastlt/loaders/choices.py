"""What is random about a training image, as a function of seed and sample key alone; FFCV and DALI share it.

Every choice is made from numbers that are drawn whether or not they are needed, so no choice moves another one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from timm.data.auto_augment import RandAugment, rand_augment_transform

from fastlt.loaders.compiled import compiled
from fastlt.loaders.transform import Transform

# timm's RandAugment operations that grow with magnitude ("inc1"), in timm's order: an operation is its place here.
OPERATIONS = (
    "AutoContrast", "Equalize", "Invert", "Rotate", "PosterizeIncreasing", "SolarizeIncreasing", "SolarizeAdd",
    "ColorIncreasing", "ContrastIncreasing", "BrightnessIncreasing", "SharpnessIncreasing", "ShearX", "ShearY",
    "TranslateXRel", "TranslateYRel",
)  # fmt: skip
NOTHING = -1
(AUTO_CONTRAST, EQUALIZE, INVERT, ROTATE, POSTERIZE, SOLARIZE, SOLARIZE_ADD, COLOR, CONTRAST, BRIGHTNESS, SHARPNESS,
 SHEAR_X, SHEAR_Y, TRANSLATE_X, TRANSLATE_Y) = range(len(OPERATIONS))  # fmt: skip

MAX_LAYERS = 4
_ATTEMPTS = 10
# Where in the numbers of a sample each choice begins.
_FLIP = 4 * _ATTEMPTS
_JITTER = _FLIP + 1
_LAYERS = _JITTER + 6
_PER_LAYER = 5
_NUMBERS = _LAYERS + _PER_LAYER * MAX_LAYERS


@dataclass(frozen=True)
class Choices:
    """The distribution that a training transform draws from, as the compiled functions take it.

    Attributes:
        seed: uint64.
        scale, log_ratio: of the random crop, float64 [2].
        flip: probability of a horizontal flip.
        layers: RandAugment's layers, 0 for none; each is applied with `probability`.
        magnitude, deviation, most: mean and standard deviation of a layer's magnitude, and its upper bound.
        jitter: strength of the color jitter, 0 for none.
    """

    seed: np.uint64
    scale: np.ndarray
    log_ratio: np.ndarray
    flip: float
    layers: int
    probability: float
    magnitude: float
    deviation: float
    most: float
    jitter: float

    @classmethod
    def of(cls, transform: Transform) -> Choices:
        """Those of a transform.

        Raises:
            ValueError: a RandAugment that only the plain loader has.
        """
        layers, probability, magnitude, deviation, most = _rand_augment(transform.rand_augment)
        return cls(
            np.uint64(transform.seed),
            np.array(transform.crop_scale, dtype=np.float64),
            np.log(np.array(transform.crop_ratio, dtype=np.float64)),
            transform.flip,
            layers,
            probability,
            magnitude,
            deviation,
            most,
            transform.color_jitter,
        )

    def of_batch(self, keys: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Everything about the samples of uint64 keys [B], given int64 [B, 2] heights and widths of their images.

        Returns:
            (top, left, h, w of the crop int64 [B, 4], whether to flip bool [B], and, of RandAugment and then color
            jitter as `augmentations` says, operations int64 [B, L] and arguments float64 [B, L]); L is `num_layers`.
        """
        crops, flips, operations, arguments = _of_batch(
            keys, sizes, self.seed, self.scale, self.log_ratio, self.flip,
            self.layers, self.probability, self.magnitude, self.deviation, self.most, self.jitter,
        )  # fmt: skip
        return crops, flips, operations[:, : self.num_layers], arguments[:, : self.num_layers]

    @property
    def num_layers(self) -> int:
        """RandAugment's layers, and color jitter's where there is any."""
        return self.layers + 3 * (self.jitter > 0)


def _rand_augment(description: str | None) -> tuple[int, float, float, float, float]:
    """(layers, probability, magnitude, deviation, most) of timm's description, as timm itself reads it."""
    if not description:
        return 0, 0.0, 0.0, 0.0, 10.0
    try:
        parsed = rand_augment_transform(description, {"img_mean": (128, 128, 128)})
    except (AssertionError, ValueError):
        raise ValueError(
            f"augment.rand_augment={description!r} is not one of timm's, for example rand-m9-mstd0.5-inc1."
        ) from None
    names = tuple(op.name for op in parsed.ops) if isinstance(parsed, RandAugment) else ()
    first = parsed.ops[0]
    deviation = first.magnitude_std
    if names != OPERATIONS or parsed.choice_weights is not None or math.isinf(deviation):
        raise ValueError(
            f"augment.rand_augment={description!r}: this loader has RandAugment's increasing operations with normal "
            "magnitudes (rand-...-inc1) alone; take those, or data.loader=plain."
        )
    if parsed.num_layers > MAX_LAYERS:
        raise ValueError(f"augment.rand_augment={description!r}: at most {MAX_LAYERS} layers; or data.loader=plain.")
    return parsed.num_layers, first.prob, float(first.magnitude), float(deviation), float(first.magnitude_max or 10)


@compiled
def uniform_numbers(seed, key):
    """A sample's uniform numbers in [0, 1), float64, by splitmix64 from (seed, key), both uint64."""
    state = seed * np.uint64(0x9E3779B97F4A7C15) ^ (key + np.uint64(1)) * np.uint64(0xD1342543DE82EF95)
    numbers = np.empty(_NUMBERS)
    for i in range(_NUMBERS):
        state = state + np.uint64(0x9E3779B97F4A7C15)
        x = state
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x = x ^ (x >> np.uint64(31))
        numbers[i] = np.float64(x >> np.uint64(11)) * 2.0**-53
    return numbers


@compiled
def random_crop(height, width, scale, log_ratio, numbers):
    """(top, left, h, w) as torchvision's RandomResizedCrop: ten attempts, then the largest center crop that fits."""
    for attempt in range(_ATTEMPTS):
        a, b, c, d = numbers[4 * attempt], numbers[4 * attempt + 1], numbers[4 * attempt + 2], numbers[4 * attempt + 3]
        area = height * width * (scale[0] + a * (scale[1] - scale[0]))
        ratio = np.exp(log_ratio[0] + b * (log_ratio[1] - log_ratio[0]))
        w = round(np.sqrt(area * ratio))
        h = round(np.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int(c * (height - h + 1)), int(d * (width - w + 1)), int(h), int(w)
    lowest, highest = np.exp(log_ratio[0]), np.exp(log_ratio[1])
    h, w = int(height), int(width)
    if w < lowest * h:
        h = round(w / lowest)
    elif w > highest * h:
        w = round(h * highest)
    return int((height - h) // 2), int((width - w) // 2), int(h), int(w)


@compiled
def is_flipped(numbers, flip):
    """Whether the sample is flipped, given the probability of it."""
    return numbers[_FLIP] < flip


@compiled
def augmentations(numbers, layers, probability, magnitude, deviation, most, jitter):
    """What is done to the cropped image, in order: (operations int64 [layers + 3], arguments float64 [layers + 3]).

    RandAugment's layers, then color jitter's brightness, contrast and color in random order (torchvision's, without
    hue). `NOTHING` stands for a layer that is left out. Arguments are what timm's functions of `OPERATIONS` take:
    degrees, bits to keep, a threshold, what is added, a factor of 1 +- x, a shear, a fraction of the side; 0 for
    operations without.
    """
    operations = np.full(layers + 3, NOTHING, np.int64)
    arguments = np.zeros(layers + 3)
    for layer in range(layers):
        a, b, c, d, e = numbers[_LAYERS + _PER_LAYER * layer : _LAYERS + _PER_LAYER * (layer + 1)]
        if b > probability:
            continue
        normal = np.sqrt(-2 * np.log(1 - c)) * np.cos(2 * np.pi * d)
        level = min(max(magnitude + deviation * normal, 0.0), most)
        operations[layer] = int(a * len(OPERATIONS))
        arguments[layer] = argument(operations[layer], level, e > 0.5)
    if jitter > 0:
        kinds = np.array([BRIGHTNESS, CONTRAST, COLOR])
        operations[layers:] = kinds[np.argsort(numbers[_JITTER : _JITTER + 3])]
        arguments[layers:] = max(0.0, 1 - jitter) + numbers[_JITTER + 3 : _JITTER + 6] * (
            1 + jitter - max(0.0, 1 - jitter)
        )
    return operations, arguments


@compiled
def _of_batch(
    keys, sizes, seed, scale, log_ratio, flip, layers, probability, magnitude, deviation, most, jitter
):  # fmt: skip
    crops, flips = np.empty((len(keys), 4), np.int64), np.empty(len(keys), np.bool_)
    operations, arguments = np.empty((len(keys), layers + 3), np.int64), np.empty((len(keys), layers + 3))
    for i in range(len(keys)):
        numbers = uniform_numbers(seed, keys[i])
        crops[i] = random_crop(sizes[i, 0], sizes[i, 1], scale, log_ratio, numbers)
        flips[i] = is_flipped(numbers, flip)
        operations[i], arguments[i] = augmentations(
            numbers, layers, probability, magnitude, deviation, most, jitter
        )  # fmt: skip
    return crops, flips, operations, arguments


@compiled
def argument(operation, level, negative):
    """What timm's function of the operation takes at a level of 0..10, negated where that is the operation's way."""
    fraction = level / 10
    sign = -1.0 if negative else 1.0
    if operation == ROTATE:
        return sign * 30 * fraction
    if operation == POSTERIZE:
        return 4.0 - int(fraction * 4)
    if operation == SOLARIZE:
        return 256.0 - min(256, int(fraction * 256))
    if operation == SOLARIZE_ADD:
        return float(min(128, int(fraction * 110)))
    if COLOR <= operation <= SHARPNESS:
        return max(0.1, 1.0 + sign * 0.9 * fraction)
    if operation >= TRANSLATE_X:
        return sign * 0.45 * fraction
    if operation >= SHEAR_X:
        return sign * 0.3 * fraction
    return 0.0
