"""What the page is told of what it asked for."""

import os
import re
import resource
import sqlite3
import threading
from pathlib import Path

import pytest

from fastlt.data_prep.catalog import Catalog
from fastlt.data_prep.review.desk import Desk
from fastlt.data_prep.review.pictures import TargetPictures


@pytest.fixture
def desk(judged: Path):
    opened = Desk(judged, TargetPictures(None, None))
    yield opened
    opened.close()


def test_an_added_category_that_is_refused_shows_no_other_one(desk):
    desk.decide({"category": "kite", "verdict": "accept"})
    answer = desk.decide({"verdict": "add", "title": "Hawk", "targets": ["tern"]})
    assert (answer["done"], answer["category"]) == (0, None)
    assert answer["refused"][0] == "hawk: 'Hawk' is the target class 'hawk'"
    assert desk.decide({"verdict": "add", "title": "Red kite", "targets": ["hawk"]})["category"]["title"] == "Red kite"


def test_numbers_of_categories_cost_no_memory(judged):
    """A stranger's catalog may have any; 16 GB would be one of 8 bytes for each number that there could be."""
    with sqlite3.connect(judged) as connection:
        connection.execute("UPDATE category SET id = ? WHERE name = 'gull'", [2**31 - 1])
        for table in ("image", "candidate", "neighbor"):
            connection.execute(f"UPDATE {table} SET category = ? WHERE category = 3", [2**31 - 1])
    connection.close()
    opened = Desk(judged, TargetPictures(None, None))
    before = resource.getrlimit(resource.RLIMIT_AS)
    try:
        now = 1024 * int(re.search(r"VmSize:\s+(\d+)", Path("/proc/self/status").read_text())[1])
        resource.setrlimit(resource.RLIMIT_AS, (now + 2**31, before[1]))
        found = opened.categories({"text": "gull"})["categories"]
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
        opened.close()
    assert [(row["images"], row["taken"], row["similarity"]) for row in found] == [(2, 1, 0.893)]


def test_many_repeats_are_named_by_one_look_at_the_table_of_filter(desk, judged):
    with Catalog(judged) as catalog:
        catalog.judge_images([("dropped", "near-duplicate of a test image", 0.99, 1, 5)])
    report = judged.with_name("c_filter.csv")
    os.mkfifo(report)  # can be read once
    rows = [
        "image,url,category,reason,like,cosine",
        *(f"{n},u,c,near-duplicate of a test image,val/{n}.png,0.99" for n in range(9)),
    ]
    writing = threading.Thread(target=report.write_text, args=("\n".join(rows),), daemon=True)
    writing.start()
    answers: list[dict] = []
    deciding = threading.Thread(target=lambda: answers.append(desk.decide({"images": [4, 1, 5], "verdict": "keep"})))
    deciding.daemon = True
    deciding.start()
    deciding.join(20)
    assert answers, "it waits for a second reading"
    assert [why.rpartition(", ")[2] for why in answers[0]["refused"]] == ["val/4.png", "val/5.png"]
    assert answers[0]["done"] == 1


def test_thresholds_drop_what_lies_on_them_as_the_sliders_count(desk, judged):
    """479 steps of 0.002 are not 0.958 to a computer, by a bit."""
    with Catalog(judged) as catalog:
        catalog.judge_images([("kept", "", 0.958, 1, 1)])
    desk.overview()
    assert desk.set_thresholds(150 * 0.002, 479 * 0.002)["now"] == {"too near": 1}
    with Catalog(judged) as catalog:
        assert catalog.json_setting("filter") == {"gamma1": 0.3, "gamma2": 0.958}
