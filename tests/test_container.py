"""The Dockerfile, built in a bare Debian root: what it installs is all that a training needs."""

import json
import re

import pytest

from support.container import Container, why_there_is_none
from support.paths import ROOT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(why_there_is_none()), reason=why_there_is_none()),
]


def test_its_image_trains(tmp_path):
    container = Container(tmp_path / "root", ROOT, {})
    said = container.run(*container.cmd)
    assert re.search(r"^ok +loader, ffcv ", said, re.M), said
    assert re.search(r"^ok +training ", said, re.M), said
    container.run("fastlt", "draw", "species")
    container.run("fastlt", "encode", "encoded", "--train", "species/train", "--val", "species/val")
    container.run("fastlt", "train", "demo/species", "data.path=encoded", "output=run", "optimizer.epochs=1")
    log = (tmp_path / "root/work/run/log.jsonl").read_text().splitlines()
    assert any(json.loads(line)["kind"] == "eval" for line in log)
