"""Which classes there are: targets, auxiliaries, their counts and neighbors. All class knowledge comes from here."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from fastlt.atomic import write_text
from fastlt.foreign import load_json, require_class_name
from fastlt.messages import one_line

if TYPE_CHECKING:  # imports torch, for which commands that only prepare data would wait
    from fastlt.kernels.neighbor_table import NeighborTable

Neighbors = Mapping[str, Sequence[str] | Mapping[str, float]]
"""{target: [auxiliary, ...]}, or {target: {auxiliary: strength, ...}}"""
Silence = Literal["pairs", "pairs+auxiliary"]
MANY_SHOT_ABOVE = 100
FEW_SHOT_BELOW = 20


@dataclass(frozen=True)
class LabelSpace:
    """Target classes 0..T-1, then auxiliary classes T..C-1.

    Attributes:
        target_names, auxiliary_names: names, no name twice.
        counts: training images of each of the C classes that exist on disk.
        neighbors: (target, auxiliary) pairs of class indices, sorted, none twice.
        strengths: of each pair, above 0 and at most 1, see `NeighborTable`; None where all are 1.

    Raises:
        ValueError: names, counts or neighbors that contradict each other.
    """

    target_names: tuple[str, ...]
    auxiliary_names: tuple[str, ...]
    counts: tuple[int, ...]
    neighbors: tuple[tuple[int, int], ...]
    strengths: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if not self.target_names:
            raise ValueError("the label space has no target class.")
        twice = [name for name, n in Counter(self.names).items() if n > 1]
        if twice:
            raise ValueError(f"class name {twice[0]!r} occurs twice; a class is either a target or an auxiliary.")
        if len(self.counts) != self.num_classes:
            raise ValueError(f"{self.num_classes} classes but {len(self.counts)} counts.")
        empty = [name for name, n in zip(self.names, self.counts, strict=True) if n < 1]
        if empty:
            raise ValueError(f"class {empty[0]!r} has no training image.")
        for t, a in self.neighbors:
            if not (0 <= t < self.num_targets <= a < self.num_classes):
                raise ValueError(f"neighbor pair ({t}, {a}) is not a (target, auxiliary) pair of this label space.")
        if self.strengths is not None:
            if len(self.strengths) != len(self.neighbors):
                raise ValueError(f"{len(self.neighbors)} neighbor pairs but {len(self.strengths)} strengths.")
            for pair, strength in zip(self.neighbors, self.strengths, strict=True):
                if isinstance(strength, bool) or not isinstance(strength, int | float) or not 0 < strength <= 1:
                    raise ValueError(f"the strength of the neighbor pair {pair} must be above 0 and at most 1.")

    @classmethod
    def build(
        cls,
        target_counts: Mapping[str, int],
        auxiliary_counts: Mapping[str, int] | None = None,
        neighbors: Neighbors | None = None,
    ) -> LabelSpace:
        """From names: counts per class, and {target: [auxiliary, ...]} or {target: {auxiliary: strength}}.

        A pair of strength 0 is none.

        Raises:
            ValueError: a neighbor list that names an unknown class, or a strength outside 0..1.
        """
        auxiliary_counts = auxiliary_counts or {}
        target_of = {name: i for i, name in enumerate(target_counts)}
        auxiliary_of = {name: i + len(target_of) for i, name in enumerate(auxiliary_counts)}
        pairs: dict[tuple[int, int], float] = {}
        for target, names in (neighbors or {}).items():
            if target not in target_of:
                raise ValueError(f"the neighbor list names {target!r}, which is not a target class.")
            for name in names:
                if name not in auxiliary_of:
                    raise ValueError(
                        f"the neighbor list of {target!r} names {name!r}, which is not an auxiliary class."
                    )
                strength = names[name] if isinstance(names, Mapping) else 1.0
                if strength != 0:
                    pairs[target_of[target], auxiliary_of[name]] = strength
        counts = (*target_counts.values(), *auxiliary_counts.values())
        neighbor_pairs = tuple(sorted(pairs))
        strengths = tuple(pairs[pair] for pair in neighbor_pairs)
        alike = all(strength == 1 for strength in strengths)
        return cls(tuple(target_of), tuple(auxiliary_of), counts, neighbor_pairs, None if alike else strengths)

    @property
    def names(self) -> tuple[str, ...]:
        return self.target_names + self.auxiliary_names

    @property
    def num_targets(self) -> int:
        return len(self.target_names)

    @property
    def num_classes(self) -> int:
        return len(self.target_names) + len(self.auxiliary_names)

    def trained(self, auxiliary: bool) -> LabelSpace:
        """The classes that a run trains on: all of them, or, as a baseline does, the targets alone."""
        if auxiliary:
            return self
        counts = self.counts[: self.num_targets]
        return replace(self, auxiliary_names=(), counts=counts, neighbors=(), strengths=None)

    def table(self, silence: Silence = "pairs") -> NeighborTable:
        """Silenced sets N(y): the neighbor pairs, and for "pairs+auxiliary" all auxiliaries among themselves."""
        from fastlt.kernels.neighbor_table import NeighborTable

        start = self.num_targets if silence == "pairs+auxiliary" else None
        return NeighborTable.from_pairs(self.num_classes, self.neighbors, start, self.strengths)

    def epoch_counts(self, auxiliary_per_class: int) -> np.ndarray:
        """n_j, int64 [C]: images of class j seen in one epoch; auxiliary classes are capped."""
        counts = np.array(self.counts, dtype=np.int64)
        counts[self.num_targets :] = np.minimum(counts[self.num_targets :], auxiliary_per_class)
        return counts

    def shot_groups(self) -> dict[str, np.ndarray]:
        """Target classes by training images: many (> 100), medium (20..100), few (< 20); int64 indices."""
        counts = np.array(self.counts[: self.num_targets])
        many, few = counts > MANY_SHOT_ABOVE, counts < FEW_SHOT_BELOW
        masks = {"many": many, "medium": ~many & ~few, "few": few}
        return {name: np.flatnonzero(mask) for name, mask in masks.items()}

    def digest(self) -> str:
        """Identifies the label space in checkpoints: 16 hex digits of its content's SHA-256."""
        return hashlib.sha256(self._json().encode()).hexdigest()[:16]

    def save(self, path: Path) -> None:
        """Writes label_space.json, whole or not at all."""
        write_text(path, self._json() + "\n")

    @classmethod
    def load(cls, path: Path) -> LabelSpace:
        """Reads label_space.json.

        Raises:
            ValueError: the file is missing or is not a label space.
        """
        try:
            data = load_json(path)
            pairs = tuple((t, a) for t, a in data["neighbors"])
            for name in (*data["target_names"], *data["auxiliary_names"]):
                require_class_name(name)
            for number in itertools.chain(data["counts"], *pairs):
                if type(number) is not int or not 0 <= number < 2**48:
                    raise ValueError(f"{one_line(repr(number))} stands where a whole number must")
            strengths = tuple(data["strengths"]) if "strengths" in data else None
            names = tuple(data["target_names"]), tuple(data["auxiliary_names"])
            return cls(*names, tuple(data["counts"]), pairs, strengths)
        except FileNotFoundError:
            raise ValueError(f"there is no label space at {path}.") from None
        except OSError as error:
            raise ValueError(f"the label space {path} cannot be read: {error}.") from None
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is not a label space: {str(error).rstrip('.')}.") from None

    def _json(self) -> str:
        fields: dict[str, object] = {
            "target_names": self.target_names,
            "auxiliary_names": self.auxiliary_names,
            "counts": self.counts,
            "neighbors": self.neighbors,
        }
        if self.strengths is not None:  # left out else: digests of label spaces without strengths stay as they were
            fields["strengths"] = self.strengths
        return json.dumps(fields, ensure_ascii=False)
