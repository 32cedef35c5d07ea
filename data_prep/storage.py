"""How images of an encoded data set are stored."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fastlt.encoded import Format

ImageName = Path | str
"""What `fastlt.images.read_image` reads: a path, or a place inside a tar."""


@dataclass(frozen=True)
class Storage:
    """How images are written.

    Attributes:
        format: "ffcv" (.beton files), "webdataset" (tars with DALI's index) or "plain" (an index of the originals).
        mode: FFCV storage: "jpg", "raw", or "smart" (raw up to `smart_bytes`, else jpg).
        max_resolution: longer side in pixels above which an image is shrunk; None keeps the size.
        quality: JPEG quality, 1..100, of the JPEGs that are made; one that can be copied as it is keeps its own.
        workers: processes; 0 takes all cores.
        skip_broken: leave broken images out instead of failing.

    Raises:
        ValueError: a number out of range, or an option that the format has no use for.
    """

    format: Format = "ffcv"
    mode: Literal["jpg", "raw", "smart"] = "jpg"
    max_resolution: int | None = None
    quality: int = 90
    workers: int = 0
    skip_broken: bool = False

    smart_bytes = 100_000

    def __post_init__(self) -> None:
        if not 1 <= self.quality <= 100:
            raise ValueError(f"--quality is {self.quality}; it must lie in 1..100.")
        if self.max_resolution is not None and self.max_resolution < 1:
            raise ValueError(f"--max-resolution is {self.max_resolution}; it must be at least 1 pixel.")
        if self.workers < 0:
            raise ValueError(f"--workers is {self.workers}; give a number of processes, or 0 for all cores.")
        if self.format != "ffcv" and self.mode != "jpg":
            raise ValueError(f"--mode {self.mode} is for --format ffcv alone: leave it out.")
        if self.format == "plain" and self.max_resolution:
            raise ValueError("--format plain keeps the images as they are: leave out --max-resolution.")

    @property
    def num_workers(self) -> int:
        return self.workers or os.cpu_count() or 1
