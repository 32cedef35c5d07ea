"""Class folders on disk (ROOT/class/image) as a mapping from class name to image paths."""

from __future__ import annotations

from pathlib import Path

from fastlt.dataset.images import EXTENSIONS


def scan(root: Path, what: str) -> dict[str, list[Path]]:
    """Images of every class folder below `root`, classes and images in sorted order.

    Args:
        root: folder with one folder per class.
        what: how error messages call it, for example "training images".

    Raises:
        ValueError: `root` is missing or has no class folder, or a class folder has no image.
    """
    if not root.is_dir():
        raise ValueError(f"the folder of {what}, {root}, does not exist.")
    folders = sorted(f for f in root.iterdir() if f.is_dir() and not f.name.startswith("."))
    if not folders:
        raise ValueError(f"the folder of {what}, {root}, has no class folder in it.")
    classes = {}
    for folder in folders:
        images = sorted(f.absolute() for f in folder.rglob("*") if f.suffix.lower() in EXTENSIONS and f.is_file())
        if not images:
            raise ValueError(f"class folder {folder} has no image in it: remove the folder or add images.")
        classes[folder.name] = images
    return classes
