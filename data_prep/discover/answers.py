"""What a language model names in an answer: thoughts are left out, JSON and plain lists read, prose is no answer."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Self

from pydantic import BaseModel, ConfigDict

from fastlt.data_prep.discover.lenient_json import json_values

MAX_WORDS = 8  # of a name; more is a sentence
MAX_SAID = 2**18  # characters, thoughts aside; a thousand names have a tenth

# <think>, <reasoning>, <seed:think>, <|START_THINKING|>, <|begin_of_thought|>, [THINK], ◁think▷ and what ends them
_THOUGHT = re.compile(
    r"<[\w:|/.-]{0,30}?(?P<kind>think|thought|reason|reflect|scratchpad|analysis|monologue)[\w:|/.-]{0,30}(?:\s[^<>]{0,200})?>"
    r"|\[/?(?P<square>THINK)(?:ING)?\]|◁/?(?P<triangle>think)▷",
    re.IGNORECASE,
)
_ENDS = re.compile(r"/|(?<![a-z])end(?![a-z])", re.IGNORECASE)
_CHANNEL = re.compile(r"<\|channel\|>([^<]{0,80}(?:<\|constrain\|>[^<]{0,40})?)<\|message\|>")  # gpt-oss

# A list under a key, or after words, with one of these has what was not wanted.
_OTHERS = re.compile(
    r"exclu|reject|left.?out|leav\w{0,9}.out|omit|skip|avoid|remov|discard|known|already|except|invalid|wrong"
    r"|(?<![a-z])not(?![a-z])|n['\u2019]t\b|example|draft|thought|^(?:required|targets?|target.?class(?:es)?)$",
    re.IGNORECASE,
)
_KEYS = re.compile(
    r"name|item|answer|result|response|output|list|label|class|suggest|candidate|neighbo|species|breed|model|style"
    r"|auxiliar|similar|alike|alternative|title|data|value"
)
_NAME_KEYS = ("name", "category", "title", "label", "common_name", "species", "class", "breed", "model", "style")
_ITEM = re.compile(r"(?:[-*•\u2013+]|\(?\d{1,3}[.):])\s+(.+)")
_REFUSAL = re.compile(r"\b(?:cannot|can['\u2019]t|unable|sorry)\b", re.IGNORECASE)
_TALK = re.compile(  # that introduces no answer
    r"\b(?:please|need|because|why|reasons?|clarif\w*|questions?|which of|(?:can|could|do|would) you)\b|[?]",
    re.IGNORECASE,
)


class Categories(BaseModel):
    """The answer's shape."""

    model_config = ConfigDict(json_schema_extra={"additionalProperties": False})  # as strict schemas must say
    categories: list[str]

    @classmethod
    def read(cls, text: str) -> Self | None:
        """The categories that a text names, None where it names none."""
        names = _names(text)
        return None if names is None else cls(categories=names)


def read_json(text: str, shape: type[Categories]) -> Categories | None:
    """The answer of that shape in a text, which may have prose, thoughts or a fence around it.

    An answer that was cut off is none, and so are prose, a refusal and what would take minutes to read: the model is
    asked again.
    """
    said = without_thoughts(text)
    return shape.read(said) if len(said) <= MAX_SAID else None


def without_thoughts(text: str) -> str:
    """What is said after thinking; a thought without end goes on to the end, one without beginning is all before it."""
    if re.match(r"\s*analysis(?=[A-Z])", text):  # gpt-oss, by a server that drops the marks of channels
        text = text.rpartition("assistantfinal")[2] if "assistantfinal" in text else ""
    said: list[str] = []
    thinking, position = "", 0
    for mark in _THOUGHT.finditer(text := _last_channel(text)):
        kind = mark[mark.lastgroup or 0].lower()
        if not _ENDS.search(mark[0]):
            if not thinking:
                said.append(text[position : mark.start()])
                thinking = kind
        elif thinking in ("", kind):
            if not thinking:
                said.clear()
            thinking, position = "", mark.end()
    return "\n".join(said if thinking else [*said, text[position:]])


def _last_channel(text: str) -> str:
    _, *parts = _CHANNEL.split(text)
    said = [
        re.split(r"<\|(?:end|return|call|start|channel)\|>", body, maxsplit=1)[0]
        for head, body in zip(parts[::2], parts[1::2], strict=True)
        if re.match(r"\s*(?:final|commentary.*(?:to=|json))", head, re.DOTALL)
    ]
    return "\n".join(said) if parts else text


def _names(text: str) -> list[str] | None:
    values = json_values(text)
    if not values and '\\"' in text:  # JSON in a JSON string
        text = text.replace('\\"', '"').replace("\\n", "\n")
        values = json_values(text)
    best: tuple[tuple[int, bool, bool], list[str]] | None = None
    for start, value in values:
        lead, trusted = _lead(text, start)
        for rank, names in _lists_in(value) if isinstance(value, dict) else _bare(value, trusted):
            score = (rank, bool(names), not _OTHERS.search(lead))
            if best is None or score >= best[0]:  # the last word counts
                best = score, names
    if best:
        return best[1]
    if not values:
        return _plain_list(text)
    singles = [_single(value) for _, value in values if isinstance(value, dict)]
    return [name for names in singles for name in names] if singles and all(singles) else None


