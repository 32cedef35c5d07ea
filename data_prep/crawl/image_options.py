"""What is kept of an image; apart from the other options, as who prepares images needs nothing that reads commands."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ImageOptions:
    """What is kept of an image."""

    size: int = 256
    """Shorter side in pixels to which larger images are shrunk; 0 keeps every size."""
    quality: int = 90
    """JPEG quality."""
    min_side: int = 32
    """Shorter side in pixels below which an image is dropped."""

    def __post_init__(self) -> None:
        if not 1 <= self.quality <= 100:
            raise _wrong(f"--quality is {self.quality}; it must lie in 1..100.")
        if self.size < 0:
            raise _wrong(f"--size is {self.size}; give a number of pixels, or 0 to keep every size.")


def _wrong(said: str) -> Exception:
    from fastlt.options import OptionError  # brings tyro

    return OptionError(said)
