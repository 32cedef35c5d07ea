"""Class folders on disk (ROOT/class/image) as a mapping from class name to image paths."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from fastlt.data_prep.names import class_name
from fastlt.dataset.folders import holds, is_hidden
from fastlt.dataset.images import EXTENSIONS, ImageName, is_image
from fastlt.messages import listed

_HIDDEN = "hidden (dot files, @eaDir, Thumbs.db and the like)"
_LOOP = "links to a folder above them"
_OUTSIDE = "images outside of class folders"
_SPLITS = {  # what a split's folder is called, by how messages call its images
    "training": ("train", "training"),
    "validation": ("val", "valid", "validation"),
    "test": ("test", "testing"),
    "auxiliary": ("auxiliary",),
}


def scan(root: Path, what: str, may_be_empty: bool = False) -> dict[str, list[Path]]:
    """Images of every class folder below `root`, classes and images in sorted order. Prints what is taken and what not.

    Args:
        root: folder with one folder per class.
        what: how error messages call it, for example "training images".
        may_be_empty: whether a class folder may be without images.

    Raises:
        ValueError: `root` is missing or has no class folder, a class folder has no image, two have the same name but
            for the way that Unicode writes it, or a name is not UTF-8.
    """
    if not root.is_dir():
        raise ValueError(f"the folder of {what}, {root}, does not exist.")
    if meant := _folder_of_split(root, what):
        raise ValueError(f"{root} holds splits, not class folders: did you mean {meant}?")
    skipped: Counter[str] = Counter()
    classes: dict[str, list[Path]] = {}
    for name, folder in sorted(_class_folders(root, skipped).items()):
        images, left_out = images_below(folder)
        if not images and not may_be_empty:
            _refuse_empty(root, folder, left_out)
        classes[name] = images
        skipped += left_out
    if not classes:
        held = (
            f", but {_counted(skipped[_OUTSIDE], 'images')}: give the folder that has it" if skipped[_OUTSIDE] else ""
        )
        raise ValueError(f"the folder of {what}, {root}, has no class folder in it{held}.")
    tell_taken(root, what, classes, skipped)
    return classes


def images_below(folder: Path) -> tuple[list[Path], Counter[str]]:
    """Every image below a folder, through links to folders too, in sorted order; and how many files of which kind are
    left out.

    Hidden files and folders and what systems leave are no images; a file without extension is one if it begins so.
    """
    images: list[Path] = []
    skipped: Counter[str] = Counter()
    above = os.path.realpath(folder.parent), os.path.realpath(folder)
    _walk(str(folder.absolute()), above, images, skipped)
    return sorted(images), skipped


def tell_taken(
    source: Path, what: str, classes: Mapping[str, Sequence[ImageName]], skipped: Counter[str] | None = None
) -> None:
    """Prints how many images of how many classes are taken, and what is left out, by kind."""
    number = sum(map(len, classes.values()))
    empty = [name for name, images in classes.items() if not images]
    kinds = [(_counted(n, kind), kind.startswith(".")) for kind, n in (skipped or Counter()).most_common() if n]
    parts = [part for part, is_extension in kinds if not is_extension]
    if formats := ", ".join(part for part, is_extension in kinds if is_extension):
        parts.append(f"{formats} (of no format that is read)")
    told = f"; skipped: {', '.join(parts)}" if parts else ""
    told += f"; without any image: {listed(empty)}" if empty else ""
    print(f"{source}: {number:,} {what} of {len(classes) - len(empty):,} classes taken{told}", flush=True)


def _class_folders(root: Path, skipped: Counter[str]) -> dict[str, Path]:
    """{class name: folder}; counts what else lies in `root`."""
    folders: dict[str, Path] = {}
    for entry in sorted(os.scandir(root), key=lambda entry: entry.name):
        if is_hidden(entry.name):
            skipped[_HIDDEN] += _num_files(entry.path)
        elif entry.is_symlink() and holds(os.path.realpath(entry.path), os.path.realpath(root)):
            skipped[_LOOP] += 1
        elif not os.path.isdir(entry.path):
            kind = _kind_unless_image(entry.path)
            skipped[_OUTSIDE if kind is None else kind] += 1
        else:
            name = class_name(entry.name, str(root))
            if name in folders:
                raise ValueError(
                    f"{root} has two class folders that differ only in how Unicode writes them, {entry.name!a} and "
                    f"{folders[name].name!a}: put their images into one."
                )
            folders[name] = root / entry.name
    return folders


def _walk(folder: str, above: tuple[str, ...], images: list[Path], skipped: Counter[str]) -> None:
    """Adds what lies below a folder; `above` has the true places of it and of all through which it was reached."""
    for entry in os.scandir(folder):
        if is_hidden(entry.name):
            skipped[_HIDDEN] += _num_files(entry.path)
        elif entry.is_dir(follow_symlinks=False):
            _walk(entry.path, (*above, os.path.join(above[-1], entry.name)), images, skipped)
        elif entry.is_symlink() and os.path.isdir(entry.path):
            place = os.path.realpath(entry.path)
            if any(holds(place, other) for other in above):
                skipped[_LOOP] += 1
            else:
                _walk(entry.path, (*above, place), images, skipped)
        elif (kind := _kind_unless_image(entry.path)) is None:
            images.append(Path(entry.path))
        else:
            skipped[kind] += 1


def _kind_unless_image(path: str) -> str | None:
    """None for an image, else what its kind is called where it is left out."""
    if not os.path.isfile(path):
        return "links to nothing" if os.path.islink(path) else "special files"
    extension = Path(path).suffix.lower()
    if extension in EXTENSIONS:
        return None
    # "St. Bernard 3" and "20.11.2026" have no extension either.
    if re.fullmatch(r"\.[a-z][a-z0-9_~-]{0,9}", extension):
        return extension
    return None if is_image(Path(path)) else "without extension (no images)"


def _num_files(path: str) -> int:
    """Files in a hidden folder, or one."""
    return sum(len(files) for _, _, files in os.walk(path)) if os.path.isdir(path) else 1


def _counted(number: int, kind: str) -> str:
    """A number of a kind, which is in the plural."""
    kind = kind if number > 1 else re.sub(r"^(link|image|special file)s", r"\1", kind)
    return f"{number:,} {kind}"


def _refuse_empty(root: Path, first: Path, skipped: Counter[str]) -> None:
    """Raises ValueError that names every class folder without image."""
    others = [f for f in _class_folders(root, Counter()).values() if f != first and not images_below(f)[0]]
    has = ", ".join(_counted(n, kind) for kind, n in skipped.most_common() if n)
    other = f", nor have {len(others):,} more: {listed([f.name for f in others])}" if others else ""
    raise ValueError(
        f"class folder {first} has no image in it{f' (only {has})' if has else ''}{other}; "
        "remove such folders or add images."
    )


def _folder_of_split(root: Path, what: str, depth: int = 2) -> Path | None:
    """The folder of these images below `root`, where `root` is one or two levels too high."""
    folders = {f.name.lower(): f for f in root.iterdir() if not is_hidden(f.name) and f.is_dir()}
    wanted = next((name for name in _SPLITS.get(what.split()[0], ()) if name in folders), None)
    splits = {name for names in _SPLITS.values() for name in names}
    if wanted and (len(folders) == 1 or splits & set(folders) - {wanted}) and _holds_folders_alone(folders[wanted]):
        return folders[wanted]
    if len(folders) == 1 and depth and not wanted:
        return _folder_of_split(next(iter(folders.values())), what, depth - 1)
    return None


def _holds_folders_alone(folder: Path) -> bool:
    """Whether it has folders, and no image beside them: a class called "train" has images."""
    inside = [entry for entry in folder.iterdir() if not is_hidden(entry.name)]
    has_image = any(entry.suffix.lower() in EXTENSIONS for entry in inside)
    return not has_image and any(entry.is_dir() for entry in inside)
