"""What mkdocs cannot know of our pages: those outside of docs/, those made of the code, and links between all of them.

GitHub shows the same files as they lie, so links in them lead through the checkout. On the site a link to a page or
picture of the site stays one; a link to any other file of the checkout becomes its name.
"""

from __future__ import annotations

import contextlib
import io
import re
import shutil
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from posixpath import normpath, relpath
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
_OUTSIDE = {
    "README.md": "index.md",
    "kernels/README.md": "kernels.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changes.md",
}
_LINK = re.compile(r"(!?)\[([^][]*)\]\(([^()\s]+)\)")
_CODE = re.compile(r"^```.*?^```$|`[^`]+`", re.MULTILINE | re.DOTALL)
_PICTURES = "bench/results/*.png"


def on_startup(command: str, dirty: bool) -> None:
    """Lays the package out as it is installed, kernels/ and data_prep/ inside fastlt/, for mkdocstrings (which
    does not follow links)."""
    package = ROOT / "build" / "docs" / "fastlt"
    shutil.rmtree(package, ignore_errors=True)
    for folder in ("fastlt", "kernels", "data_prep"):
        for file in (ROOT / folder).rglob("*.py"):
            copy = package / file.relative_to(ROOT / "fastlt" if folder == "fastlt" else ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, copy)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds pages from outside of docs/, their pictures, and what is made of the code."""
    for source, page in _OUTSIDE.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    for picture in sorted(ROOT.glob(_PICTURES)):
        files.append(File.generated(config, f"pictures/{picture.name}", abs_src_path=str(picture)))
    sys.path.insert(0, str(ROOT))
    files.append(File.generated(config, "api/commands.md", content="\n".join(_commands())))
    files.append(File.generated(config, "api/recipe_keys.md", content="\n".join(_recipe_keys())))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Points links at the site, and takes out comments, which speak to tests."""
    here = page.file.src_uri
    origin = next((source for source, name in _OUTSIDE.items() if name == here), f"docs/{here}")
    code: list[str] = []

    def keep(match: re.Match[str]) -> str:
        code.append(match[0])
        return f"\0{len(code) - 1}\0"

    text = re.sub(r"<!--.*?-->\n?", "", _CODE.sub(keep, markdown), flags=re.DOTALL)
    text = _LINK.sub(lambda link: _led(link, here, origin, files), text)
    return re.sub("\0(\\d+)\0", lambda match: code[int(match[1])], text)


def _led(link: re.Match[str], here: str, origin: str, files: Files) -> str:
    mark, text, target = link.groups()
    name, sharp, anchor = target.partition("#")
    if "://" in target or not name:
        return link[0]
    path = normpath(PurePosixPath(origin).parent / name)
    if path in _OUTSIDE:
        there = _OUTSIDE[path]
    elif PurePosixPath(path).match(_PICTURES):
        there = f"pictures/{PurePosixPath(path).name}"
    else:
        there = path.removeprefix("docs/")
    if files.get_file_from_path(there) is None:
        return f"{text} (`{path}`)" if path not in text else text
    return f"{mark}[{text}]({relpath(there, PurePosixPath(here).parent)}{sharp}{anchor})"


def _commands() -> Iterator[str]:
    """The help of every command, in the order of use."""
    from fastlt.cli import COMMANDS, main

    yield "# Commands\n\nWhat `fastlt COMMAND --help` says.\n"
    for group, commands in COMMANDS.items():
        yield f"## {group.capitalize()}\n"
        for name in commands:
            said = io.StringIO()
            with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
                main([name, "--help"])
            lines = [part for line in said.getvalue().strip().splitlines() for part in textwrap.wrap(line, 94) or [""]]
            yield "\n".join([f"### fastlt {name}\n\n```text", *lines, "```\n"])


def _recipe_keys() -> Iterator[str]:
    """What `fastlt recipe` says, as tables."""
    from fastlt.recipe import Recipe
    from fastlt.yaml_keys import explained

    yield "# Recipe keys\n\nWhat `fastlt recipe` says. [Recipes](../recipes.md) has how to set them.\n"
    section: Any = None
    for entry in re.findall(r"^(\S+) \((.+)\)\n((?:    .*\n?)+)", explained(Recipe), re.MULTILINE):
        key, default, meaning = entry
        first = key.partition(".")[0] if "." in key else "The run"
        if first != section:
            section = first
            yield f"\n## {section}\n\n| key | | meaning |\n| --- | --- | --- |"
        default = default.replace("|", "\\|")
        yield f"| `{key}` | {default} | {' '.join(meaning.split()).replace('|', chr(92) + '|')} |"
