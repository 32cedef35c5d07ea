"""The user's file of neighbor pairs, whose names may be written as the user knows the classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from fastlt.data_prep.inputs.text import read_text
from fastlt.data_prep.names import class_name, normalized, plain_names
from fastlt.foreign import parse_json

Titles = Mapping[str, Sequence[str]]
"""{class: other names}"""


def read_neighbors(file: Path, targets: Titles, auxiliaries: Titles) -> dict[str, list[str] | dict[str, float]]:
    """{target: [auxiliary, ...]}, or {target: {auxiliary: strength, ...}} where a strength is not 1, all
    under the names that label spaces have.

    Args:
        file: a JSON object of either form; classes may be called by their titles too, or in other spelling.
        targets, auxiliaries: the classes that there are.

    Raises:
        ValueError: it is none, or names classes that there are not, or one name is of two classes, or a pair
            has a strength that is no number in 0..1, or two.
    """
    target_of, auxiliary_of = _Names(targets), _Names(auxiliaries)
    pairs: dict[str, dict[str, float]] = {}
    for said, names in _read(file).items():
        target = target_of.find(said)
        if target is None:
            raise ValueError(f"the neighbor list names {said!r}, which is not a target class.")
        for name in names:
            auxiliary = auxiliary_of.find(name)
            if auxiliary is None:
                raise ValueError(f"the neighbor list of {said!r} names {name!r}, which is not an auxiliary class.")
            strength = names[name] if isinstance(names, dict) else 1.0
            if isinstance(strength, bool) or not isinstance(strength, int | float) or not 0 <= strength <= 1:
                raise ValueError(f"the strength of {name!r} in the neighbor list of {said!r} is no number in 0..1.")
            if pairs.setdefault(target, {}).setdefault(auxiliary, strength) != strength:
                raise ValueError(f"the neighbor list gives {name!r} of {said!r} two strengths: give one.")
    alike = {target: all(strength == 1 for strength in of.values()) for target, of in pairs.items()}
    return {target: list(of) if alike[target] else of for target, of in pairs.items()}


class _Names:
    """Which class is meant by a name: the one that has it; else the only one that has it as another name, or spelled
    otherwise."""

    def __init__(self, classes: Titles) -> None:
        self._classes = classes
        self._others: dict[str, set[str]] = {}
        for (name, titles), plain in zip(classes.items(), plain_names(list(classes)), strict=True):
            for title in (name, plain, *titles):
                for spelled in (title, normalized(title)):
                    self._others.setdefault(spelled, set()).add(name)

    def find(self, said: str) -> str | None:
        """The class, or None.

        Raises:
            ValueError: several are called so.
        """
        said = class_name(said, "the neighbor list")
        if said in self._classes:
            return said
        found = self._others.get(said) or self._others.get(normalized(said) or said, set())
        if len(found) > 1:
            raise ValueError(f"the neighbor list names {said!r}, which may be {' or '.join(sorted(found))}.")
        return next(iter(found), None)


def _read(file: Path) -> dict[str, list[str] | dict[str, float]]:
    text = read_text(file, "neighbor list")
    try:
        neighbors = parse_json(text)
    except ValueError as error:
        raise ValueError(f"the neighbor list {file} cannot be read: {error}.") from None
    is_list = isinstance(neighbors, dict) and all(
        isinstance(names, list | dict) and all(isinstance(name, str) for name in names) for names in neighbors.values()
    )
    if not is_list:
        raise ValueError(
            f"the neighbor list {file} must be a JSON object {{target: [auxiliary, ...]}} "
            "or {target: {auxiliary: strength, ...}}."
        )
    return neighbors
