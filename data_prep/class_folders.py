"""Class folders on disk (ROOT/class/image) as a mapping from class name to image paths."""

from __future__ import annotations

from pathlib import Path

from fastlt.images import EXTENSIONS


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


def scan_like(root: Path, what: str, targets: dict[str, list[Path]]) -> dict[str, list[Path]]:
    """Images of the same classes as `targets`, in the same order.

    Raises:
        ValueError: as `scan`; or a class is missing here or unknown there.
    """
    classes = scan(root, what)
    missing = [name for name in targets if name not in classes]
    if missing:
        raise ValueError(f"the folder of {what}, {root}, has no folder for class {missing[0]!r}.")
    unknown = [name for name in classes if name not in targets]
    if unknown:
        raise ValueError(f"the folder of {what} has class {unknown[0]!r}, which the training images do not have.")
    return {name: classes[name] for name in targets}
