"""The encoded data set on disk: a folder with label_space.json, manifest.json and one file per split.

Samples of a split are ordered by class, so the per-class counts of the manifest are its labels.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np

from fastlt.dataset import beton, plain, webdataset
from fastlt.dataset.images import MAX_PIXELS
from fastlt.foreign import load_json
from fastlt.label_space import LabelSpace

Format = Literal["ffcv", "webdataset", "plain"]
# Each of these modules has SUFFIX, Layout and places; those whose images have names also image_names.
FORMATS: dict[Format, ModuleType] = {"ffcv": beton, "webdataset": webdataset, "plain": plain}
MANIFEST_VERSION = 1
MANIFEST, LABEL_SPACE = "manifest.json", "label_space.json"


@dataclass(frozen=True)
class Split:
    """One split of an encoded data set.

    Attributes:
        file: name inside the folder: `train.beton` (FFCV), `train.tar` (WebDataset, with DALI's `train.idx` beside it)
            or `train.json` (plain: a list of image names).
        counts: images of each class, in the order of the label space.
        num_bytes: size of the file; a shorter one is truncated.
        sha256: its checksum, in hex.
    """

    file: str
    counts: list[int]
    num_bytes: int
    sha256: str

    @classmethod
    def read(cls, name: str, fields: dict[str, Any]) -> Split:
        """A split of a manifest.

        Raises:
            ValueError, TypeError: it says what none can be, or more images than its file has bytes.
        """
        split = cls(**fields)
        if not re.fullmatch(r"[\w-]{1,100}", name):
            raise ValueError(f"{name[:80]!r} is no name of a split")
        if not isinstance(split.file, str) or not re.fullmatch(r"[\w-]{1,100}\.(?:beton|tar|json)", split.file):
            raise ValueError(f"{str(split.file)[:80]!r} is no name of a file of this folder")
        if not all(type(number) is int and number >= 0 for number in (split.num_bytes, *split.counts)):
            raise ValueError(f"{split.file} has counts or bytes that are no numbers of anything")
        if not 0 < sum(split.counts) <= split.num_bytes:
            raise ValueError(f"{split.file} of {split.num_bytes:,} bytes cannot have {sum(split.counts):.3g} images")
        return split

    def labels(self) -> np.ndarray:
        """The label of each sample, int64 [N]."""
        return np.repeat(np.arange(len(self.counts)), self.counts)


@dataclass(frozen=True)
class Described:
    """What an encoded data set says of itself: all but its images.

    Attributes:
        where: folder or URL, for people.
        max_pixels: width x height above which an image is none of ours: more only where `fastlt encode` was told to
            allow it.
    """

    where: str
    format: Format
    label_space: LabelSpace
    splits: dict[str, Split]
    max_pixels: int

    @classmethod
    def read(cls, folder: Path) -> Described:
        """Reads manifest and label space, and checks that they agree.

        Raises:
            ValueError: something is missing or contradicts the label space.
        """
        try:
            manifest = load_json(folder / MANIFEST)
            splits = {name: Split.read(name, fields) for name, fields in manifest["splits"].items()}
            format, settings = manifest["format"], manifest["settings"]
            if "train" not in splits or format not in FORMATS or not isinstance(settings, dict):
                raise ValueError("it lacks what every manifest has")
            max_pixels = max(MAX_PIXELS, int(settings.get("max_megapixels", 0) * 1e6))
        except (FileNotFoundError, NotADirectoryError):
            raise ValueError(f"{folder} is not an encoded data set: use `fastlt encode`.") from None
        except OSError as error:
            raise ValueError(f"{folder / MANIFEST} cannot be read: {error}.") from None
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            raise ValueError(f"{folder / MANIFEST} is damaged, encode again: {error}.") from None
        if manifest.get("version") != MANIFEST_VERSION:
            raise ValueError(f"{folder} has manifest version {manifest.get('version')}, expected {MANIFEST_VERSION}.")
        label_space = LabelSpace.load(folder / LABEL_SPACE)
        for name, split in splits.items():
            if len(split.counts) > label_space.num_classes:
                raise ValueError(
                    f"split {name!r} of {folder} has labels up to {len(split.counts) - 1}, "
                    f"outside its label space of {label_space.num_classes} classes."
                )
        if splits["train"].counts != list(label_space.counts):
            raise ValueError(f"{folder}: the training images do not match the counts of {LABEL_SPACE}: encode again.")
        return cls(str(folder), format, label_space, splits, max_pixels)

    def require_size(self, split: Split, size: int) -> None:
        """Raises ValueError where the file of a split does not have the bytes that it must."""
        if size != split.num_bytes:
            raise ValueError(
                f"{self.where}/{split.file} has {size:,} bytes, its manifest says {split.num_bytes:,}: encode again."
            )

    @property
    def judged_on(self) -> str:
        """The split on which a finished run is judged: test where there is one, else val."""
        return "test" if "test" in self.splits else "val"

    def split(self, name: str) -> Split:
        """The split of that name.

        Raises:
            ValueError: the data set has no such split.
        """
        if name not in self.splits:
            raise ValueError(f"{self.where} has no {name!r} split, only {', '.join(self.splits)}.")
        return self.splits[name]


@dataclass(frozen=True)
class EncodedDataset(Described):
    """A folder made by `fastlt encode`, opened for reading."""

    path: Path

    @classmethod
    def open(cls, path: Path, where: str = "") -> EncodedDataset:
        """Opens the folder and checks that its parts agree.

        Args:
            path: the folder.
            where: what people know it by, where it is a copy of another one.

        Raises:
            ValueError: something is missing, truncated or contradicts the label space.
        """
        told = Described.read(path)
        for split in told.splits.values():
            file = path / split.file
            told.require_size(split, file.stat().st_size if file.is_file() else 0)
        return cls(where or told.where, told.format, told.label_space, told.splits, told.max_pixels, path)

    def file(self, name: str) -> Path:
        """Path of the split's file."""
        return self.path / self.split(name).file

    def image_names(self, name: str) -> list[str]:
        """What `read_image` calls each sample of a split that is no FFCV file.

        Raises:
            ValueError: the index of a WebDataset tar is missing or is none, or names are missing.
        """
        names = FORMATS[self.format].image_names(self.file(name))
        if len(names) != sum(self.split(name).counts):
            raise ValueError(f"the index of {self.file(name)} is not that of its manifest: encode again.")
        return names


def manifest_json(format: Format, splits: dict[str, Split], settings: dict[str, Any]) -> str:
    """Content of manifest.json; `settings` records how the images were encoded, and by which versions."""
    fields = {
        "version": MANIFEST_VERSION,
        "format": format,
        "splits": {name: asdict(split) for name, split in splits.items()},
        "settings": settings,
    }
    return json.dumps(fields, indent=1)
