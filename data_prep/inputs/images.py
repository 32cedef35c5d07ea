"""Images by class, from class folders or split files: what a person says with --train, --val, --test and --images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fastlt.data_prep.inputs.class_folders import scan, tell_taken
from fastlt.data_prep.inputs.split_files import read_split_file
from fastlt.dataset.images import ImageName
from fastlt.options import OptionalFolder, OptionalSource

ClassImages = Mapping[str, Sequence[ImageName]]
"""{class: [image, ...]}, classes in the order of their labels."""


@dataclass(frozen=True)
class TargetImages:
    """Where the images are. A SOURCE is a folder of class folders, or a split file: JSON like COCO's and iNaturalist's,
    or text with a line `path label` for each image."""

    train: OptionalSource = None
    """Training images of the target classes."""
    val: OptionalSource = None
    """Validation images of the same classes."""
    test: OptionalSource = None
    """Test images of the same classes."""
    images: OptionalFolder = None
    """The folder that the paths of split files are relative to."""


def warn_of_overlap(training: Mapping[str, Sequence[ImageName]], held_out: Iterable[ImageName], what: str) -> None:
    """Says where images to be judged by are trained on."""
    trained = {str(image) for images in training.values() for image in images}
    held = [str(image) for image in held_out]
    if both := [image for image in held if image in trained]:
        print(
            f"warning: {len(both):,} of the {len(held):,} {what} are training images too, such as {both[0]}: nothing "
            "that is measured on them holds",
            flush=True,
        )


def read_class_images(
    source: Path,
    what: str,
    root: Path | None,
    names: Sequence[str] | Mapping[int | str, str] | None = None,
    may_be_empty: bool = False,
    split: str = "train",
) -> ClassImages:
    """Images by class of class folders, or of a split file; see `read_split_file`. Prints what is taken.

    Args:
        source: folder or file.
        what: how messages call it, for example "training images".
        root: the folder that the paths of a split file are relative to.
        names: see `read_split_file`.
        may_be_empty: whether a class folder may be without images.
        split: "train", "val" or "test", see `read_split_file`.

    Raises:
        ValueError: neither, a split file without `root`, or a bad one.
    """
    if not source.is_file():
        return scan(source, what, may_be_empty)
    if not root:
        raise ValueError(f"{source} is a split file: say with --images which folder its paths are relative to.")
    classes = read_split_file(source, root, names, split)
    tell_taken(source, what, classes)
    return classes
