"""A fine-grained data set drawn by code: genera of species that look alike, long-tailed, with auxiliary species.

A genus is a shape; its species differ in hue, stripes and spots. The tail's species are hard to
learn from five pictures; auxiliary species of the same genus show which differences matter.
"""

from __future__ import annotations

import colorsys
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from fastlt.atomic import new_folder


@dataclass(frozen=True)
class Species:
    """What all pictures of one species share; angles in degrees, lengths as fractions of the body."""

    corners: int
    hue: float
    stripes: int
    stripe_hue: float
    spots: int
    tail: float


@dataclass(frozen=True)
class DrawnSize:
    """How much is drawn.

    Attributes:
        genera: shapes.
        targets, auxiliaries: species of each genus.
        most, fewest: training images of the first and of the last target species.
        auxiliary_images, val_images: images of each auxiliary species, and of each target for validation.
        pixels: side of an image.
    """

    genera: int = 8
    targets: int = 4
    auxiliaries: int = 3
    most: int = 160
    fewest: int = 5
    auxiliary_images: int = 40
    val_images: int = 25
    pixels: int = 40


def draw_dataset(out: Path, size: DrawnSize | None = None, seed: int = 0) -> None:
    """Writes `out/{train,val,auxiliary}/<species>/<n>.jpg`, `out/neighbors.json` and `out/taxonomy.json`.

    Raises:
        ValueError: `out` exists.
    """
    size = size or DrawnSize()
    rng = np.random.default_rng(seed)
    num_targets = size.genera * size.targets
    decay = np.linspace(0.0, 1.0, num_targets)
    counts = np.round(size.most * (size.fewest / size.most) ** decay).astype(int)
    rank = rng.permutation(num_targets)  # heads and tails in every genus
    neighbors: dict[str, list[str]] = {}
    taxonomy: dict[str, list[str]] = {}
    with new_folder(out) as folder:
        for genus in range(size.genera):
            species = _genus(genus, size.targets + size.auxiliaries, rng)
            names = [f"genus{genus:02d}_species{i}" for i in range(len(species))]
            targets, auxiliaries = names[: size.targets], names[size.targets :]
            neighbors |= dict.fromkeys(targets, auxiliaries)
            taxonomy |= {name: [f"genus{genus:02d}", f"{species[0].corners} corners"] for name in names}
            for i, name in enumerate(names):
                if i < size.targets:
                    _draw_class(folder / "train" / name, species[i], counts[rank[genus * size.targets + i]], size, rng)
                    _draw_class(folder / "val" / name, species[i], size.val_images, size, rng)
                else:
                    _draw_class(folder / "auxiliary" / name, species[i], size.auxiliary_images, size, rng)
        (folder / "neighbors.json").write_text(json.dumps(neighbors, indent=1))
        (folder / "taxonomy.json").write_text(json.dumps(taxonomy, indent=1))


def _genus(number: int, num_species: int, rng: np.random.Generator) -> list[Species]:
    hue = rng.uniform(0, 360)
    return [
        Species(
            corners=3 + number % 6,
            hue=(hue + rng.uniform(-25, 25)) % 360,
            stripes=int(rng.integers(0, 4)),
            stripe_hue=rng.uniform(0, 360),
            spots=int(rng.integers(0, 4)),
            tail=rng.uniform(0.1, 0.9) if number < 6 else rng.uniform(0.5, 1.3),
        )
        for _ in range(num_species)
    ]


def _draw_class(folder: Path, species: Species, count: int, size: DrawnSize, rng: np.random.Generator) -> None:
    folder.mkdir(parents=True)
    for n in range(count):
        _picture(species, size.pixels, rng).save(folder / f"{n:04d}.jpg", quality=95)


def _picture(species: Species, pixels: int, rng: np.random.Generator) -> Image.Image:
    """One individual: turned, shifted, scaled, tinted, before a noisy ground."""
    ground = rng.normal(rng.uniform(60, 190, 3), 22, (pixels, pixels, 3)).clip(0, 255).astype(np.uint8)
    image = Image.fromarray(ground)
    draw = ImageDraw.Draw(image)
    radius = pixels * rng.uniform(0.22, 0.36)
    center = pixels / 2 + rng.uniform(-0.12, 0.12, 2) * pixels
    turn = rng.uniform(0, 2 * np.pi)

    def at(angle: float, distance: float) -> tuple[float, float]:
        x, y = center + radius * distance * np.array([np.cos(turn + angle), np.sin(turn + angle)])
        return float(x), float(y)

    def color(hue: float, value: int) -> tuple[int, int, int]:
        tint = int(hue + rng.normal(0, 12)) % 360
        red, green, blue = colorsys.hsv_to_rgb(tint / 360, 200 / 255, value / 255)
        return round(255 * red), round(255 * green), round(255 * blue)

    corners = [at(2 * np.pi * c / species.corners, 1.0) for c in range(species.corners)]
    draw.line([at(0.0, 0.9), at(0.0, 1.0 + species.tail)], fill=color(species.hue, 120), width=max(2, pixels // 14))
    draw.polygon(corners, fill=color(species.hue, 210))
    for stripe in range(species.stripes):
        along = -0.5 + (stripe + 0.5) / species.stripes
        ends = at(np.pi / 2, 0.55), at(-np.pi / 2, 0.55)
        shift = np.array(at(0.0, along)) - center
        draw.line([tuple(np.array(end) + shift) for end in ends], fill=color(species.stripe_hue, 230), width=2)
    for spot in range(species.spots):
        x, y = at(2 * np.pi * spot / species.spots + 0.6, 0.45)
        draw.ellipse([x - 2, y - 2, x + 2, y + 2], fill=color((species.stripe_hue + 180) % 360, 240))
    return image
