"""The pages that people read are true: their blocks run, their commands exist, their links lead somewhere."""

import contextlib
import io
import os
import re
import signal
import subprocess
import sys
from functools import cache

import pytest

from support.pages import Page, as_script, pages
from support.paths import BIN, ROOT

PAGES = {page.name: page for page in pages()}
RUN = [page for page in PAGES.values() if page.program]
SLOW = {"docs/names_to_data_set.md", "docs/granularity.md", "docs/recipes.md"}
"""Pages that train several times."""
_all = pytest.mark.parametrize("page", PAGES.values(), ids=str)


def _run(page: Page, folder) -> None:
    """All blocks of a page in one shell, in an empty folder, as somebody types them."""
    bin_folder, work = folder / "bin", folder / "work"
    bin_folder.mkdir()
    work.mkdir()
    (bin_folder / "fastlt").write_text(f'#!/bin/sh\nexec {sys.executable} -m fastlt.cli "$@"\n')
    (bin_folder / "fastlt").chmod(0o755)
    path = os.pathsep.join(map(str, [bin_folder, BIN, os.environ["PATH"]]))
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(ROOT)}
    output = folder / "output.txt"  # no pipe: what is left in the background would hold it open
    with output.open("w") as stream:
        shell = subprocess.Popen(
            ["bash", str(as_script(page, folder))], cwd=work, env=environment, stdout=stream, stderr=stream,
            start_new_session=True,
        )  # fmt: skip
    try:
        shell.wait(timeout=1500)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(shell.pid, signal.SIGKILL)
    assert shell.returncode == 0, output.read_text()[-6000:]


def _marked(page: Page):
    mark = pytest.mark.slow if page.name in SLOW else pytest.mark.medium
    return pytest.param(page, id=page.name, marks=mark)


@pytest.mark.parametrize("page", map(_marked, RUN))
def test_blocks_run(page, tmp_path):
    _run(page, tmp_path)


@_all
def test_blocks_say_what_they_are(page):
    """Commands stand in blocks of bash, where the other tests see them; what is not run says why."""
    for block in page.blocks:
        if not block.language:
            typed = [line for line in block.code.splitlines() if line.startswith(("fastlt ", "python ", "make "))]
            assert not typed, f"{page.name}:{block.line} is no block of bash"
        assert block.not_run is None or len(block.not_run) > 10, f"{page.name}:{block.line}"


@_all
def test_commands_are_ones(page, monkeypatch):
    """Every command of a block is read as `fastlt` reads it, whether the block is run or not."""
    monkeypatch.setenv("OPENAI_API_KEY", "a key")
    from fastlt.cli import Train, command_of
    from fastlt.recipe import load_recipe, packaged_recipes

    for block in page.blocks:
        for name, *words in block.commands():
            if name == "--help":
                continue
            said = io.StringIO()
            try:
                with contextlib.redirect_stderr(said):
                    command = command_of(name, words)
            except (SystemExit, Exception) as error:
                typed = f"{page.name}:{block.line}: fastlt {' '.join([name, *words])}"
                pytest.fail(f"{typed}\n{error} {said.getvalue()}", pytrace=False)
            if isinstance(command, Train) and command.recipe in packaged_recipes():
                load_recipe(command.recipe, command.overrides)


@cache
def _options(command: str) -> set[str]:
    """Of a command, as its help has them."""
    from fastlt.cli import command_of

    said = io.StringIO()
    with contextlib.redirect_stdout(said), pytest.raises(SystemExit):
        command_of(command, ["--help"])
    return set(re.findall(r"--[a-z0-9-]+", said.getvalue()))


@pytest.mark.parametrize("page", [page for name, page in PAGES.items() if name != "CHANGELOG.md"], ids=str)
def test_commands_in_the_text_are_ones(page):
    """What the list of changes says was true of its day."""
    from fastlt.cli import COMMANDS

    known = {name for group in COMMANDS.values() for name in group}
    for span in page.spans():
        words = span.split()
        if words[:1] != ["fastlt"] or len(words) == 1 or words[1] in ("--help", "--version"):
            continue
        assert words[1] in known, f"{page.name}: `{span}`"
        options = {word.partition("=")[0] for word in words[2:] if word.startswith("--")}
        assert options <= _options(words[1]), f"{page.name}: `{span}`"


@_all
def test_links_lead_somewhere(page):
    for link in page.links():
        if "://" in link or link.startswith("mailto:"):
            continue
        name, _, anchor = link.partition("#")
        target = (page.path.parent / name).resolve() if name else page.path
        assert target.exists(), f"{page.name}: {link}"
        if anchor:
            assert target.suffix == ".md", f"{page.name}: {link}"
            assert anchor in Page(target).anchors(), f"{page.name}: {link}"


def test_pages_are_found():
    assert len(PAGES) > 15
    assert sum(len(page.links()) for page in PAGES.values()) > 40
    assert sum(len(list(block.commands())) for page in PAGES.values() for block in page.blocks) > 40
