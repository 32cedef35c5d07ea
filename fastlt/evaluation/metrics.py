"""Accuracy and calibration on the target classes alone, exact over any number of ranks.

Shapes: B batch, C classes, T target classes.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from fastlt.atomic import new_file, write_text
from fastlt.evaluation.mistakes import Predictions
from fastlt.foreign import table_cell
from fastlt.label_space import LabelSpace

NUM_BINS = 15


@dataclass(frozen=True)
class Evaluation:
    """All in percent; a shot group without classes is None.

    Attributes:
        top1: over all images.
        all: mean of the per-class accuracies; many, medium, few: the same over the shot groups.
        ece, mce: expected and maximum calibration error of the target softmax, 15 equal right-closed bins.
        num_images: images evaluated.
        per_class: accuracy of each target class [T]; None for a class without images.
        bins: of each bin of ece the "images", the sum of their "confidence", 0..1, and how many are "correct".
        temperature: by which the logits were divided for `ece_calibrated`; None where none is known.
        ece_calibrated: ece, so.
    """

    top1: float
    all: float
    many: float | None
    medium: float | None
    few: float | None
    ece: float
    mce: float
    num_images: int
    per_class: list[float | None]
    bins: dict[str, list[float]]
    temperature: float | None = None
    ece_calibrated: float | None = None

    def row(self) -> str:
        """One line for people; says how many classes have no image and so no part in the means."""
        values = {"all": self.all, "many": self.many, "medium": self.medium, "few": self.few}
        values |= {"top-1": self.top1, "ECE": self.ece}
        calibrated = "" if self.ece_calibrated is None else f" (calibrated {self.ece_calibrated:.1f})"
        lacking = sum(accuracy is None for accuracy in self.per_class)
        told = f"  ({lacking:,} of {len(self.per_class):,} classes have no image)" if lacking else ""
        return "  ".join(f"{name} {'-' if v is None else f'{v:.1f}'}" for name, v in values.items()) + calibrated + told

    def save(self, summary: Path, per_class: Path, label_space: LabelSpace, **about: str | int) -> None:
        """Writes the numbers as JSON, with `about` before them, and a CSV with a row for each target class."""
        write_text(summary, json.dumps(about | asdict(self), indent=1))
        group_of = {int(c): group for group, classes in label_space.shot_groups().items() for c in classes}
        with new_file(per_class) as temporary, temporary.open("w", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(["class", "name", "training_images", "group", "accuracy"])
            for c, accuracy in enumerate(self.per_class):
                shown = "" if accuracy is None else f"{accuracy:.2f}"
                name = table_cell(label_space.target_names[c])
                writer.writerow([c, name, label_space.counts[c], group_of[c], shown])


class _Counts:
    """Sums from which every number follows; adding ranks' sums gives exact results without padding."""

    def __init__(self, num_targets: int, device: torch.device) -> None:
        self.correct = torch.zeros(num_targets, dtype=torch.float64, device=device)
        self.total = torch.zeros_like(self.correct)
        self.bins = torch.zeros(3, NUM_BINS, dtype=torch.float64, device=device)  # images, confidence, correct

    def add(self, confidence: Tensor, predicted: Tensor, labels: Tensor) -> None:
        """All [B]: the largest probability, the target that has it, and the label."""
        correct = (predicted == labels).double()
        self.total.index_add_(0, labels, torch.ones_like(correct))
        self.correct.index_add_(0, labels, correct)
        bins = (confidence * NUM_BINS).ceil().long().clamp(1, NUM_BINS) - 1  # right-closed
        self.bins.index_add_(1, bins, torch.stack([torch.ones_like(correct), confidence, correct]))

    def reduce(self) -> None:
        if dist.is_initialized():
            for sums in (self.correct, self.total, self.bins):
                dist.all_reduce(sums)

    def evaluation(self, label_space: LabelSpace) -> Evaluation:
        correct, total, bins = self.correct.cpu(), self.total.cpu(), self.bins.cpu()
        num_images = int(total.sum())
        per_class = 100 * correct / total  # NaN for a class without images

        def mean_over(classes) -> float | None:
            accuracies = per_class[torch.as_tensor(classes)]
            accuracies = accuracies[~accuracies.isnan()]
            return float(accuracies.mean()) if len(accuracies) else None

        groups = {name: mean_over(classes) for name, classes in label_space.shot_groups().items()}
        gaps = 100 * (bins[1] - bins[2]).abs()
        return Evaluation(
            top1=float(100 * correct.sum() / num_images),
            all=mean_over(range(len(per_class))) or 0.0,
            many=groups["many"],
            medium=groups["medium"],
            few=groups["few"],
            ece=float(gaps.sum() / num_images),
            mce=float((gaps / bins[0])[bins[0] > 0].max()),
            num_images=num_images,
            per_class=[None if a != a else a for a in per_class.tolist()],
            bins=dict(zip(("images", "confidence", "correct"), bins.tolist(), strict=True)),
        )


@torch.no_grad()
def evaluate(
    forward: Callable[[Tensor], Tensor],
    batches: Iterable[tuple[Tensor, Tensor]],
    label_space: LabelSpace,
    device: torch.device,
    predictions: Predictions | None = None,
    temperature: float | None = None,
) -> Evaluation:
    """Evaluates on this rank's batches and adds up over the ranks of the process group, if there is one.

    Args:
        forward: images [B, 3, H, W] to logits [B, C]; rows from T on are dropped, no prior is added.
        batches: (images, labels) on `device`; each sample on exactly one rank; those with label -1 do not count.
        label_space: gives T and the shot groups.
        device: where the sums live.
        predictions: takes what each image was taken for.
        temperature: tells also how well calibrated the logits are, divided by it.
    """
    counts, calibrated = (_Counts(label_space.num_targets, device) for _ in range(2))
    for images, labels in batches:
        logits, counted = forward(images), labels >= 0
        logits, labels = logits[counted], labels[counted]
        of_targets = logits[:, : label_space.num_targets].double()
        confidence, predicted = of_targets.softmax(dim=1).max(dim=1)
        counts.add(confidence, predicted, labels)
        if temperature:
            calibrated.add((of_targets / temperature).softmax(dim=1).amax(dim=1), predicted, labels)
        if predictions:
            predictions.add(labels, predicted, logits.argmax(dim=1))
    counts.reduce()
    result = counts.evaluation(label_space)
    if temperature:
        calibrated.reduce()
        ece = calibrated.evaluation(label_space).ece
        result = replace(result, temperature=temperature, ece_calibrated=ece)
    return result
