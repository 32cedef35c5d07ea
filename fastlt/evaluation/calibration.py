"""The temperature of a run: what its logits are divided by, so that probabilities say how often they are right.

Source: Guo et al., arXiv 1706.04599. Shapes: N images, T target classes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from fastlt.atomic import write_text
from fastlt.evaluation.metrics import Evaluation, evaluate
from fastlt.foreign import load_json
from fastlt.label_space import LabelSpace
from fastlt.run_folder import RunFolder, Weights

LOWEST, HIGHEST = 0.05, 20.0
_CHUNK = 2**22  # logits that are float64 at once


@dataclass(frozen=True)
class Calibration:
    """What was found on the validation images of a run.

    Attributes:
        temperature: the logits of the targets are divided by it.
        epoch: of the weights that it belongs to.
        num_images: validation images.
        nll, nll_calibrated: mean negative log-likelihood before and after; each image counts the same.
        ece, ece_calibrated: expected calibration error in percent before and after.
    """

    temperature: float
    epoch: int
    num_images: int
    nll: float
    nll_calibrated: float
    ece: float
    ece_calibrated: float

    @classmethod
    def of(cls, folder: RunFolder, which: Weights, epoch: int) -> Calibration | None:
        """That of a run's weights; None where there is none, or that of other weights.

        Raises:
            ValueError: the file is none of ours.
        """
        file = folder.calibration(which)
        if not file.is_file():
            return None
        try:
            found = cls(**load_json(file))
            if not (type(found.temperature) is float and LOWEST <= found.temperature <= HIGHEST):
                raise ValueError("its temperature is none")
        except (TypeError, ValueError) as error:
            raise ValueError(f"{file} is not what `fastlt evaluate --calibrate` writes: {error}.") from None
        return found if found.epoch == epoch else None

    def save(self, file: Path) -> None:
        """Writes it as JSON."""
        write_text(file, json.dumps(asdict(self), indent=1))

    def sentence(self) -> str:
        """For people."""
        at_end = self.temperature in (LOWEST, HIGHEST)
        warning = ", where the search ends: these images do not tell more" if at_end else ""
        worse = "; ECE got worse: too few images, perhaps" if self.ece_calibrated > self.ece else ""
        return (
            f"temperature {self.temperature:.3f}{warning}, of the smallest mean NLL of {self.num_images:,} validation "
            f"images: NLL {self.nll:.3f} -> {self.nll_calibrated:.3f}, ECE {self.ece:.1f} -> {self.ece_calibrated:.1f}"
            f"{worse}"
        )


def calibrated(logits: Tensor, labels: Tensor, label_space: LabelSpace, epoch: int) -> Calibration:
    """What these logits float32 [N, T] of images with labels [N] tell, given the epoch of the weights."""
    if not logits.isfinite().all():
        raise ValueError("the logits of the validation images are not finite: the weights are damaged.")
    temperature = find_temperature(logits, labels)

    def seen(divisor: float) -> tuple[float, Evaluation]:
        sums = [F.cross_entropy(some / divisor, of, reduction="sum") for some, of in _chunks(logits, labels)]
        batches = ((some / divisor, of) for some, of in _chunks(logits, labels))
        return float(sum(sums)) / len(labels), evaluate(lambda some: some, batches, label_space, torch.device("cpu"))

    (nll, before), (nll_calibrated, after) = seen(1.0), seen(temperature)
    return Calibration(temperature, epoch, len(labels), nll, nll_calibrated, before.ece, after.ece)


def find_temperature(logits: Tensor, labels: Tensor) -> float:
    """The temperature of the smallest mean negative log-likelihood, between `LOWEST` and `HIGHEST`.

    As a function of 1 / temperature that is convex: Newton's steps, and where one leaves the bracket, its middle.

    Args:
        logits: float32 [N, T].
        labels: int64 [N].
    """
    low, high = 1 / HIGHEST, 1 / LOWEST
    for end, sign in ((low, -1), (high, 1)):
        if sign * _slope(end, logits, labels)[0] <= 0:  # it still falls towards this end
            return 1 / end
    inverse = 1.0
    for _ in range(60):
        slope, curvature = _slope(inverse, logits, labels)
        low, high = (inverse, high) if slope < 0 else (low, inverse)
        step = inverse - slope / curvature if curvature > 0 else 0.0
        better = step if low < step < high else math.sqrt(low * high)
        if abs(better / inverse - 1) < 1e-6:
            break
        inverse = better
    return 1 / inverse


def _slope(inverse: float, logits: Tensor, labels: Tensor) -> tuple[float, float]:
    """First and second derivative of the summed negative log-likelihood by 1 / temperature."""
    slope = curvature = 0.0
    for some, of in _chunks(logits, labels):
        probabilities = (inverse * some).softmax(1)
        mean = (probabilities * some).sum(1)
        slope += float((mean - some.gather(1, of[:, None])[:, 0]).sum())
        curvature += float(((probabilities * some.square()).sum(1) - mean.square()).sum())
    return slope, curvature


def _chunks(logits: Tensor, labels: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Some rows at a time in float64, so that the whole is in memory but once."""
    rows = max(_CHUNK // logits.shape[1], 1)
    for i in range(0, len(labels), rows):
        yield logits[i : i + rows].double(), labels[i : i + rows]
