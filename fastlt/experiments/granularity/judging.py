"""What a run is worth at the common level, whatever its labels: fine predictions are added up, features are spread.

Shapes: N held-out images, C classes of the run, K groups of the common level, D features.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from fastlt.atomic import write_text
from fastlt.evaluation.finished_run import FinishedRun
from fastlt.experiments.granularity.design import Design
from fastlt.experiments.granularity.taxonomy import Level
from fastlt.foreign import load_json
from fastlt.run_folder import RunFolder

SPLIT = "val"


@dataclass(frozen=True)
class Judged:
    """A run at the common level; accuracies of its K groups, in percent.

    Attributes:
        of: identifies the common level.
        summed: where the softmax is added up over each group's classes, and the largest sum predicts.
        top: where the largest logit predicts, with its group.
        spread: mean squared distance of features to the mean of their group, over that of these means to the mean of
            all images: the smaller, the better apart.
        spread_of_classes: the same with the finest classes instead of groups.
    """

    of: str
    summed: list[float]
    top: list[float]
    spread: float
    spread_of_classes: float


def judge(design: Design, level: Level, folder: Path) -> Judged:
    """Judges a finished run; what was found lies in its folder, and is not done again.

    Raises:
        ValueError: as `FinishedRun`.
    """
    of = hashlib.sha256(json.dumps(list(design.common.groups.items())).encode()).hexdigest()[:16]
    file = folder / "common_level.json"
    if file.is_file() and (found := load_json(file)).get("of") == of:
        return Judged(**found)
    run = load(folder)
    features, logits = run.predict(SPLIT)
    truth = labels(design, level)
    group_of = group_labels(design, level)
    summed = torch.zeros(len(logits), len(design.common)).index_add_(1, group_of, logits.softmax(1))
    judged = Judged(
        of=of,
        summed=_per_group(summed.argmax(1), truth, len(design.common)),
        top=_per_group(group_of[logits.argmax(1)], truth, len(design.common)),
        spread=_spread(features, truth),
        spread_of_classes=_spread(features, class_labels(design, level)),
    )
    write_text(file, json.dumps(asdict(judged)))
    return judged


def load(folder: Path) -> FinishedRun:
    """The run with the weights that it is judged by."""
    return FinishedRun(folder, RunFolder(folder).weights_for(SPLIT))


def group_labels(design: Design, level: Level) -> Tensor:
    """The common level's label of each class of a level, int64 [C]."""
    place = {group: label for label, group in enumerate(design.common.groups)}
    return torch.tensor([place[design.common.group_of[classes[0]]] for classes in level.groups.values()])


def labels(design: Design, level: Level, ratio: float | None = None) -> Tensor:
    """The common level's label of each image of a version, or of those held out, in the order of a level's split."""
    images = design.images(level, ratio)
    return torch.repeat_interleave(group_labels(design, level), torch.tensor([len(of) for of in images.values()]))


def class_labels(design: Design, level: Level) -> Tensor:
    """The finest label of each held-out image, in the order of a level's split."""
    place = {name: label for label, name in enumerate(design.levels[-1].groups)}
    names = [name for classes in level.groups.values() for name in classes]
    return torch.tensor([place[name] for name in names for _ in design.held_out[name]])


def _per_group(predicted: Tensor, truth: Tensor, groups: int) -> list[float]:
    right = torch.bincount(truth[predicted == truth], minlength=groups)
    return (100 * right.double() / torch.bincount(truth, minlength=groups)).tolist()


def _spread(features: Tensor, labels: Tensor) -> float:
    """Variance within classes over variance between them; features [N, D], labels [N]."""
    features = features.double()
    counts = torch.bincount(labels).double()
    means = torch.zeros(len(counts), features.shape[1], dtype=torch.float64).index_add_(0, labels, features)
    means = means / counts[:, None]
    within = (features - means[labels]).square().sum()
    between = (means[labels] - features.mean(0)).square().sum()
    return float(within / between.clamp_min(1e-30))
