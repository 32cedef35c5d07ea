"""A taxonomy of classes and its cuts: groups that have every class once, those of finer cuts inside of coarser ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from fastlt.data_prep.inputs.taxonomy import read_taxonomy
from fastlt.messages import listed

_SMALL = 0.5  # of the average group: what is smaller is put together with its like
_OTHER = "other "


@dataclass(frozen=True)
class Node:
    """A part of a taxonomy.

    Attributes:
        name: of it.
        children: what it falls into, at least two; none for a class.
        classes: those below it.
        images: how many these have.
    """

    name: str
    children: tuple[Node, ...]
    classes: tuple[str, ...]
    images: int

    @classmethod
    def above(cls, name: str, children: Sequence[Node]) -> Node:
        """The node with these children."""
        classes = tuple(c for child in children for c in child.classes)
        return cls(name, tuple(children), classes, sum(child.images for child in children))


@dataclass(frozen=True)
class Level:
    """One labeling: {group: its classes}, in the order of the labels."""

    groups: Mapping[str, tuple[str, ...]]

    def __len__(self) -> int:
        return len(self.groups)

    @cached_property
    def group_of(self) -> dict[str, str]:
        """The group of each class."""
        return {name: group for group, classes in self.groups.items() for name in classes}


def levels_of(file: Path, images: Mapping[str, int], wanted: Sequence[int]) -> list[Level]:
    """The levels of these classes, coarsest first, the last one the classes themselves.

    Args:
        file: of the taxonomy.
        images: of each class.
        wanted: numbers of groups; each level has the number that is nearest to one.

    Raises:
        ValueError: as `read_taxonomy`; classes that are not in it, numbers that no two levels have.
    """
    taxonomy = read_taxonomy(file)
    if lacking := [name for name in images if name not in taxonomy]:
        raise ValueError(f"{file} lacks {len(lacking):,} of the {len(images):,} classes: {listed(lacking)}.")
    numbers = coarser(wanted, len(images))
    root = _tree("classes", [(name, taxonomy[name][::-1], number) for name, number in images.items()])
    if not any(child.children for child in root.children):
        raise ValueError(
            f"{file} leads to one group only: it has nothing between {root.name!r}, which is all of them, and the "
            "classes themselves."
        )
    return [*cut(root, images, numbers), Level({name: (name,) for name in images})]


def coarser(wanted: Sequence[int], classes: int) -> list[int]:
    """The wanted numbers of groups below that of the classes, the smallest first.

    Raises:
        ValueError: there is none, or one above it.
    """
    if many := [number for number in wanted if number > classes]:
        raise ValueError(f"--levels {many[0]}: there are only {classes:,} classes.")
    found = sorted({number for number in wanted if number < classes})
    if not found:
        raise ValueError(f"--levels names no level that is coarser than the {classes:,} classes: give one.")
    return found


def cut(root: Node, images: Mapping[str, int], numbers: Sequence[int]) -> list[Level]:
    """For each number of groups, in rising order, the nearest level of a tree; each lies inside of the one before.

    Raises:
        ValueError: two are the same.
    """
    groups, found, asked = [root], [], {len(images): len(images)}
    for number in numbers:
        groups = _cut(groups, number, root.images)
        if same := asked.get(len(groups)):
            raise ValueError(f"--levels {number} and {same} both come out as {len(groups):,} groups: leave one out.")
        asked[len(groups)] = number
        found.append(_level(groups))
    return found


def _tree(name: str, rows: Sequence[tuple[str, Sequence[str], int]]) -> Node:
    """The node above classes, each with the names between, the highest first, and its images.

    What holds but one thing is that thing. A name that stands below two others, as WordNet has it, is two nodes.
    """
    parts: dict[str, list[tuple[str, Sequence[str], int]]] = {}
    children = []
    for lowest, above, images in rows:
        if above:
            parts.setdefault(above[0], []).append((lowest, above[1:], images))
        else:
            children.append(Node(lowest, (), (lowest,), images))
    children += [_tree(part, of) for part, of in parts.items()]
    return children[0] if len(children) == 1 else Node.above(name, children)


def _cut(groups: list[Node], wanted: int, images: int) -> list[Node]:
    """The groups, split until their number is the nearest to the wanted one; the largest first, to be alike in size."""
    floor = _SMALL * images / wanted
    while len(groups) < wanted:
        tried: list[tuple[Node, list[Node]]] = []
        for group in sorted((group for group in groups if group.children), key=lambda group: -group.images):
            tried.append((group, _split(group, floor)))
            if len(groups) - 1 + len(tried[-1][1]) <= wanted:
                break
        split, parts = min(tried, key=lambda found: len(found[1]))  # the last one, if that is not too many
        number = len(groups) - 1 + len(parts)
        if len(groups) > 1 and number - wanted >= wanted - len(groups):
            break
        groups = [*(group for group in groups if group is not split), *parts]
    return groups


def _split(node: Node, floor: float) -> list[Node]:
    """What a node falls into. Children with fewer images than `floor` become one group, "other NODE".

    Where that group would be too small as well, the largest child is looked into for more.
    """
    parts = list(node.children)
    while True:
        large = [part for part in parts if part.images >= floor]
        small = [part for part in parts if part.images < floor]
        inner = [part for part in large if part.children]
        if not small or not inner or sum(part.images for part in small) >= floor:
            break
        largest = max(inner, key=lambda part: part.images)
        parts = [*(part for part in parts if part is not largest), *largest.children]
    if not large:
        return list(node.children)
    if len(small) < 2:
        return parts
    return [*large, Node.above(f"{_OTHER}{node.name.removeprefix(_OTHER)}", small)]


def _level(groups: Sequence[Node]) -> Level:
    """The groups by name, the largest first; a name that is taken gets a number."""
    found: dict[str, tuple[str, ...]] = {}
    for group in sorted(groups, key=lambda group: -group.images):
        name, times = group.name, 1
        while name in found:
            times += 1
            name = f"{group.name} {times}"
        found[name] = group.classes
    return Level(found)
