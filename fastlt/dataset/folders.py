"""Folders of images as people keep them: what systems leave in them, and links that lead back into them."""

from __future__ import annotations

import os

# What systems leave in folders of images; all else of theirs begins with a dot.
_OF_SYSTEMS = frozenset(
    {"@eadir", "__macosx", "#recycle", "$recycle.bin", "system volume information", "lost+found", "thumbs.db"}
    | {"ehthumbs.db", "desktop.ini"}
)


def is_hidden(name: str) -> bool:
    """Whether people do not mean a file or folder of that name when they name the folder it is in."""
    return name.startswith(".") or name.lower() in _OF_SYSTEMS


def holds(folder: str, other: str) -> bool:
    """Whether a folder's true place is the other's, or above it."""
    return os.path.commonpath((folder, other)) == folder