def _lead(text: str, start: int) -> tuple[str, bool]:
    """What introduces a value, and whether a bare list there is one that the model gives, not one that it tells of."""
    before = re.sub(r"```\w*\s*$", "", text[max(0, start - 200) : start])
    line = before.rstrip(" \t\r\n*_`").rpartition("\n")[2].strip()
    line = re.split(r"(?<=[.!?])\s+", line)[-1]  # its last sentence
    introduced = line.endswith((":", "="))
    alone = "\n" in before[len(before.rstrip()) :] or not line
    if alone and not introduced:
        return "", True
    return line, introduced and not _OTHERS.search(line)


def _bare(value: list[Any], trusted: bool) -> Iterator[tuple[int, list[str]]]:
    names = _listed(value) if trusted else None
    if names is not None:
        yield 0, names


def _lists_in(value: dict[str, Any]) -> Iterator[tuple[int, list[str]]]:
    """The lists of names below an object's keys, each with how well its key says what it is."""
    for key, below in value.items():
        if _OTHERS.search(key):
            continue
        if isinstance(below, str) and below.lstrip()[:1] in ("[", "{"):
            below = [inner for _, inner in json_values(below)]
            below = below[0] if len(below) == 1 else below
        rank = _rank(key)
        names = None
        if rank and isinstance(below, list):
            names = _listed(below)
        elif rank > 1 and isinstance(below, dict):
            names = _keyed(below)
        if names is not None:
            yield rank, names
            continue
        for inner in below if isinstance(below, list) and len(below) == 1 else [below]:
            if isinstance(inner, dict):
                yield from _lists_in(inner)


def _rank(key: str) -> int:
    word = re.sub(r"[\W_]", "", key).casefold()
    return 3 if word in ("categories", "category") else 2 if "categor" in word else 1 if _KEYS.search(word) else 0


def _listed(value: list[Any]) -> list[str] | None:
    """The names of a list; numbers, constants and dots are none. A list of anything else is no answer."""
    names = []
    for item in value:
        if isinstance(item, dict):
            item = _name_of(item)
            if item is None:
                return None
        if isinstance(item, list):
            return None
        if item is not None and (name := _name(item)):
            names.append(name)
    return names if names or not value else None


def _keyed(value: dict[str, Any]) -> list[str] | None:
    """Of {"1": name} the names, of {name: why} too, of {"name": name} the one; of a schema none."""
    if value.get("type") == "array" or not all(below is None or isinstance(below, str) for below in value.values()):
        return None
    if one := _name_of(value):
        return _listed([one])
    return _listed([below if key.isdecimal() else key for key, below in value.items()])


def _single(value: dict[str, Any]) -> list[str]:
    """The name in an object that is one of several, {"category": "a"}; a comma tells of a list without brackets."""
    said = {key.casefold(): below for key, below in value.items()}
    name = said.get("name") or said.get("category") or said.get("categories")
    flat = all(
        below is None or (isinstance(below, str) and below.lstrip()[:1] not in ("[", "{")) for below in said.values()
    )
    if not flat or not name or "error" in said or re.search(r"[,;\n]", name):
        return []
    return _listed([name]) or []


def _name_of(value: dict[str, Any]) -> str | None:
    said = {key.casefold(): below for key, below in value.items() if isinstance(below, str)}
    known = (said[key] for key in _NAME_KEYS if key in said)
    return next(known, None) or next((said[key] for key in said if "name" in key or "categor" in key), None)


def _name(said: str) -> str:
    name = " ".join(said.split())
    nothing = name.casefold() in ("none", "null", "n/a") or _REFUSAL.search(name)
    return name if any(map(str.isalnum, name)) and not nothing else ""


def _plain_list(text: str) -> list[str] | None:
    """The names of one list with bullets or numbers, below what introduces it."""
    written = [line.expandtabs() for line in text.splitlines() if line.strip()]
    first = next((line for line in written if _ITEM.fullmatch(line.strip())), "")
    margin = len(first) - len(first.lstrip()) + 1  # numbers may be aligned; what stands further in is about a name
    lines = [line.strip() for line in written if len(line) - len(line.lstrip()) <= margin]
    items = [_ITEM.fullmatch(line) for line in lines]
    places = [place for place, item in enumerate(items) if item]
    if not places or places != list(range(places[0], places[-1] + 1)):
        return None
    intro = lines[: places[0]]
    if intro and (
        not intro[-1].rstrip("*_ ").endswith(":")
        or any(p.search(line) for p in (_OTHERS, _REFUSAL, _TALK) for line in intro)
    ):
        return None
    names = [_item(item[1]) for item in items if item]
    return names if all(names) else None


def _item(said: str) -> str:
    """The name of a line such as `**great gray owl** - as gray`; "" for a sentence."""
    said = said[:1000]  # what is looked for takes time with the square of it
    bold = re.match(r"(\*\*|__|`)(.+?)\1", said)
    before = re.split(r"\s+[-\u2013\u2014]\s+|:\s", said, maxsplit=1)[0]
    name = _name((bold[2] if bold else before).strip(" \"'\u2018\u2019\u201c\u201d`*_,;:"))
    sentence = re.search(r"^I\b|[\[\]{}]|[?!]$| .*\.$", name) or len(name.split()) > MAX_WORDS
    return "" if sentence else name
