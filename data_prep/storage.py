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
        mode: FFCV storage: "jpg", "raw", or "smart" (raw below `smart_bytes`, else jpg).
        max_resolution: longer side in pixels above which an image is shrunk; None keeps the size.
        quality: JPEG quality, 1..100.
        workers: processes; 0 takes all cores.
        skip_broken: leave broken images out instead of failing.
    """

    format: Format = "ffcv"
    mode: Literal["jpg", "raw", "smart"] = "jpg"
    max_resolution: int | None = None
    quality: int = 90
    workers: int = 0
    skip_broken: bool = False

    smart_bytes = 100_000

    @property
    def num_workers(self) -> int:
        return self.workers or os.cpu_count() or 1
