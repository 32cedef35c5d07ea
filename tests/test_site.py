"""`make docs`: the site is built with no warning, of all pages, and fetches nothing from anywhere else."""

import re
import subprocess
import sys

import pytest

from support.paths import ROOT

pytest.importorskip("mkdocstrings")
pytestmark = pytest.mark.medium


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_it_has_the_api_and_what_is_made_of_the_code(site):
    assert "never C x C" in (site / "api" / "kernels.html").read_text()
    assert "optimizer.blr" in (site / "api" / "recipe_keys.html").read_text()
    assert "fastlt granularity" in (site / "api" / "commands.html").read_text()
    assert "category extrapolation" in (site / "index.html").read_text()


def test_it_fetches_nothing_from_elsewhere(site):
    for page in site.rglob("*.html"):
        fetched = re.findall(r"<(?:script|img|iframe|source)[^>]+src=[\"']?(https?:)?//", page.read_text())
        fetched += re.findall(r"<link[^>]+rel=[\"']?(?:stylesheet|preconnect)[^>]+https?://", page.read_text())
        assert not fetched, page


def test_comments_for_tests_are_not_shown(site):
    assert "not run:" not in (site / "start.html").read_text()
