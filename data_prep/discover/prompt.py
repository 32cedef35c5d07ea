"""The prompt file of discover: sections that become chat messages, with placeholders."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template

DEFAULT_PROMPT = Path(__file__).with_name("prompt.md")
PLACEHOLDERS = frozenset({"title", "synonyms", "number", "known", "targets"})
NEEDED = ("title", "number", "known")

Message = dict[str, str]


@dataclass(frozen=True)
class Prompt:
    """A chat with placeholders; `prompt.md` explains the file format."""

    sections: tuple[tuple[str, str], ...]  # (role, text)

    @classmethod
    def read(cls, path: Path, needed: Sequence[str] = NEEDED) -> Prompt:
        """Reads a prompt file.

        Args:
            path: of the file.
            needed: placeholders that its last section must have.

        Raises:
            ValueError: no such file, no such role or placeholder, roles out of turn, or a placeholder is missing.
        """
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"the prompt {path} cannot be read: {error}.") from None
        # A heading is one word alone, so that a prompt may have other headings inside its sections.
        _, *parts = re.split(r"^# *(\w+)[ \t]*$", text, flags=re.MULTILINE)
        prompt = cls(tuple((r.lower(), t.strip()) for r, t in zip(parts[::2], parts[1::2], strict=True)))
        wrong = prompt._mistake(needed)
        if wrong:
            raise ValueError(f"the prompt {path} {wrong} ({DEFAULT_PROMPT} is one that works).")
        return prompt

    def _mistake(self, needed: Sequence[str]) -> str:
        for role, text in self.sections:
            if role not in ("system", "user", "assistant"):
                return f"has a section '# {role}'; there are # system, # user and # assistant"
            if not Template(text).is_valid():
                return f"has a lone $ in its section '# {role}': a dollar sign is written $$"
            unknown = sorted(set(Template(text).get_identifiers()) - PLACEHOLDERS)
            if unknown:
                return f"has the placeholder ${unknown[0]}; there are ${', $'.join(sorted(PLACEHOLDERS))}"
        turns = [role for role, _ in self.sections]
        talk = turns[1:] if turns[:1] == ["system"] else turns
        if len(talk) % 2 == 0 or talk != (["user", "assistant"] * len(talk))[: len(talk)]:
            return "must be an optional # system, then # user and # assistant in turn, with a # user at the end"
        missing = [name for name in needed if name not in Template(self.sections[-1][1]).get_identifiers()]
        if missing:
            return f"lacks ${missing[0]} in its last section"
        return ""

    def num_bytes(self, values: dict[str, str]) -> int:
        """Bytes of the chat with these values, without making it: there may be as many chats as classes."""
        number = 0
        for _, text in self.sections:
            found = Counter(match["named"] or match["braced"] for match in Template.pattern.finditer(text))
            number += len(text.encode()) + sum(
                times * len(values.get(name, "").encode()) for name, times in found.items()
            )
        return number

    def messages(self, **values: object) -> list[Message]:
        """The chat with every placeholder filled in."""
        return [{"role": role, "content": Template(text).substitute(values)} for role, text in self.sections]


def without_system(messages: list[Message]) -> list[Message]:
    """The same chat for a model without a system role: its first user message begins with the system's text."""
    if messages[0]["role"] != "system":
        return messages
    system, first, *others = messages
    return [{"role": first["role"], "content": f"{system['content']}\n\n{first['content']}"}, *others]
