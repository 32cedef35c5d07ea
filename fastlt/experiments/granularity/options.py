"""What `fastlt granularity` is told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from fastlt.options import OptionalFile, OptionalInt, OptionError


@dataclass(frozen=True)
class GranularityOptions:
    """Labels, imbalance, trainings."""

    levels: Annotated[tuple[int, ...], arg(metavar="N [N ...]")]
    """Numbers of groups; for each the nearest cut of the taxonomy or of the clusters is taken. The smallest is the
    common level, at which all are judged; the classes themselves are always trained too."""
    base: Annotated[str, arg(metavar="RECIPE")]
    """The recipe of all trainings: a file, or the name of one of ours."""
    taxonomy: OptionalFile = None
    """What lies above each class: JSON {class: [parent, grandparent, ...]}, or categories with their ranks from kingdom
    to genus, as in iNaturalist's train2018.json."""
    clusters: Annotated[str | None, arg(metavar="MODEL|RUN", help_behavior_hint="")] = None
    """Second best, where there is no taxonomy: clusters of classes whose mean features are alike, as a timm model with
    the weights of its hub or the backbone of a fastlt run sees the images that are not held out. What it sees is kept
    in OUT/embeddings, with --plan too."""
    cluster_weights: OptionalFile = None
    """Weights of the model of --clusters, from a local file."""
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
        if (self.taxonomy is None) == (self.clusters is None):
            raise OptionError(
                "say what groups classes: --taxonomy FILE or, as second best, --clusters MODEL, one of the two."
            )
        if self.cluster_weights and not self.clusters:
            raise OptionError("--cluster-weights are for --clusters MODEL: name the model, or leave them out.")
        if low := [level for level in self.levels if level < 2]:
            raise OptionError(f"--levels {low[0]}: with fewer than two classes there is nothing to tell apart.")
        if odd := [ratio for ratio in self.ratios if not 1 <= ratio < 1e9]:
            raise OptionError(f"--ratios {odd[0]:g}: give numbers from 1 on.")
        named = [f"{ratio:g}" for ratio in {1.0, *self.ratios}]
        if twice := [name for i, name in enumerate(named) if name in named[:i]]:
            raise OptionError(f"--ratios has two numbers that are {twice[0]} to six digits: leave one out.")
        if not any(ratio > 1 for ratio in self.ratios):
            raise OptionError("--ratios names no imbalance: give a number above 1.")
        if self.hold_out is not None and self.hold_out < 1:
            raise OptionError(f"--hold-out is {self.hold_out}; nothing could be judged: give 1 or more.")
        if self.seeds < 1:
            raise OptionError(f"--seeds is {self.seeds}; give 1 or more, and 2 or more to have intervals.")
