"""Which folders hold a classifier: runs and exports, told apart by their files, without torch."""

from __future__ import annotations

from pathlib import Path

from fastlt.run_folder import RunFolder

ABOUT, WEIGHTS = "model.json", "model.safetensors"
"""The files of an export that are read; its `load.py` is for others, and not run."""


def require_predictor(path: Path) -> None:
    """Raises ValueError for a folder that is neither a run nor an export."""
    if not (RunFolder(path).is_begun or is_export(path)):
        raise ValueError(
            f"{path} is neither a run nor an export: it has no {RunFolder(path).recipe.name}, nor {ABOUT} and "
            f"{WEIGHTS}."
        )


def is_export(path: Path) -> bool:
    """Whether `fastlt export` has made this folder."""
    return (path / ABOUT).is_file() and (path / WEIGHTS).is_file()
