"""A folder with a class list and a language model's server, for the tests of `fastlt discover`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from fastlt.cli import main
from fastlt.data_prep.catalog import Catalog
from support.llm_server import LlmServer


@dataclass
class Done:
    code: int
    out: str
    err: str


class Desk:
    """A folder with a class list, a server, and the command."""

    def __init__(self, folder: Path, server, capsys) -> None:
        self.folder = folder
        self.server = server
        self.capsys = capsys
        self.classes("shark\t500\ncello\t50\ngrey_owl\t5\n")

    def classes(self, text: str) -> None:
        (self.folder / "classes.txt").write_text(text)

    def words(self, *more: object, catalog: str = "c.db") -> list[str]:
        given = ["--classes", self.folder / "classes.txt", "--base-url", self.server.url, "--model", "m"]
        return [str(word) for word in ("discover", self.folder / catalog, *given, *more)]

    def discover(self, *more: object, **options) -> Done:
        self.capsys.readouterr()
        code = main(self.words(*more, **options))
        return Done(code, *self.capsys.readouterr())

    def refusal(self, *more: object, **options) -> str:
        done = self.discover(*more, **options)
        assert done.code == 1
        assert done.err.startswith("fastlt: error: ")
        assert done.err.count("\n") == 1
        return done.err

    def rows(self, query: str, catalog: str = "c.db") -> list[tuple]:
        with Catalog(self.folder / catalog) as opened:
            return [tuple(row) for row in opened.connection.execute(query)]

    def neighbors(self, catalog: str = "c.db") -> dict[str, list[str]]:
        with Catalog(self.folder / catalog) as opened:
            return opened.neighbors()

    def states(self) -> list[tuple]:
        return self.rows("SELECT name, state, reason FROM target ORDER BY id")


@pytest.fixture
def server():
    server = LlmServer()
    yield server
    server.close()


@pytest.fixture
def desk(tmp_path, server, capsys, monkeypatch):
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    return Desk(tmp_path, server, capsys)
