"""What encode is told: how the images of an encoded data set are stored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fastlt.cores import available_cores
from fastlt.dataset.encoded import Format
from fastlt.options import Flag, OptionalInt, OptionError

SMART_BYTES = 100_000


@dataclass(frozen=True)
class EncodeOptions:
    """How images are stored."""

    format: Format = "ffcv"
    """ffcv: FFCV's file; webdataset: tars with DALI's index; plain: an index of the originals."""
    mode: Literal["jpg", "raw", "smart"] = "jpg"
    """How FFCV's file holds an image: as JPEG, as pixels, or smart: small ones (up to 100 kB of pixels) as pixels."""
    max_resolution: OptionalInt = None
    """Longer side in pixels to which larger images are shrunk."""
    quality: int = 90
    """Quality of the JPEGs that are made; one that can be copied as it is keeps its own."""
    max_megapixels: float = 179.0
    """Largest image that is decoded, in millions of pixels."""
    workers: int = 0
    """Processes; 0 starts one for each core."""
    skip_broken: Flag = False
    """Leave broken images out instead of failing."""

    def __post_init__(self) -> None:
        if not 1 <= self.quality <= 100:
            raise OptionError(f"--quality is {self.quality}; it must lie in 1..100.")
        if self.max_resolution is not None and self.max_resolution < 1:
            raise OptionError(f"--max-resolution is {self.max_resolution}; it must be at least 1 pixel.")
        if self.max_pixels < 1:
            raise OptionError(f"--max-megapixels is {self.max_megapixels}: no image could be read.")
        if self.workers < 0:
            raise OptionError(f"--workers is {self.workers}; give a number of processes, or 0 for all cores.")
        if self.format != "ffcv" and self.mode != "jpg":
            raise OptionError(f"--mode {self.mode} is for --format ffcv alone: leave it out.")
        if self.format == "plain" and self.max_resolution:
            raise OptionError("--format plain keeps the images as they are: leave out --max-resolution.")

    @property
    def max_pixels(self) -> int:
        """Width x height above which an image counts as broken."""
        return int(self.max_megapixels * 1e6)

    @property
    def num_workers(self) -> int:
        """Processes that are started."""
        return self.workers or available_cores()
