"""Encoded data sets whose images nobody reads: quick to make, of any size."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from fastlt.dataset.encoded import Split, manifest_json
from fastlt.label_space import LabelSpace


def made_set(folder: Path, num_bytes: int) -> Path:
    """A data set of two classes, with that many random bytes for images in each of its two splits."""
    folder.mkdir(parents=True)
    LabelSpace.build({"a": 2, "b": 1}).save(folder / "label_space.json")
    splits = {}
    for name, counts in (("train", [2, 1]), ("val", [1, 1])):
        content = os.urandom(num_bytes)
        (folder / f"{name}.beton").write_bytes(content)
        splits[name] = Split(f"{name}.beton", counts, num_bytes, hashlib.sha256(content).hexdigest())
    (folder / "manifest.json").write_text(manifest_json("ffcv", splits, {"inputs": "made"}))
    return folder


def with_split(folder: Path, name: str = "train", **fields: object) -> None:
    """Has the manifest say something else of a split."""
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["splits"][name] |= fields
    (folder / "manifest.json").write_text(json.dumps(manifest))
