"""A copy of an encoded data set on the node's own disk, to train from: a shared disk serves many nodes at once.

The copy is named after what it holds, so that another encode of the same name gets another one.
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
from pathlib import Path

from fastlt.atomic import new_folder
from fastlt.dataset.encoded import EncodedDataset
from fastlt.ownership import open_own, stranger


def staged(data: EncodedDataset, folder: Path) -> EncodedDataset:
    """The data set as it is read from its copy in the folder; called by every rank, of which one a node copies.

    Raises:
        ValueError: as `require_stageable`, or somebody else's copy lies there, or a damaged one.
    """
    copy = _copy_of(data, folder)
    folder.mkdir(parents=True, exist_ok=True)
    with open_own(folder / f".{copy.name}.lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the other ranks of the node wait here, and find it done
        if not copy.exists():
            require_stageable(data, folder)
            with new_folder(copy) as partial:
                shutil.copytree(data.path, partial, dirs_exist_ok=True)
    if owner := stranger(copy):
        raise ValueError(f"{copy} belongs to {owner}, not to you: choose another folder for data.stage_to.")
    try:
        return EncodedDataset.open(copy)
    except ValueError as error:
        raise ValueError(f"{copy}, the copy of {data.path}, is damaged; remove it. ({error})") from None


def require_stageable(data: EncodedDataset, folder: Path) -> None:
    """Raises ValueError where the data set cannot be copied into the folder: it has no images, or they lack room."""
    if data.format == "plain":
        raise ValueError(
            f"data.stage_to: {data.path} only names its images: encode it with --format ffcv, then copy it."
        )
    if _copy_of(data, folder).exists():
        return
    needed = sum(split.num_bytes for split in data.splits.values())
    there = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    if needed > (free := shutil.disk_usage(there).free):
        raise ValueError(
            f"data.stage_to={folder} has room for {free / 1e9:,.1f} GB, {data.path} takes {needed / 1e9:,.1f} GB: make "
            "room, name another folder, or leave it out."
        )


def _copy_of(data: EncodedDataset, folder: Path) -> Path:
    manifest = (data.path / "manifest.json").read_bytes()
    return folder / f"{data.path.resolve().name}-{hashlib.sha256(manifest).hexdigest()[:12]}"
