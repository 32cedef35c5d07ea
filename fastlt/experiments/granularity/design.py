"""Which images a granularity study trains on and is judged by, and under which labels: the same for every seed."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from fastlt.data_prep.inputs.class_folders import scan
from fastlt.experiments.granularity.clusters import clustered_levels
from fastlt.experiments.granularity.options import GranularityOptions
from fastlt.experiments.granularity.taxonomy import Level, levels_of

Images = Mapping[str, Sequence[Path]]
"""{class: its images}."""
BALANCED = 1.0


@dataclass(frozen=True)
class Design:
    """The images and their labels.

    Attributes:
        root: the folder with all images.
        levels: coarsest first; the last one has the classes themselves.
        held_out: by which all are judged.
        versions: for each ratio, the balanced one first, the training images; all have the same number of them.
        clustered_by: the encoder whose clusters the coarser levels are; "" where a taxonomy has them.
    """

    root: Path
    levels: tuple[Level, ...]
    held_out: Images
    versions: Mapping[float, Images]
    clustered_by: str = ""

    @property
    def second_best(self) -> str:
        """What to say where levels are clusters; "" for those of a taxonomy."""
        if not self.clustered_by:
            return ""
        return (
            "The coarser levels are no taxonomy but clusters of classes whose images look alike to "
            f"{self.clustered_by}. That is second best: such groups are what one network finds alike, not what people "
            "would name."
        )

    @property
    def common(self) -> Level:
        """The level at which all are judged."""
        return self.levels[0]

    @property
    def ratios(self) -> list[float]:
        """Those that are compared with the balanced one."""
        return [ratio for ratio in self.versions if ratio != BALANCED]

    @property
    def num_images(self) -> int:
        """Training images of each version."""
        return sum(map(len, self.versions[BALANCED].values()))

    def images(self, level: Level, ratio: float | None = None) -> Images:
        """{group: images} of a version, or those held out, in the order in which they are encoded."""
        of = self.held_out if ratio is None else self.versions[ratio]
        return {group: [path for name in classes for path in of[name]] for group, classes in level.groups.items()}

    def counts(self, level: Level, ratio: float) -> dict[str, int]:
        """Training images of each group."""
        return {group: len(images) for group, images in self.images(level, ratio).items()}

    @cached_property
    def shot_groups(self) -> dict[str, list[int]]:
        """Thirds of the common level's labels, by their training images where these are long-tailed.

        Bounds such as 100 and 20 images would leave most thirds empty where there are few groups.
        """
        counts = list(self.counts(self.common, self.ratios[-1]).values())
        ranked = sorted(range(len(counts)), key=lambda label: -counts[label])
        third = max(1, round(len(ranked) / 3))
        return {"many": ranked[:third], "medium": ranked[third:-third], "few": ranked[-third:]}


def read_design(images: Path, options: GranularityOptions) -> Design:
    """Reads images and taxonomy, and chooses.

    Raises:
        ValueError: as `scan`, `levels_of` and `clustered_levels`; a class with too few images.
    """
    held_out, pool = _hold_out(scan(images, "images"), options.hold_out)
    clustered_by = ""
    if options.taxonomy:
        levels = levels_of(options.taxonomy, {name: len(of) for name, of in pool.items()}, options.levels)
    else:
        levels, clustered_by = clustered_levels(pool, options)
    common = levels[0]
    pools = [sum(len(pool[name]) for name in classes) for classes in common.groups.values()]
    versions: dict[float, Images] = {}
    for ratio, numbers in _numbers(pools, sorted({BALANCED, *options.ratios})).items():
        chosen: dict[str, Sequence[Path]] = {}
        for (group, classes), number in zip(common.groups.items(), numbers, strict=True):
            if number < len(classes):
                raise ValueError(
                    f"at a ratio of {ratio:g}, {group!r} gets {number} training images for its {len(classes)} classes: "
                    "give smaller --ratios, or more images."
                )
            of_each = _alike(number, [len(pool[name]) for name in classes])
            chosen |= {name: pool[name][:n] for name, n in zip(classes, of_each, strict=True)}
        versions[ratio] = chosen
    return Design(images.absolute(), tuple(levels), held_out, versions, clustered_by)


def _hold_out(classes: Mapping[str, list[Path]], number: int | None) -> tuple[Images, dict[str, list[Path]]]:
    """For each class the images to judge by, and the others in the order in which they are taken."""
    held, pool = {}, {}
    for name, images in classes.items():
        taken = max(1, round(len(images) / 5)) if number is None else number
        if len(images) <= taken:
            raise ValueError(
                f"class {name!r} has {len(images)} image{'s' * (len(images) > 1)}: {taken} held out to judge by leave "
                "none to train on."
            )
        drawn = random.Random(name).sample(images, len(images))  # of this class alone, whichever others there are
        held[name], pool[name] = sorted(drawn[:taken]), drawn[taken:]
    return held, pool


def _numbers(pools: Sequence[int], ratios: Sequence[float]) -> dict[float, list[int]]:
    """For each ratio the training images of each group: as many in all as every ratio can have.

    Args:
        pools: images of each group, the largest first.
        ratios: how many times as many the first group has as the last.
    """
    places = np.arange(len(pools)) / (len(pools) - 1)
    shares = {ratio: ratio**-places / (ratio**-places).sum() for ratio in ratios}
    total = min(int((pools / share).min() + 1e-6) for share in shares.values())
    while True:
        found = {ratio: _rounded(share * total) for ratio, share in shares.items()}
        if all(number <= pool for numbers in found.values() for number, pool in zip(numbers, pools, strict=True)):
            return found
        total -= 1  # rounded up beyond what is there


def _rounded(numbers: np.ndarray) -> list[int]:
    """Whole numbers with the same sum, which is whole: those with the largest fractions are rounded up."""
    whole = np.floor(numbers + 1e-9).astype(int)
    up = np.argsort(whole - numbers, kind="stable")[: round(numbers.sum()) - whole.sum()]
    whole[up] += 1
    return whole.tolist()


def _alike(number: int, limits: Sequence[int]) -> list[int]:
    """A number shared out as equally as the limits, which have room for it, allow."""
    shares = [0] * len(limits)
    for done, place in enumerate(sorted(range(len(limits)), key=lambda place: limits[place])):
        shares[place] = min(limits[place], number // (len(limits) - done))
        number -= shares[place]
    return shares
