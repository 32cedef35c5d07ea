"""What `fastlt granularity` is told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from fastlt.options import OptionalInt, OptionError


@dataclass(frozen=True)
class GranularityOptions:
    """Labels, imbalance, trainings."""

    taxonomy: Annotated[Path, arg(metavar="FILE")]
    """What lies above each class: JSON {class: [parent, grandparent, ...]}, or categories with their ranks from kingdom
    to genus, as in iNaturalist's train2018.json."""
    levels: Annotated[tuple[int, ...], arg(metavar="N [N ...]")]
    """Numbers of groups; for each the nearest cut of the taxonomy is taken. The smallest is the common level, at which
    all are judged; the classes themselves are always trained too."""
    base: Annotated[str, arg(metavar="RECIPE")]
    """The recipe of all trainings: a file, or the name of one of ours."""
    ratios: Annotated[tuple[float, ...], arg(metavar="R [R ...]")] = (20.0, 100.0)
    """How many times as many training images the largest group of the common level has as the smallest, exponentially
    in between. Balanced, 1, is always trained too, and all have the same number of images."""
    hold_out: OptionalInt = None
    """Images of each class to judge by (default: a fifth of the class)."""
    seeds: int = 3
    """How often everything is trained; one seed gives no intervals."""
    out: Path = Path("runs/granularity")
    """The folder to make."""

    def __post_init__(self) -> None:
        if low := [level for level in self.levels if level < 2]:
            raise OptionError(f"--levels {low[0]}: with fewer than two classes there is nothing to tell apart.")
        if odd := [ratio for ratio in self.ratios if not 1 <= ratio < 1e9]:
            raise OptionError(f"--ratios {odd[0]:g}: give numbers from 1 on.")
        if not any(ratio > 1 for ratio in self.ratios):
            raise OptionError("--ratios names no imbalance: give a number above 1.")
        if self.hold_out is not None and self.hold_out < 1:
            raise OptionError(f"--hold-out is {self.hold_out}; nothing could be judged: give 1 or more.")
        if self.seeds < 1:
            raise OptionError(f"--seeds is {self.seeds}; give 1 or more, and 2 or more to have intervals.")
