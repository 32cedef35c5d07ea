"""JSON as language models write it, found anywhere in a text; what was cut off is not completed."""

from __future__ import annotations

import json
import re
from collections import deque
from dataclasses import dataclass, field
from typing import Any

DEPTH = 64  # brackets inside brackets; of more, the outermost are forgotten

_OPENING = re.compile(r"[\[{]")
_TOKEN = re.compile(
    r"(?P<skipped>\s+|//[^\n]*|\#[^\n]*|/\*.*?(?:\*/|\Z))|(?P<mark>[\[\]{},:])|(?P<word>[\w.+-]+)|(?P<other>.)",
    re.DOTALL,
)
# In double quotes, typographic ones, and single ones with apostrophes inside words. Nothing is tried twice.
_STRING = re.compile(
    r"""  " [^"\\]*+ (?: \\. [^"\\]*+ )*+ "
    | [\u201c-\u201e\xab] [^\u201c\u201d\xbb]*+ [\u201c\u201d\xbb]
    | ['\u2018] [^'\u2019\\]*+ (?: (?: \\. | (?<=\w)['\u2019](?=\w) ) [^'\u2019\\]*+ )*+ ['\u2019]""",
    re.DOTALL | re.VERBOSE,
)
_QUOTES = "\"'\u2018\u201c\u201d\u201e\xab"
_NO_STRING = re.compile(r"[+-]?\d[\d.]*(?:e[+-]?\d+)?|true|false|null|none|nan|undefined", re.IGNORECASE)
# What stands between brackets, a letter a token: s a string, v another value, x neither.
_WHOLE = {"[": re.compile("(?:[sv](?:,[sv])*,?)?"), "{": re.compile("(?:s:[sv](?:,s:[sv])*,?)?")}
_BEGUN = {"[": re.compile("(?:[sv],)*[sv]?"), "{": re.compile("(?:s:[sv],)*(?:s(?::[sv]?)?)?")}


@dataclass
class _Bracket:
    """One that is open: where, what follows it, and the objects inside, which count if it turns out to be prose."""

    start: int
    mark: str
    tokens: list[str] = field(default_factory=list)
    values: list[Any] = field(default_factory=list)
    objects: list[tuple[int, dict[str, Any]]] = field(default_factory=list)

    def add(self, token: str, value: Any) -> None:
        self.tokens.append(token)
        self.values.append(value)

    def expects_value(self) -> bool:
        return not self.tokens or self.tokens[-1] in ",:"

    def value(self, closing: str) -> Any:
        """A list or an object; None if it is neither, or says a key twice."""
        if self.mark + closing not in ("[]", "{}") or not _WHOLE[self.mark].fullmatch("".join(self.tokens)):
            return None
        if self.mark == "[":
            return self.values
        found = dict(zip(self.values[::2], self.values[1::2], strict=True))
        return found if 2 * len(found) == len(self.values) else None


def json_values(text: str) -> list[tuple[int, Any]]:
    """(start, value) of the lists and objects in a text that are inside no other.

    Single and typographic quotes, commas too many, comments and keys without quotes are read. Numbers and constants
    are None. Takes time in proportion to the text, whatever it is.
    """
    reader, position = _Reader(), 0
    while position < len(text):
        position = reader.step(text, position)
    reader.end()
    return reader.found


class _Reader:
    def __init__(self) -> None:
        self.found: list[tuple[int, Any]] = []
        self._stack: deque[_Bracket] = deque(maxlen=DEPTH)

    def step(self, text: str, position: int) -> int:
        """Reads one token; returns where the next one begins, which is the end where the rest was cut off."""
        if not self._stack:
            opening = _OPENING.search(text, position)
            if opening is None:
                return len(text)
            position = opening.start()
        elif self._stack[-1].expects_value() and text[position] in _QUOTES:
            string = _STRING.match(text, position)
            if string is None:
                return len(text)
            self._stack[-1].add("s", _unquoted(string[0]))
            return string.end()
        token = _TOKEN.match(text, position)
        assert token is not None
        self._take(token)
        return token.end()

    def end(self) -> None:
        """What is still open was cut off, unless it is prose."""
        while self._stack:
            bracket = self._stack.pop()
            if not _BEGUN[bracket.mark].fullmatch("".join(bracket.tokens)):
                self._inside().extend(bracket.objects)

    def _take(self, token: re.Match[str]) -> None:
        said = token[0]
        if token["mark"] and said in "[{":
            self._stack.append(_Bracket(token.start(), said))
        elif token["mark"] and said in "]}":
            self._close(said)
        elif token["mark"]:
            self._stack[-1].tokens.append(said)
        elif token["word"] and self._stack[-1].expects_value():
            key = self._stack[-1].mark == "{" and self._stack[-1].tokens[-1:] != [":"]
            self._stack[-1].add("s" if key else "v" if _NO_STRING.fullmatch(said) else "x", said if key else None)
        elif not token["skipped"]:
            self._stack[-1].add("x", None)

    def _close(self, closing: str) -> None:
        bracket = self._stack.pop()
        value = bracket.value(closing)
        if self._stack:
            self._stack[-1].add("x" if value is None else "v", value)
        if value is None:
            self._inside().extend(bracket.objects)
        elif not self._stack or isinstance(value, dict):
            self._inside().append((bracket.start, value))

    def _inside(self) -> list[tuple[int, Any]]:
        return self._stack[-1].objects if self._stack else self.found


def _unquoted(string: str) -> str:
    r"""The text of a string; `\'` and `\_`, which JSON has not, are what they look like."""
    inner = re.sub(
        r'\\(.)|"',
        lambda found: '\\"' if found[1] is None else found[0] if found[1] in '"\\/bfnrtu' else found[1],
        string[1:-1],
        flags=re.DOTALL,
    )
    try:
        return str(json.loads(f'"{inner}"', strict=False))
    except ValueError:  # \u without its digits
        return ""
