"""What happens to one image on the host: the description that every loader implements."""

from __future__ import annotations

from dataclasses import dataclass

from fastlt.recipe import Recipe


@dataclass(frozen=True)
class Transform:
    """In training: random crop, bicubic resizing with antialiasing, flip, RandAugment, color jitter, in this order.

    In evaluation: the shorter side to `size / crop_pct`, bicubic with antialiasing, then a center crop.

    Attributes:
        size: H = W in pixels.
        train: which of the two.
        crop_scale, crop_ratio: area and aspect ratio of the random crop, as fractions.
        flip: probability of a horizontal flip.
        rand_augment: timm's description, for example "rand-m9-mstd0.5-inc1"; None for none.
        color_jitter: brightness, contrast and saturation vary by up to this fraction; 0 for none.
        fill: RGB, 0..255, of what a shifted or turned image leaves empty.
        crop_pct: side of the center crop over the shorter side of the image.
        scaled_decoding: see `DataRecipe`; of training images.
        seed: with the sample's key it determines every random choice.
    """

    size: int
    train: bool
    crop_scale: tuple[float, float] = (0.08, 1.0)
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    rand_augment: str | None = None
    color_jitter: float = 0.0
    fill: tuple[int, int, int] = (124, 116, 104)
    crop_pct: float = 0.875
    scaled_decoding: bool = False
    seed: int = 0


def train_transform(recipe: Recipe, mean: tuple[float, ...]) -> Transform:
    """That of training images; `mean` per channel, 0..1, fills what is left empty."""
    augment = recipe.augment
    return Transform(
        recipe.data.image_size,
        train=True,
        crop_scale=augment.crop_scale,
        crop_ratio=augment.crop_ratio,
        flip=augment.flip,
        rand_augment=augment.rand_augment,
        color_jitter=augment.color_jitter,
        fill=(round(255 * mean[0]), round(255 * mean[1]), round(255 * mean[2])),
        scaled_decoding=recipe.data.scaled_decoding,
        seed=recipe.seed,
    )


def eval_transform(recipe: Recipe) -> Transform:
    """That of validation and test images."""
    return Transform(recipe.data.image_size, train=False, crop_pct=recipe.augment.crop_pct)
