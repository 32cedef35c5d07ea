"""The pages that people read, as tests see them: blocks of code in order, commands, links, headings.

Three comments that no reader sees speak to the tests:

    <!-- not run: WHY -->        the next block is only read: WHY says what it would need
    <!-- nothing run: WHY -->    the same for every block of the page
    <!-- first: COMMAND -->      is run before the next block: it brings what a reader has
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from support.paths import ROOT

_COMMENT = re.compile(r"<!-- (not run|nothing run|first): (.+?) -->", re.DOTALL)
_FENCE = re.compile(r"^```(?P<language>\w*)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"(?<!`)`([^`]+)`(?!`)")
_LINK = re.compile(r"\[[^][]*\]\(([^()\s]+)\)")
_STARTS = {";", "&&", "||", "|", "(", "&", "do", "then", "else", "until", "while", "if", "!"}
_HEREDOC = re.compile(r"<<-?\s*['\"]?(\w+)['\"]?([^\n]*)\n.*?^\1$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block of code.

    Attributes:
        language: "bash", "python", or what else stands behind the fence.
        code: its lines.
        line: of the page, on which the code begins.
        not_run: why it is not run; None if it is.
        first: commands that are run before it.
    """

    language: str
    code: str
    line: int
    not_run: str | None
    first: tuple[str, ...]

    def commands(self) -> Iterator[list[str]]:
        """The words of each `fastlt` command in it, if it is one of bash, with an address for each variable."""
        if self.language != "bash":
            return
        joined = _HEREDOC.sub(r"\2", self.code.replace("\\\n", " "))
        for line in re.sub(r"\$\w+", "http://localhost:1", joined).splitlines():
            lexer = shlex.shlex(line, posix=True, punctuation_chars="();<>|&")
            lexer.whitespace_split = True
            words = list(lexer)
            for i, word in enumerate(words):
                if word == "fastlt" and (i == 0 or words[i - 1] in _STARTS):
                    yield _until_end(words[i + 1 :])


def _until_end(words: list[str]) -> list[str]:
    ends = [i for i, word in enumerate(words) if word and set(word) <= set("();<>|&")]
    return words[: ends[0]] if ends else words


class Page:
    """A Markdown file of the checkout."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.relative_to(ROOT).as_posix()
        self.text = path.read_text()

    def __str__(self) -> str:
        return self.name

    @cached_property
    def blocks(self) -> list[Block]:
        """All fenced blocks, in order."""
        of_all = [why for kind, why in _COMMENT.findall(self.text) if kind == "nothing run"]
        blocks, end = [], 0
        for match in _FENCE.finditer(self.text):
            said = _COMMENT.findall(self.text[end : match.start()])
            end = match.end()
            why = [why for kind, why in said if kind == "not run"] + of_all
            first = tuple(command for kind, command in said if kind == "first")
            line = self.text.count("\n", 0, match.start("code")) + 1
            blocks.append(Block(match["language"], match["code"], line, why[0] if why else None, first))
        return blocks

    @property
    def program(self) -> list[Block]:
        """The blocks that are run."""
        return [b for b in self.blocks if b.language in ("bash", "python") and b.not_run is None]

    @cached_property
    def prose(self) -> str:
        """The page without its blocks of code and comments."""
        return re.sub(r"<!--.*?-->", "", _FENCE.sub("", self.text), flags=re.DOTALL)

    def spans(self) -> list[str]:
        """What stands in the text as `code`, each on one line."""
        return [" ".join(span.split()) for span in _SPAN.findall(self.prose)]

    def links(self) -> list[str]:
        """Where its links and pictures lead."""
        return _LINK.findall(_SPAN.sub("code", self.prose))

    def anchors(self) -> set[str]:
        """What may stand behind # in a link to it, as GitHub makes it of the headings."""
        headings = re.findall(r"^#+ (.+)$", self.prose, re.MULTILINE)
        return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def pages() -> list[Page]:
    """README, what lies in docs/, and the pages of single folders."""
    files = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "kernels/README.md")]
    return [Page(path) for path in [*files, *sorted((ROOT / "docs").rglob("*.md"))]]


def as_script(page: Page, folder: Path) -> Path:
    """The page's blocks as one shell script, in a folder; Python blocks that follow each other are one program.

    A mistake in it names the line of the page.
    """
    lines = ["set -e"]
    program: Path | None = None
    for block in page.program:
        lines += block.first
        if block.language == "bash":
            program = None
            lines += [f"echo '== {page.name}:{block.line}' >&2", block.code]
            continue
        if program is None:
            program = folder / f"{page.path.stem}_{block.line}.py"
            program.write_text("")
            lines += [f"python {program}"]
        before = program.read_text()
        program.write_text(before + "\n" * (block.line - 1 - before.count("\n")) + block.code)
    script = folder / "page.sh"
    script.write_text("\n".join(lines) + "\n")
    return script
