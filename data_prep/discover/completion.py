"""A chat completion as servers send it: content in parts, tool calls, thoughts, counts as text, errors as 200."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import Any

from fastlt.data_prep.discover.answers import Categories, read_json, without_thoughts
from fastlt.foreign import parse_answer
from fastlt.messages import one_line

CUT_OFF = "cut off at a limit of tokens"
WITHHELD = "withheld by a filter"
EMPTY = "empty"
NO_JSON = "without the JSON that was asked for"

_BEGINS = re.compile(r"\s*(?:```\w*\s*)?[\[{]")
_ENDS = re.compile(r"[\]}]\s*(?:```\s*)?$")


@dataclass(frozen=True)
class Completion:
    """What a model said.

    Attributes:
        content, arguments, thoughts: said to the user, to a tool, and to itself where a server keeps that apart.
        finish: why it ended, in lower case.
        prompt_tokens, completion_tokens: None where the server does not tell.
    """

    content: str
    arguments: str
    thoughts: str
    finish: str
    prompt_tokens: int | None
    completion_tokens: int | None

    @classmethod
    def read(cls, body: bytes) -> Completion:
        """Reads a server's answer.

        Raises:
            ValueError: it is no completion, or an error that came with a good status.
        """
        try:
            whole = parse_answer(body)
        except ValueError:  # prose, half a JSON
            whole = None
        choice = _first(whole, "choices")
        finish = str(_get(choice, "finish_reason")).casefold()
        error = _get(whole, "error") or _get(choice, "error") or (finish == "error" and finish)
        if error:
            raise ValueError(f"an error for an answer: {one_line(_get(error, 'message') or error)}")
        message = _get(choice, "message")
        if not isinstance(message, dict):
            raise ValueError(f"no chat completion but {one_line(body.decode(errors='replace'))!r}")
        usage = _get(whole, "usage")
        return cls(
            content=_text(message.get("content")) or _text(message.get("refusal")),
            arguments=_arguments(message),
            thoughts=_text(message.get("reasoning_content")) or _text(message.get("reasoning")),
            finish=finish,
            prompt_tokens=_count(usage, "prompt_tokens"),
            completion_tokens=_count(usage, "completion_tokens"),
        )

    @property
    def said(self) -> str:
        """What counts as said when the model is told that this was no answer."""
        return without_thoughts(self.content).strip() or self.arguments

    @property
    def length(self) -> int:
        """Bytes of all that was said and thought."""
        return sum(len(text.encode()) for text in (self.content, self.arguments, self.thoughts))

    def answer(self, shape: type[Categories]) -> tuple[str, Categories | None]:
        """The text that answers, and the answer in it; None if there is none.

        Where tokens ran out, what came after thinking aloud may be a draft, so only what the model began with counts.
        So it is with thoughts, which some servers take a whole answer for: they count if they begin or end with JSON.
        """
        cut = self.fault == CUT_OFF
        spoken = without_thoughts(self.content)
        texts = [self.content] if not cut or _BEGINS.match(spoken) else []
        texts.append(self.arguments)
        kept = without_thoughts(self.thoughts).strip()
        if not self.content.strip() and not cut and (_BEGINS.match(kept) or _ENDS.search(kept[-100:])):
            texts.append(kept)
        for text in texts:
            found = read_json(text, shape)
            if found is not None:
                return text, found
        return "", None

    @property
    def fault(self) -> str:
        """Why there is no answer in it."""
        if self.finish in ("length", "max_tokens", "model_length"):
            return CUT_OFF
        if self.finish in ("content_filter", "safety", "refusal"):
            return WITHHELD
        return NO_JSON if self.said else EMPTY


def _get(value: object, key: str) -> Any:
    return value.get(key) if isinstance(value, dict) else None


def _first(value: object, key: str) -> object:
    inside = _get(value, key)
    return inside[0] if isinstance(inside, list) and inside else None


def _text(content: object) -> str:
    """Content is text, or parts of which those of type text are said."""
    if isinstance(content, list):
        return "".join(_text(part) for part in content if isinstance(part, str | dict))
    if isinstance(content, dict):
        content = content.get("text") if content.get("type") in (None, "text", "output_text") else None
    return content.encode(errors="replace").decode() if isinstance(content, str) else ""


def _arguments(message: dict[str, Any]) -> str:
    """What tools were called with, a line for each call."""
    calls = message.get("tool_calls")
    functions = [_get(call, "function") for call in calls] if isinstance(calls, list) else []
    given = [_get(function, "arguments") for function in [*functions, message.get("function_call")]]
    return "\n".join(_text(each) if isinstance(each, str) else json.dumps(each) for each in given if each)


def _count(usage: object, name: str) -> int | None:
    """Tokens, which may be told as text or not at all."""
    try:
        number = float(_get(usage, name))
    except (TypeError, ValueError, OverflowError):
        return None
    return math.ceil(number) if 0 < number < 2**31 else None
