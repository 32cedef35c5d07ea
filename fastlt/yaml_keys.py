"""Keys that are written in YAML: typed, each explained where it stands, and mistakes in them told in plain words."""

from __future__ import annotations

import difflib
import json
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from fastlt.places import is_url

_WHOLE, _NUMBER, _SWITCH = "must be a whole number", "must be a number", "must be true or false"
_MUST = {
    "greater_than_equal": "must be at least {ge}",
    "greater_than": "must be above {gt}",
    "less_than_equal": "must be at most {le}",
    "less_than": "must be below {lt}",
    "literal_error": "must be {expected}",
    "int_parsing": _WHOLE,
    "int_type": _WHOLE,
    "int_from_float": _WHOLE,
    "float_parsing": _NUMBER,
    "float_type": _NUMBER,
    "finite_number": _NUMBER,
    "bool_parsing": _SWITCH,
    "bool_type": _SWITCH,
    "string_type": "must be text",
    "path_type": "must be a path",
    "tuple_type": "must be a list such as [a, b]",
    "dict_type": "must have keys of its own",
    "model_type": "must have keys of its own",
    "value_error": "{error}",
}
"""What pydantic's kinds of mistakes are in plain words; its context fills them in."""


class Section(BaseModel):
    """Keys that are written in YAML: none but those that are known, each explained by the docstring below it."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)
    renamed: ClassVar[dict[str, str]] = {}
    """Keys that had another name: a file of before is told, and nothing is taken under the old one."""
    meant: ClassVar[dict[str, str]] = {}
    """What other programs call a key of ours."""


S = TypeVar("S", bound=Section)


def validated(kind: type[S], values: dict[str, Any], where: str, typed: Sequence[str] = ()) -> S:
    """The section that these values make.

    Args:
        kind: of the section.
        values: as they were read.
        where: what a mistake's sentence begins with.
        typed: keys that were typed and do not stand there.

    Raises:
        ValueError: unknown or renamed key, or a value of the wrong type.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        mistakes = error.errors()
        keys = [".".join(map(str, mistake["loc"])) for mistake in mistakes]
        # A word that was typed is not the file's fault.
        by_hand = all(any(_is_within(key, word) or _is_within(word, key) for word in typed) for key in keys)
        said = "; ".join(dict.fromkeys(_explain(kind, mistake, values) for mistake in mistakes))
        raise ValueError(f"{'' if by_hand else f'{where}: '}{said.rstrip('.')}.") from None


def keys_of(kind: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(key, pydantic's FieldInfo) of every key, sections first to last."""
    for name, field in kind.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from keys_of(field.annotation, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field


def explained(kind: type[Section], only: str = "") -> str:
    """Every key with its default and meaning, section by section, for people; `only` one key or section of them."""
    lines: list[str] = []
    section = ""
    for key, field in keys_of(kind):
        if only and not _is_within(key, only):
            continue
        if key.rpartition(".")[0] != section:
            section = key.rpartition(".")[0]
            lines.append("")
        # As it is written in YAML: null, true, [0.08, 1.0].
        default = "required" if field.is_required() else f"default {json.dumps(field.default)}"
        meaning = " ".join((field.description or "").split())
        lines.append(f"{key} ({default})")
        lines += textwrap.wrap(meaning, 92, initial_indent="    ", subsequent_indent="    ")
    return "\n".join(lines).lstrip("\n")


def _is_within(key: str, section: str) -> bool:
    return f"{key}.".startswith(f"{section}.")


def _explain(kind: type[Section], mistake: Any, values: dict[str, Any]) -> str:
    """One of pydantic's mistakes about these values, in plain words."""
    key = ".".join(map(str, mistake["loc"]))
    if mistake["type"] == "extra_forbidden":
        return _explain_unknown(kind, key)
    inside = next((known for known in keys_of(kind) if key != known[0] and _is_within(key, known[0])), None)
    if inside:  # of a value with parts, or one of several types that it may have
        name, field = inside
        value: Any = values
        for part in name.split("."):
            value = value[part]
        default = "" if field.default is None else f" (default {json.dumps(field.default)})"
        return f"{name} cannot be {value!r}: {' '.join((field.description or '').split()).rstrip('.')}{default}"
    if mistake["type"] == "missing":
        return f"key {key!r} is missing"
    must = _MUST.get(mistake["type"])
    said = must.format(**mistake.get("ctx", {})) if must else mistake["msg"]
    given = mistake["input"]
    if isinstance(given, str) and is_url(given):
        return f"{key}: {said}"  # there may be a password in it
    return f"{key} is {given!r}; it {said}" if key else said


def _explain_unknown(kind: type[Section], key: str) -> str:
    if key in kind.renamed:
        return f"key {key!r} is now called {kind.renamed[key]}: rename it"
    known = [name for name, _ in keys_of(kind)]
    sections = list(kind.model_fields)
    meant = kind.meant.get(key)
    if not meant and key in {name.rpartition(".")[2] for name in known}:  # `epochs` for `optimizer.epochs`
        meant = " or ".join(name for name in known if name.endswith(f".{key}"))
    if not meant:
        meant = next(iter(difflib.get_close_matches(key, [*known, *sections], 1, cutoff=0.75)), None)
    said = f"unknown key {key!r}; did you mean {meant}?" if meant else f"unknown key {key!r}"
    section = key.rpartition(".")[0]
    inside = [name.removeprefix(f"{section}.") for name in known if name.startswith(f"{section}.")]
    where = f"known in {section!r} are" if section else "known are"
    return (
        f"{said} ({where} {', '.join(inside if section else sections)}; `fastlt {kind.__name__.lower()}` explains them)"
    )
