"""`fastlt discover --synonyms`: each category is asked about once, and what is no name of it alone is left out."""

import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytest.importorskip("openai")
from fastlt.cli import main
from fastlt.data_prep.catalog import Catalog
from fastlt.data_prep.crawl.captions.add import add_captioned
from fastlt.data_prep.crawl.captions.files import AskedOfCaptions
from support.llm_server import Question, Reply, completion, error, names

SAID = {
    "mako": ["Isurus oxyrinchus", "isurus  Oxyrinchus", "makos", "Great White", "Blue Pointer", "x " * 9],
    "porbeagle": ["Lamna nasus", "blue pointers", "mako", "salmon shark."],
}


def asked_about(question: Question) -> str:
    """The category that a question is about, "" where it asks for categories."""
    said = [m["content"] for m in question.request["messages"] if m["role"] == "user"]
    asked = re.findall("Category: (.*)", "\n".join(said))
    return asked[-1] if asked else ""


@pytest.fixture
def desk(desk):
    desk.classes("great white\t500\n")

    def answer(question: Question) -> Reply:
        about = asked_about(question)
        return names(*SAID[about]) if about else names(*SAID, "salmon shark")

    SAID["salmon shark"] = []
    desk.server.answer = answer
    return desk


def test_other_names_are_of_one_category_alone_and_captions_are_searched_by_them(desk):
    planned = desk.discover("--synonyms", "--plan", "--price", "1", "1")
    assert re.search(r"other names of each category +3 ", planned.out)
    done = desk.discover("--synonyms")
    assert done.code == 0, done.err
    for line in (
        "2 other names of 2 categories; 3 questions asked, 0 answered from the catalog; 480 tokens in all",
        "left out: 1 other names that are target classes",
        "left out: 1 other names of more than 8 words",
        "left out: 2 other names that are other categories",
        "left out: 2 other names of several categories",
    ):
        assert line in done.out
    assert desk.discover("--synonyms", "--plan").out == "nothing is to be asked: all 1 classes have been.\n"
    desk.server.answer = lambda question: error(500)
    again = desk.discover("--synonyms")
    assert "0 questions asked, 3 answered from the catalog" in again.out
    with Catalog(desk.folder / "c.db") as catalog:
        titles = {row["title"]: row["id"] for row in catalog.categories()}
        mako, porbeagle = titles["mako"], titles["porbeagle"]
        assert catalog.synonyms() == {mako: ["Isurus oxyrinchus"], porbeagle: ["Lamna nasus"]}
        texts = ["Lamna nasus at sea", "an ISURUS OXYRINCHUS", "two makos", "blue pointer"]
        table = pa.table({"url": [f"http://a.example/{i}.jpg" for i in range(4)], "text": texts})
        pq.write_table(table, desk.folder / "captions.parquet")
        add_captioned(catalog, str(desk.folder / "captions.parquet"), AskedOfCaptions(), 9)
        assert catalog.candidates_by_category() == {porbeagle: 1, mako: 2}


def test_an_endpoint_that_fails_leaves_what_it_said(desk):
    oblige = desk.server.answer
    desk.server.answer = lambda question: error(401, "no") if asked_about(question) == "porbeagle" else oblige(question)
    said = desk.refusal("--synonyms", "--concurrency", 1)
    assert "refuses the key" in said
    assert "2 of 3 categories were not asked about" in said
    assert desk.rows("SELECT synonyms FROM category WHERE title = 'mako'") == [
        ('["Isurus oxyrinchus", "Blue Pointer"]',)
    ]
    desk.server.answer = oblige
    assert "2 questions asked, 1 answered from the catalog" in desk.discover("--synonyms").out


def test_answers_that_cannot_be_read_are_said_and_asked_again(desk):
    oblige = desk.server.answer
    desk.server.answer = lambda q: completion("I would rather not.") if asked_about(q) == "mako" else oblige(q)
    done = desk.discover("--synonyms")
    assert done.code == 0
    assert "warning: 3 of 5 answers could not be used" in done.out
    desk.server.answer = oblige
    assert "1 questions asked, 2 answered from the catalog" in desk.discover("--synonyms").out


def test_synonyms_want_a_model(desk, capsys):
    words = ["discover", str(desk.folder / "c.db"), "--classes", str(desk.folder / "classes.txt")]
    assert main([*words, "--taxonomy", "x", "--synonyms"]) == 1
    assert "--synonyms are asked of a language model" in capsys.readouterr().err
