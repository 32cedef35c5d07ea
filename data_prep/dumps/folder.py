"""Where a join keeps what memory does not hold: a folder beside the catalog, which goes with the join.

One that was killed leaves it; the next crawl of the catalog removes it.
"""

from __future__ import annotations

import shutil
from pathlib import Path


def folder_of(catalog: Path) -> Path:
    """The folder of a catalog file; whoever holds the catalog's lock has it alone."""
    return catalog.absolute().with_name(f"{catalog.stem}_dump.tmp")


def remove(folder: Path) -> None:
    """Removes it, if it is there.

    Raises:
        ValueError: it is a link, whose aim is not ours.
    """
    if folder.is_symlink():
        raise ValueError(f"{folder} is a link, where fastlt keeps a folder of its own: remove it.")
    if folder.exists():
        shutil.rmtree(folder)
