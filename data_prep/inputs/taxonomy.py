"""A taxonomy as JSON: what lies above each class, or the ranks of iNaturalist's categories."""

from __future__ import annotations

from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

from fastlt.data_prep.names import class_name
from fastlt.foreign import load_json

RANKS = ("genus", "family", "order", "class", "phylum", "kingdom")
_HIGHEST = 100  # names above a class; WordNet has 18


def read_taxonomy(file: Path) -> dict[str, list[str]]:
    """{class: what lies above it, nearest first}.

    Raises:
        ValueError: there is no such file, it is no taxonomy, or something in it lies above itself.
    """
    found = load_taxonomy(file)
    if isinstance(found, dict) and isinstance(found.get("categories"), list):
        found = _of_ranks(found["categories"])
    return lineages(file, found)


def load_taxonomy(file: Path) -> Any:
    """Whatever is in the file; a bare list of categories, as iNaturalist's categories.json, as its other files have it.

    Raises:
        ValueError: there is no such file, or it is no JSON.
    """
    try:
        found = load_json(file)
    except FileNotFoundError:
        raise ValueError(f"there is no taxonomy at {file}.") from None
    except ValueError as error:
        raise ValueError(f"the taxonomy {file} is no JSON: {error}.") from None
    ranked = isinstance(found, list) and any(isinstance(entry, dict) for entry in found)
    return {"categories": found} if ranked else found


def lineages(file: Path, found: Any) -> dict[str, list[str]]:
    """{class: what lies above it, nearest first} of what a file has.

    Raises:
        ValueError: it is no taxonomy, or something in it lies above itself.
    """
    if not isinstance(found, dict) or not all(_are_texts(above) for above in found.values()):
        raise ValueError(
            f'{file} is no taxonomy: it must be {{"class": ["parent", "grandparent", ...], ...}}, with up to '
            f"{_HIGHEST} names above a class, none of them empty."
        )
    found = {class_name(n, str(file)): [class_name(part, str(file)) for part in above] for n, above in found.items()}
    parents: dict[str, set[str]] = {}
    for name, above in found.items():
        for lower, higher in zip((name, *above), above, strict=False):
            parents.setdefault(lower, set()).add(higher)
    try:
        TopologicalSorter(parents).prepare()
    except CycleError as error:
        raise ValueError(f"{file} goes in a circle: {' above '.join(error.args[1])}.") from None
    return found


def _are_texts(above: Any) -> bool:
    return (
        isinstance(above, list)
        and len(above) <= _HIGHEST
        and all(isinstance(part, str) and part.strip() for part in above)
    )


def _of_ranks(categories: list[Any]) -> dict[str, list[str]]:
    """The ranks of iNaturalist's categories, known by their names and by their ids, as its folders are."""
    found: dict[str, list[str]] = {}
    for category in (category for category in categories if isinstance(category, dict)):
        ranks = dict.fromkeys(str(category[rank]) for rank in RANKS if category.get(rank))  # the same name in two ranks
        for key in ("id", "name"):
            found[str(category.get(key))] = [rank for rank in ranks if rank != str(category.get(key))]
    return found
