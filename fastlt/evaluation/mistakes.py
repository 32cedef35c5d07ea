"""The images of a split that a run takes for something else: counted over ranks, kept in a file, read from it.

Shapes: B batch, T target classes, C classes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from fastlt.atomic import write_text
from fastlt.foreign import load_json
from fastlt.label_space import LabelSpace

Taken = tuple[int, int, int]
"""Place of an image in its split, its class, and the class that it was taken for."""


@dataclass(frozen=True)
class Mistakes:
    """What an evaluation got wrong.

    Attributes:
        data, sha256: the encoded data set, and the checksum of the split in it.
        images: of each target class [T].
        mistakes: the images that are taken for another target.
        auxiliaries: those that an auxiliary class would take if its row competed, without the prior as everywhere at
            inference; None for a run without auxiliary classes.
    """

    data: str
    sha256: str
    images: list[int]
    mistakes: list[Taken]
    auxiliaries: list[Taken] | None

    def save(self, file: Path) -> None:
        """Writes it as JSON."""
        write_text(file, json.dumps(asdict(self)))

    @classmethod
    def load(cls, file: Path, label_space: LabelSpace) -> Mistakes:
        """Reads what `save` wrote of a run with this label space.

        Raises:
            ValueError: it cannot be read, or says what cannot be.
        """
        try:
            fields = load_json(file)
            images, targets, classes = fields["images"], label_space.num_targets, label_space.num_classes
            if len(images) != targets or not all(type(n) is int and 0 <= n < 2**48 for n in images):
                raise ValueError(f"it does not say how many images {targets:,} classes have")
            mistakes = _read(fields["mistakes"], images, range(targets))
            auxiliaries = fields["auxiliaries"]
            if auxiliaries is not None:
                auxiliaries = _read(auxiliaries, images, range(targets, classes))
            return cls(str(fields["data"]), str(fields["sha256"]), images, mistakes, auxiliaries)
        except OSError as error:
            raise ValueError(f"{file} cannot be read: {error}.") from None
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
            raise ValueError(f"{file} is not what `fastlt evaluate` writes, evaluate again: {error}.") from None

    def are_of(self, per_class: Sequence[float | None]) -> bool:
        """Whether these are the mistakes behind accuracies [T] in percent."""
        wrong = [0] * len(self.images)
        for _, label, _ in self.mistakes:
            wrong[label] += 1
        ours = [100 - 100 * w / n if n else None for w, n in zip(wrong, self.images, strict=True)]
        return len(ours) == len(per_class) and all(
            a is b if a is None or b is None else abs(a - b) < 1e-6 for a, b in zip(ours, per_class, strict=True)
        )


def _read(taken: list[Taken], images: list[int], others: range) -> list[Taken]:
    """The same, checked: places of so many images, of targets that are taken for some of the others."""
    found, num_images = [], sum(images)
    for place, label, other in taken:
        if not (type(place) is type(label) is type(other) is int and 0 <= place < num_images):
            raise ValueError("it names images that there are not")
        if not 0 <= label < len(images) or other not in others or label == other:
            raise ValueError("it names classes that there are not")
        found.append((place, label, other))
    return found


class Predictions:
    """What each image is taken for, gathered on the device without waiting for it."""

    def __init__(self) -> None:
        self._batches: list[Tensor] = []

    def add(self, labels: Tensor, predicted: Tensor, among_all: Tensor) -> None:
        """A batch, all [B]: labels, the targets that are predicted, and which of all C classes would be."""
        self._batches.append(torch.stack([labels, predicted, among_all]))

    def mistakes(self, label_space: LabelSpace, data: str, sha256: str) -> Mistakes:
        """Those of all ranks, on each; called by all.

        The samples are placed as `EvalLoader` deals them out: sample i is on rank i modulo the number of ranks.

        Args:
            label_space: of the run.
            data, sha256: see `Mistakes`.
        """
        taken = _in_order(torch.cat(self._batches, dim=1)).cpu()  # [3, N]
        targets = label_space.num_targets
        labels, predicted, among_all = taken
        images = labels.bincount(minlength=targets).tolist()
        auxiliaries = None
        if label_space.auxiliary_names:
            auxiliaries = list(_chosen(labels, among_all, among_all >= targets))
        return Mistakes(data, sha256, images, list(_chosen(labels, predicted, predicted != labels)), auxiliaries)


def _chosen(labels: Tensor, others: Tensor, chosen: Tensor) -> Iterator[Taken]:
    for place in chosen.nonzero()[:, 0].tolist():
        yield place, int(labels[place]), int(others[place])


def _in_order(taken: Tensor) -> Tensor:
    """The columns of all ranks' [3, n], which may differ in n by one, each rank's first, then each one's second."""
    if not dist.is_initialized():
        return taken
    lengths = [torch.zeros(1, dtype=torch.int64, device=taken.device) for _ in range(dist.get_world_size())]
    dist.all_gather(lengths, torch.tensor([taken.shape[1]], device=taken.device))
    padded = taken.new_full((3, int(max(lengths))), -1)
    padded[:, : taken.shape[1]] = taken
    parts = [torch.empty_like(padded) for _ in lengths]
    dist.all_gather(parts, padded)
    whole = torch.stack(parts, dim=2).flatten(1)  # [3, n, ranks] to [3, n * ranks]
    return whole[:, whole[0] >= 0]
