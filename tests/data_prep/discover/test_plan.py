"""`fastlt discover --plan`: asks nobody, writes nothing, and is no less than what is asked then."""

import re

import pytest

from fastlt.cli import main
from fastlt.data_prep.discover.options import DiscoverOptions, EndpointOptions
from fastlt.data_prep.discover.plan import plan
from fastlt.data_prep.discover.prompt import DEFAULT_PROMPT, Prompt
from fastlt.data_prep.inputs.class_lists import TargetClass


def numbers(text: str, begins: str) -> list[float]:
    line = next(line for line in text.splitlines() if line.startswith(begins))
    return [float(word.replace(",", "")) for word in re.findall(r"[\d,.]+", line.removeprefix(begins))]


def test_the_plan_is_no_less_than_what_comes(desk, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    planned = desk.discover("--plan", "--price", "2", "10")
    assert planned.code == 0
    assert planned.err == ""
    assert not (desk.folder / "c.db").exists()
    assert desk.server.asked == []
    assert planned.out.startswith("3 of 3 classes are to be asked about, which lack 16 categories")
    questions, asked, answered, cost = numbers(planned.out, "one question a class")
    assert questions == 3
    assert cost == round((2 * asked + 10 * answered) / 1e6, 4)
    most = numbers(planned.out, "at most: 4 rounds of 3 tries")
    assert most[0] == 36
    assert most[1] > 12 * asked
    done = desk.discover()
    assert done.code == 0
    ((sent, said),) = desk.rows("SELECT sum(prompt_tokens), sum(completion_tokens) FROM answer")
    assert sent <= most[1]
    assert said <= most[2]
    again = desk.discover("--plan")
    assert again.out == "nothing is to be asked: all 3 classes have been.\n"
    more = desk.discover("--plan", "--categories", "20")
    assert more.out.startswith("3 of 3 classes are to be asked about, which lack ")
    assert "give --price IN OUT" in more.out
    assert desk.rows("SELECT count(*) FROM target") == [(3,)]


def test_what_a_plan_counts_is_what_a_question_has():
    prompt = Prompt.read(DEFAULT_PROMPT)
    values = {"title": "Müller's shark", "synonyms": "x, y", "number": "3", "known": "none", "targets": "a, b"}
    counted, sent = prompt.num_bytes(values), sum(len(m["content"].encode()) for m in prompt.messages(**values))
    assert sent <= counted <= sent + 300  # names of placeholders are counted too


def test_a_limit_of_an_answer_bounds_the_cost():
    classes = [TargetClass(f"c{i}", f"class {i}", (), 5) for i in range(24_000)]
    endpoint = EndpointOptions(model="m", base_url="http://localhost:1/v1", max_tokens=1000, max_tokens_total=5_000_000)
    text = plan(None, classes, endpoint, DiscoverOptions(), (1.0, 1.0))
    most = numbers(text, "at most: 4 rounds of 3 tries")
    assert most[0] == 24_000 * 12
    assert most[2] == 24_000 * 12 * 1000
    assert most[3] == pytest.approx((most[1] + most[2]) / 1e6)
    assert "--max-tokens-total stops at 5,000,000 tokens" in text
    assert len(text.splitlines()) < 10


def test_a_plan_wants_no_key(desk, monkeypatch, capsys):
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    words = ["discover", str(desk.folder / "c.db"), "--classes", str(desk.folder / "classes.txt"), "--model", "m"]
    assert main([*words, "--plan"]) == 0
    assert main(words) == 1
    assert "there is no one to ask" in capsys.readouterr().err


def test_prices_without_a_plan(desk):
    assert "--price belongs to --plan" in desk.refusal("--price", "1", "2")
    assert "two amounts of money" in desk.refusal("--plan", "--price", "1", "-2")
