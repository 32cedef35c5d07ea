"""A catalog with pictures, the page's server as a user starts it, and Chromium to look at it."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fastlt.data_prep.catalog import Catalog
from support.catalogs import make_catalog
from support.crawling import jpeg
from support.paths import with_support

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
JUDGED = [  # (category, state, reason, similarity): one image each
    ("kite", "kept", "", 0.61),
    ("kite", "kept", "", 0.72),
    ("kite", "dropped", "too far", 0.2),
    ("kite", "dropped", "near-duplicate of a validation image", 0.99),
    ("gull", "kept", "", 0.8),
    ("gull", "dropped", "too near", 0.985),
    ("stone", "kept", "", 0.4),
]


def judged_catalog(path: Path) -> Path:
    """Three categories beside two targets, filtered by thresholds 0.3 and 0.98."""
    images = [(category, jpeg(number)) for number, (category, *_) in enumerate(JUDGED)]
    make_catalog(path, images, {"hawk": ["kite", "stone"], "tern": ["gull"]})
    with Catalog(path) as catalog:
        rows = [(state, reason, near, 1, number) for number, (_, state, reason, near) in enumerate(JUDGED, 1)]
        catalog.judge_images(rows)
        catalog.remember_json("filter", {"gamma1": 0.3, "gamma2": 0.98})
        catalog.mark_categories({category["id"]: "in no taxonomy" for category in catalog.categories()[1:2]})
    return path


@pytest.fixture
def judged(tmp_path: Path) -> Path:
    return judged_catalog(tmp_path / "c.sqlite")


@pytest.fixture
def served() -> Iterator[Callable[..., str]]:
    """Starts `fastlt review` with some words; returns the page's address."""
    running = []

    def start(*words: object) -> str:
        command = [sys.executable, "-m", "fastlt", "review", *map(str, words)]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=with_support() | os.environ
        )
        running.append(process)
        line = process.stdout.readline().strip()
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/[\w-]{32}/", line), line + process.stdout.read()
        return line

    yield start
    for process in running:
        process.terminate()
        process.wait(20)


@pytest.fixture(scope="module")
def browser():
    if not CHROMIUM:
        pytest.skip("no Chromium here")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as started:
        rules = "--host-resolver-rules=MAP evil.test 127.0.0.1"  # as a name server may have it
        opened = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", rules])
        yield opened
        opened.close()


@pytest.fixture
def page(browser):
    """A tab that fails the test for what its console says is wrong."""
    context = browser.new_context()
    opened = context.new_page()
    opened.set_default_timeout(30_000)
    errors: list[str] = []
    opened.on("pageerror", lambda error: errors.append(str(error)))
    opened.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    opened.errors = errors
    yield opened
    context.close()
    assert not [error for error in errors if "Failed to load resource" not in error], errors  # refusals are 400
