"""docs/security.md: no promise without a test, and each of these is there."""

import re

import pytest

from support.paths import ROOT

PAGE = (ROOT / "docs" / "security.md").read_text()
PROMISES = re.findall(r"^- .*(?:\n  .*)*", PAGE.split("## Promised")[1].split("## Not promised")[0], re.MULTILINE)


@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise[2:50].replace("\n", ""))
def test_a_promise_has_its_tests(promise):
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", promise)
    assert named, "this promise names no test"
    assert promise.count("::") == len(named)
    for file, name in named:
        assert re.search(rf"^(?:async )?def {name}\(", (ROOT / "tests" / file).read_text(), re.MULTILINE), name


def test_promises_are_found():
    assert len(PROMISES) > 15
