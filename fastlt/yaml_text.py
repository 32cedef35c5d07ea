"""YAML as people write it: small, no key twice, and only what looks like a number is one."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from fastlt.foreign import read_bytes

_MOST_BYTES, _MOST_VALUES, _DEPTH = 2**18, 10_000, 32


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice, of which YAML would take the last.

    Only what looks like a number is one: 20261125_1200, 12:30 and 2026-11-25, which YAML 1.1 takes for numbers and a
    date, are names of runs.
    """

    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [(tag, pattern) for tag, pattern in found if tag.rpartition(":")[2] not in ("int", "float", "timestamp")]
        for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        mapping = super().construct_mapping(node, deep)  # refuses keys that are lists or mappings
        times = Counter(self.construct_object(key) for key, _ in node.value)
        if len(times) < len(node.value):
            twice = times.most_common(1)[0][0]
            raise yaml.constructor.ConstructorError(None, None, f"key {twice!r} stands twice", node.start_mark)
        return mapping

    def get_single_node(self) -> yaml.Node | None:
        """The document, refused if it is large once all that anchors name is written out, or deep."""
        node = super().get_single_node()
        if node is None:
            return None
        size, depth = _measured(node, {})
        if size > _MOST_VALUES or depth > _DEPTH:
            said = f"it has more than {_MOST_VALUES:,} values, or more than {_DEPTH} inside each other"
            raise yaml.composer.ComposerError(None, None, said, node.start_mark)
        return node


def _measured(node: yaml.Node, known: dict[int, tuple[int, int]]) -> tuple[int, int]:
    """How many values a document has, and how many inside each other, with an anchor's wherever it is used."""
    if id(node) not in known:
        known[id(node)] = _MOST_VALUES + 1, 0  # should it be inside itself
        inside = node.value if isinstance(node, yaml.CollectionNode) else []
        parts = [part for pair in inside for part in (pair if isinstance(pair, tuple) else [pair])]
        sizes, depths = zip((0, 0), *(_measured(part, known) for part in parts), strict=True)
        known[id(node)] = 1 + sum(sizes), 1 + max(depths)
    return known[id(node)]


_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"[-+]?(?:0|[1-9][0-9]*)\Z"), list("-+0123456789"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?\Z|[-+]?\.(?:inf|nan)\Z", re.I),
    list("-+.0123456789"),
)


def parsed(text: str, what: str) -> Any:
    """The value of a YAML text. Raises ValueError, which begins with `what`, where it is none."""
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ValueError(f"{what} is not valid YAML: {' '.join(str(error).split())}.") from None


def read_mapping(path: Path, kind: str) -> dict[str, Any]:
    """What a YAML file holds.

    Args:
        path: the file.
        kind: what it is called if it cannot be read.

    Raises:
        ValueError: it is no file, no YAML, large, or no mapping; a key stands twice in it.
    """
    try:
        if path.exists() and not path.is_file():
            raise ValueError("it is no file")
        text = read_bytes(path, _MOST_BYTES).decode()
    except (OSError, ValueError) as error:
        raise ValueError(f"{kind} {str(path)!r} cannot be read: {error}.") from None
    values = parsed(text, f"{kind} {path}")
    if not isinstance(values, dict):
        raise ValueError(f"{kind} {path} is empty or not a mapping.")
    return values
