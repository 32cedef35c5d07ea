"""The images that loaders, encoding and trainer are measured on: class folders, real or drawn."""

from __future__ import annotations

import json
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path

from fastlt.demo.species import DrawnSize, draw_dataset

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build"
DATA = ROOT.parent / "shared" / "data"  # real images, which are not ours to publish


@dataclass(frozen=True)
class ImageSet:
    """Class folders on disk.

    Attributes:
        name: what is in them.
        folder: holds train/, val/, and maybe auxiliary/ and neighbors.json.
        size: pixels that a training image gets.
    """

    name: str
    folder: Path
    size: int

    @property
    def train(self) -> Path:
        return self.folder / "train"

    @property
    def splits(self) -> list[Path]:
        """All class folders."""
        return [self.folder / name for name in ("train", "val", "auxiliary") if (self.folder / name).is_dir()]

    @property
    def num_classes(self) -> int:
        """Auxiliary ones included."""
        return sum(1 for name in ("train", "auxiliary") for _ in (self.folder / name).glob("*/"))

    def encode_words(self) -> list[str]:
        """What `fastlt encode OUT` is told of them."""
        words = ["--train", str(self.train), "--val", str(self.folder / "val")]
        if (self.folder / "auxiliary").is_dir():
            words += ["--auxiliary", str(self.folder / "auxiliary")]
            words += ["--neighbors", str(self.folder / "neighbors.json")]
        return words


def photographs(folder: Path, images: int, classes: int = 64) -> ImageSet | None:
    """64 photographs of ordinary size, again and again until there are so many; None where they are not at hand."""
    archive = DATA / "jpeg_sample.zip"
    if not archive.is_file():
        return None
    with zipfile.ZipFile(archive) as zipped:
        names = sorted(name for name in zipped.namelist() if name.lower().endswith((".jpg", ".jpeg")))
        originals = [Path(zipped.extract(name, folder / "original")) for name in names]
    for split, number in (("train", images), ("val", classes)):
        for i in range(number):
            link = folder / split / f"{i % classes:05d}" / f"{i // classes:05d}.jpg"
            link.parent.mkdir(parents=True, exist_ok=True)
            # The classes do not divide by the photographs, so a class has many of them.
            os.link(originals[(i + i // classes) % len(originals)], link)
    return ImageSet("photographs", folder, 224)


def tin_lt(folder: Path) -> ImageSet | None:
    """Tiny-ImageNet-LT, 64 px, with auxiliary classes; None where it is not at hand."""
    archive = DATA / "tin_lt.zip"
    if not archive.is_file():
        return None
    with zipfile.ZipFile(archive) as zipped:
        zipped.extractall(folder)
    inside = folder / "tin_lt"
    about = json.loads((inside / "tin_lt.json").read_text())
    (inside / "target" / "neighbors.json").write_text(json.dumps(about["neighbours"]))
    (inside / "auxiliary").rename(inside / "target" / "auxiliary")
    return ImageSet("tin_lt", inside / "target", 64)


def drawn(folder: Path, pixels: int = 40) -> ImageSet:
    """Species drawn by code: a stand-in that is everywhere, for trials."""
    size = DrawnSize(genera=4, most=80, fewest=5, auxiliary_images=20, val_images=5, pixels=pixels)
    draw_dataset(folder, size)
    return ImageSet("drawn species", folder, pixels)
