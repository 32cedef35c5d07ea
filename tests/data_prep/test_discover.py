"""`fastlt discover` against a real server that answers well, badly, slowly or not at all."""

from __future__ import annotations

import json
import os
import signal
import string
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from fastlt.data_prep.catalog import Catalog
from fastlt.data_prep.discover import Categories
from fastlt.data_prep.discover_prompt import DEFAULT_PROMPT, Prompt
from fastlt.data_prep.llm import read_json

from fastlt.cli import main

pytest.importorskip("openai")
sys.path.insert(0, str(Path(__file__).parent))
from llm_server import LlmServer, Reply, completion, error, names, obliging


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


def test_fewer_images_more_categories_and_nothing_is_asked_twice(desk):
    done = desk.discover("--neighbors-out", desk.folder / "neighbors.json")
    assert done.code == 0, done.err
    assert done.err == ""  # no progress bar where nobody looks
    assert "3 target classes, 16 auxiliary categories, 16 neighbor pairs" in done.out
    assert "3 questions asked, 0 answered from the catalog; 360 tokens in all" in done.out
    assert desk.states() == [(name, "done", "") for name in ("shark", "cello", "grey_owl")]
    neighbors = desk.neighbors()
    assert {name: len(found) for name, found in neighbors.items()} == {"shark": 3, "cello": 5, "grey_owl": 8}
    assert neighbors["grey_owl"][0] == "grey_owl_cousin_0"
    assert desk.rows("SELECT title FROM category WHERE name = 'grey_owl_cousin_0'") == [("grey owl cousin 0",)]
    assert json.loads((desk.folder / "neighbors.json").read_text()) == neighbors
    asked = {question.title: question.number for question in desk.server.asked}
    assert asked == {"shark": 3, "cello": 5, "grey owl": 8}

    desk.server.answer = lambda question: error(500)
    again = desk.discover()
    assert again.code == 0
    assert len(desk.server.asked) == 3
    assert desk.neighbors() == neighbors


def test_answers_are_found_by_what_was_asked_wherever_the_server_is(desk):
    """The rows of a killed stage may be behind the answers: without them, all is read from the answers again."""
    desk.discover()
    neighbors = desk.neighbors()
    with Catalog(desk.folder / "c.db") as catalog, catalog.transaction() as sql:
        for table in ("neighbor", "category", "target", "setting"):
            sql.execute(f"DELETE FROM {table}")
    other = LlmServer()
    try:
        done = desk.discover("--base-url", other.url)
    finally:
        other.close()
    assert done.code == 0, done.err
    assert other.asked == []
    assert "0 questions asked, 3 answered from the catalog; 360 tokens" in done.out
    assert desk.neighbors() == neighbors


def test_what_the_model_is_sent(desk, monkeypatch):
    monkeypatch.setenv("MY_KEY", "secret")
    desk.classes("tench, Tinca tinca\t5\n")
    desk.discover("--key-env", "MY_KEY")
    request = desk.server.asked[0].request
    assert [m["role"] for m in request["messages"]] == ["system", *["user", "assistant"] * 3, "user"]
    assert desk.server.asked[0].title == "tench"
    assert "Also called: Tinca tinca\n" in desk.server.asked[0].last
    assert request["response_format"]["json_schema"]["schema"]["additionalProperties"] is False
    assert desk.server.headers["authorization"] == "Bearer secret"
    for message in request["messages"][2:-1:2]:  # the examples obey the schema
        assert read_json(message["content"], Categories)


def test_categories_that_are_target_classes_are_rejected_whatever_they_are_called(desk):
    desk.classes("tench, Tinca tinca\t500\ngreat_white_shark\t500\n")
    answers = {
        "tench": ["Tenches", "tinca  TINCA", "Doctor Fish (Tinca tinca)", "Great White-Sharks", "the carp", "rudd"],
        "great white shark": [
            "mako shark",
            "mako sharks",
            "Great white shark",
            "tiger shark",
            "blue shark",
            "lemon shark",
        ],
    }
    told = []

    def answer(question):
        told.append(question.known)
        return names("crucian carp", "bream") if "rudd" in question.known else names(*answers[question.title])

    desk.server.answer = answer
    assert desk.discover("--concurrency", 1).code == 0
    assert desk.neighbors() == {
        "tench, Tinca tinca": ["crucian_carp", "rudd", "the_carp"],
        "great_white_shark": ["blue_shark", "mako_shark", "tiger_shark"],
    }
    assert desk.rows("SELECT title, reason FROM category WHERE state = 'rejected' ORDER BY id") == [
        ("Tenches", "is the target class 'tench'"),
        ("tinca TINCA", "is the target class 'tench'"),
        ("Doctor Fish", "is the target class 'tench'"),
        ("Great White-Sharks", "is the target class 'great white shark'"),
    ]
    # The second question about the tench tells what it has and what was no good.
    assert told[1] == ["rudd", "the carp", "Tenches", "tinca TINCA", "Doctor Fish", "Great White-Sharks"]


def test_a_category_of_several_targets_is_one(desk):
    desk.classes("violin\t500\nviola\t500\n")
    spellings = {"violin": ["Viola da Gamba", "baryton", "fiddle"], "viola": ["viola-da-gamba", "Barytons", "rebec"]}
    desk.server.answer = lambda question: names(*spellings[question.title])
    assert desk.discover("--concurrency", 1).code == 0
    assert desk.neighbors() == {
        "violin": ["baryton", "fiddle", "viola_da_gamba"],
        "viola": ["baryton", "rebec", "viola_da_gamba"],
    }
    assert desk.rows("SELECT count(*) FROM category") == [(4,)]


def test_asks_again_while_a_class_lacks_categories_then_stops_and_says_so(desk):
    desk.classes("shark\t5\ncello\t5\nowl\t5\n")

    def answer(question):
        if question.title == "shark":  # one at a time
            return names(f"ray {len(question.known)}")
        return names("viola", "rebec") if question.title == "cello" else names("owl")

    desk.server.answer = answer
    done = desk.discover("--rounds", 3)
    assert done.code == 0
    assert "(3 short of what was wanted)" in done.out
    assert "1 of 3 target classes have NO category: owl" in done.err
    assert desk.states() == [
        ("shark", "short", "limit of 3 rounds"),
        ("cello", "short", "a round brought nothing new"),
        ("owl", "short", "a round brought nothing new"),
    ]
    number_asked = len(desk.server.asked)
    assert number_asked == 3 + 2 + 2
    assert desk.discover("--rounds", 3).code == 0
    assert len(desk.server.asked) == number_asked

    # Other options: goes on from what there is, and asks only what was not answered yet.
    assert desk.discover("--rounds", 5).code == 0
    assert [(q.title, q.number, len(q.known)) for q in desk.server.asked[number_asked:]] == [
        ("shark", 8 - have, have) for have in range(3, 8)
    ]
    assert desk.states()[0] == ("shark", "done", "")


def test_more_categories_wanted_later(desk):
    desk.discover("--categories", "2")
    asked = len(desk.server.asked)
    assert desk.discover("--categories", "2,2,4").code == 0
    assert [(q.title, q.number, len(q.known)) for q in desk.server.asked[asked:]] == [("grey owl", 2, 2)]
    assert len(desk.neighbors()["grey_owl"]) == 4


def test_a_category_rejected_by_hand_stays_rejected_and_is_replaced(desk):
    desk.classes("shark\t500\n")
    desk.discover()
    with Catalog(desk.folder / "c.db") as catalog:
        catalog.connection.execute("UPDATE category SET state = 'rejected' WHERE name = 'shark_cousin_1'")
    desk.server.answer = lambda question: names("shark cousin 1", "ray")
    assert desk.discover().code == 0
    assert desk.server.asked[-1].known == ["shark cousin 0", "shark cousin 1", "shark cousin 2"]
    assert desk.neighbors() == {"shark": ["ray", "shark_cousin_0", "shark_cousin_2"]}


def test_classes_that_come_and_go(desk):
    desk.classes("shark\t500\n")
    desk.discover()
    desk.classes("shark\t500\nShark Cousin 1\t500\n")
    assert desk.discover().code == 0
    found = desk.neighbors()
    assert "shark_cousin_1" not in found["shark"]
    assert [len(categories) for categories in found.values()] == [3, 3]
    reason = desk.rows("SELECT reason FROM category WHERE name = 'shark_cousin_1'")
    assert reason == [("is the target class 'Shark Cousin 1'",)]
    desk.classes("cello\t500\n")
    assert "has target class 'shark', which the class list lacks" in desk.refusal()
    assert desk.neighbors() == found


def test_nothing_for_anyone_is_an_error(desk):
    desk.server.answer = lambda question: names()
    assert "no target class has any category after 3 answers" in desk.refusal()
    desk.server.answer = lambda question: completion("I would rather talk about the weather.")
    assert "no target class has any category after 9 answers" in desk.refusal(catalog="prose.db")


# What a model says


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ('{"categories": ["a", "b"]}', ["a", "b"]),
        ('Sure! Here they are:\n```json\n{"categories": ["a"]}\n```\nAnything else?', ["a"]),
        ('<think>{"categories": ["no"]} [hm</think>{"categories": ["a"], "note": "x"}', ["a"]),
        ('["a", "b"]', ["a", "b"]),
        ('{"categories": [{"name": "a", "why": "alike"}]}', ["a"]),
        ('For example {"categories": ["no"]}. So: {"categories": ["a"]} [1]', ["a"]),
        ('{"categories": []}', []),
        ('{"categories": ["a", "b', None),
        ('{"categories": [1, 2]}', None),
        ("a\nb\nc", None),
        ("[" * 100_000, None),
        ("", None),
    ],
)
def test_answers_with_and_without_a_schema(said, found):
    answer = read_json(said, Categories)
    assert (answer.categories if answer else None) == found


@pytest.mark.parametrize("bad", ['{"categories": ["ray", "sk', "Rays, skates and guitarfish!", "", "\ud800 {"])
def test_a_model_that_answers_no_json_is_told_so(desk, bad):
    desk.classes("shark\t500\n")
    desk.server.answer = lambda q: obliging(q) if q.last.startswith("That was not") else completion(bad)
    assert desk.discover().code == 0
    assert [len(question.request["messages"]) for question in desk.server.asked] == [8, 10]
    assert len(desk.neighbors()["shark"]) == 3


def test_a_model_that_never_answers_json_leaves_its_class_short(desk):
    desk.server.answer = lambda q: completion("prose") if q.title == "cello" else obliging(q)
    done = desk.discover()
    assert done.code == 0
    assert "1 of 3 target classes have NO category: cello" in done.err
    assert desk.states()[1] == ("cello", "short", "the model answers no JSON of the form asked for")
    asked = len(desk.server.asked)
    assert desk.discover().code == 0
    assert len(desk.server.asked) == asked
    desk.server.answer = obliging
    assert desk.discover("--model", "better").code == 0
    assert desk.states()[1] == ("cello", "done", "")


def test_odd_names_neither_break_anything_nor_become_categories(desk):
    desk.classes("shark\t5\n")
    sentence = "a ray which is the kind of fish that many people take for one"
    odd = ["", "...", "  ", "\ud83d", "1. sawfish", "'guitarfish'", "Mönchs_rochen", sentence, "魚\x00", "a/b/../c"]
    desk.server.answer = lambda question: completion(json.dumps({"categories": odd}))
    assert desk.discover("--rounds", 1).code == 0
    assert desk.neighbors() == {"shark": ["a_b_c", "guitarfish", "monchs_rochen", "sawfish", "魚"]}
    assert desk.rows("SELECT reason FROM category WHERE state = 'rejected'") == [("is no name: more than 8 words",)]


# What a server does


def test_a_server_without_schemas(desk):
    def answer(question):
        kind = question.request.get("response_format", {"type": "text"})["type"]
        return error(400, f"response_format {kind} is not supported") if kind != "text" else obliging(question)

    desk.server.answer = answer
    assert desk.discover("--concurrency", 1).code == 0
    kinds = [question.request.get("response_format", {}).get("type") for question in desk.server.asked]
    assert kinds == ["json_schema", "json_object", None, None, None]


def test_a_server_that_refuses_one_question(desk):
    desk.server.answer = lambda q: error(400, "the filter says no") if q.title == "cello" else obliging(q)
    said = desk.refusal("--concurrency", 1)
    assert "class 'cello' got no answer (400: Error code: 400" in said
    assert "1 of 3 target classes are not finished" in said
    assert [state for _, state, _ in desk.states()] == ["done", "open", "done"]
    formats = [q.request["response_format"]["type"] for q in desk.server.asked if q.title == "cello"]
    assert formats == ["json_schema"]  # which the server is known to have


def test_too_many_requests_are_waited_out_by_all(desk):
    """Until the second that the server asked for is over, nobody who was told comes again, and nobody else."""
    desk.classes("".join(f"class {i}\t500\n" for i in range(12)))
    lock, first, early = threading.Lock(), [], []

    def answer(question):
        with lock:
            now = time.monotonic()
            first.append(now)
            if now < first[0] + 1.0:
                early.append(question)
                return error(429, "slow down", retry_after="1")
        return obliging(question)

    desk.server.answer = answer
    done = desk.discover("--concurrency", 4, "--tries", 1)  # tries are for failures, of which this is none
    assert done.code == 0, done.err
    assert 1 <= len(early) <= 4
    assert len(desk.server.answered) == 12


def test_a_server_that_wants_to_be_left_alone_for_too_long(desk):
    desk.server.answer = lambda q: obliging(q) if q.title == "shark" else error(429, "not today", retry_after="86400")
    said = desk.refusal("--concurrency", 1, "--max-wait", 3600)
    assert "is asked too much and wants 86,400 s of peace (429: " in said
    assert "2 of 3 target classes are not finished" in said
    assert len(desk.server.asked) == 2
    assert len(desk.neighbors()["shark"]) == 3


@pytest.mark.parametrize(
    ("reply", "sentence"),
    [
        (error(401, "bad key"), "refuses the key (401"),
        (error(404, "no such model"), "knows no model 'm' or no chat"),
        (error(429, "no money", code="insufficient_quota"), "is out of credit"),
    ],
)
def test_errors_that_will_not_pass_stop_everything(desk, reply, sentence):
    desk.server.answer = lambda question: reply
    assert sentence in desk.refusal("--concurrency", 1)
    assert len(desk.server.asked) == 1


@pytest.mark.parametrize(
    "bad",
    [
        error(500),
        error(503, retry_after_ms="50"),
        Reply(b'{"id": "1", "choices": [{"index": 0, "mess'),
        Reply(b"<html>the proxy is tired</html>", headers={"content-type": "text/html"}),
        Reply({"choices": []}),
        Reply({"choices": None, "error": "overloaded"}),
        Reply(b"{}", headers={"content-length": "1000", "connection": "close"}),
    ],
    ids=["500", "503", "half", "html", "no-choice", "null", "cut"],
)
def test_failures_that_pass(desk, bad):
    desk.classes("shark\t500\n")
    replies = [bad]
    desk.server.answer = lambda question: replies.pop() if replies else obliging(question)
    done = desk.discover()
    assert done.code == 0, done.err
    assert len(desk.server.asked) == 2
    assert len(desk.neighbors()["shark"]) == 3


def test_one_question_that_always_fails_stops_nobody_else(desk):
    desk.server.answer = lambda q: error(500, "boom") if q.title == "shark" else obliging(q)
    assert "class 'shark' got no answer (500: " in desk.refusal("--tries", 2)
    assert [state for _, state, _ in desk.states()] == ["open", "done", "done"]
    asked = len(desk.server.asked)
    desk.server.answer = obliging
    assert desk.discover().code == 0
    assert [question.title for question in desk.server.asked[asked:]] == ["shark"]
    assert desk.states()[0] == ("shark", "done", "")


def test_a_server_that_fails_at_everything_is_given_up(desk):
    desk.classes("".join(f"class {i}\t500\n" for i in range(50)))
    desk.server.answer = lambda question: error(500, "boom")
    assert "failed at 3 questions in a row (500: " in desk.refusal("--tries", 1, "--concurrency", 1)
    assert len(desk.server.asked) == 3
    assert len(desk.rows("SELECT id FROM target WHERE state = 'open'")) == 50


def test_a_server_that_hangs(desk):
    def answer(question):
        desk.server.hang()
        return error(500)

    desk.server.answer = answer
    assert "got no answer" in desk.refusal("--timeout", 1, "--tries", 1, "--concurrency", 2, "--categories", "0,0,1")


def test_no_server_at_all(desk):
    assert "http://127.0.0.1:9/v1/ cannot be reached" in desk.refusal("--base-url", "http://127.0.0.1:9/v1")


def test_questions_are_asked_at_the_same_time(desk):
    """Three are answered only once three are there."""
    barrier = threading.Barrier(3)

    def answer(question):
        barrier.wait(timeout=20)
        return obliging(question)

    desk.server.answer = answer
    assert desk.discover("--concurrency", 3, "--tries", 1).code == 0


# What it may cost


def test_the_limit_of_tokens_holds_over_runs(desk):
    desk.classes("".join(f"class {i}\t500\n" for i in range(10)))
    desk.server.answer = lambda q: names(*(f"{q.title} {k}" for k in "abc"), tokens=(600, 400))
    limit = ["--concurrency", 3, "--max-tokens-total", 7000]
    said = desk.refusal(*limit)
    assert "the limit of 7,000 tokens is reached" in said
    assert "higher --max-tokens-total goes on" in said
    (used,) = desk.rows("SELECT sum(prompt_tokens + completion_tokens) FROM answer")[0]
    assert 3000 <= used <= 7000
    answered = len(desk.server.answered)
    assert len(desk.neighbors()) == answered == used // 1000
    desk.refusal(*limit[:2], "--max-tokens-total", used)
    assert len(desk.server.asked) == answered
    assert desk.discover("--max-tokens-total", 100_000).code == 0
    assert len(desk.server.asked) == 10


def test_tokens_are_estimated_where_the_server_does_not_tell(desk):
    desk.server.answer = lambda q: names("ray", tokens=None)
    assert "limit of 1,500 tokens" in desk.refusal("--concurrency", 1, "--max-tokens-total", 1500)
    assert 1 <= len(desk.server.asked) < 3
    (used,) = desk.rows("SELECT sum(prompt_tokens + completion_tokens) FROM answer")[0]
    assert 500 <= used <= 1500


# Kills


def start(desk, *more: object, catalog: str = "c.db") -> subprocess.Popen:
    command = [str(Path(sys.executable).with_name("fastlt")), *desk.words(*more, catalog=catalog)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OPENAI_")}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_sigkill_at_any_moment(desk):
    """Killed while three questions wait for their answers, thrice: no answered question is asked again."""
    desk.classes("".join(f"{letter}\t5\n" for letter in string.ascii_uppercase[:20]))
    room = threading.Semaphore(0)
    waiting = threading.Semaphore(0)

    def answer(question):
        if not room.acquire(blocking=False):
            waiting.release()
            desk.server.hang()
        some = [f"{question.title} {len(question.known) + i}" for i in range(min(3, question.number))]
        return names(*some, question.title)

    desk.server.answer = answer
    for answers in (1, 9, 17):
        room.release(answers)
        process = start(desk, "--concurrency", 3)
        try:
            for _ in range(3):  # all that came before is in the catalog
                assert waiting.acquire(timeout=60)
            desk_says = desk.refusal()
            assert f"in use: discover (process {process.pid})" in desk_says
        finally:
            process.send_signal(signal.SIGKILL)
            process.communicate()
        assert process.returncode == -signal.SIGKILL
    before = [question.identity for question in desk.server.answered]
    assert len(before) == 1 + 9 + 17
    room.release(1000)
    done = desk.discover()
    assert done.code == 0, done.err
    answered = [question.identity for question in desk.server.answered]
    assert len(answered) == len(set(answered)) == 60
    assert desk.discover(catalog="whole.db").code == 0
    assert desk.neighbors() == desk.neighbors("whole.db")


def test_sigint_leaves_a_catalog_that_goes_on(desk):
    desk.server.answer = lambda q: (
        obliging(q) if q.title == "shark" else (arrived.set(), desk.server.hang(), error(500))[2]
    )
    arrived = threading.Event()
    process = start(desk, "--concurrency", 1)
    assert arrived.wait(timeout=60)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in said
    desk.server.answer = obliging
    asked = len(desk.server.asked)
    assert desk.discover().code == 0
    assert sorted(question.title for question in desk.server.asked[asked:]) == ["cello", "grey owl"]


# What a user gets wrong


def test_nobody_to_ask(desk, monkeypatch):
    words = [word for word in desk.words() if word not in ("--base-url", desk.server.url)]
    assert main(words) == 1
    assert "set OPENAI_API_KEY to the key of a hosted model, or give --base-url" in desk.capsys.readouterr().err
    assert not (desk.folder / "c.db").exists()
    monkeypatch.setenv("OPENAI_BASE_URL", desk.server.url)
    assert main(words) == 0


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--base-url", "localhost:8000"], "is no http URL"),
        (["--categories", "8,5,3"], "must not fall"),
        (["--categories", "0"], "must not fall"),
        (["--categories", "3,5"], "neither one whole number nor three"),
        (["--categories", "3,-5,8"], "neither one whole number nor three"),
        (["--rounds", "0"], "--rounds is 0"),
        (["--concurrency", "0"], "--concurrency is 0"),
        (["--max-tokens-total", "0"], "--max-tokens-total is 0"),
        (["--prompt", "missing.md"], "the prompt missing.md cannot be read"),
        (["--classes", "missing.txt"], "the class list missing.txt cannot be read"),
    ],
)
def test_options_that_make_no_sense(desk, words, sentence):
    assert sentence in desk.refusal(*words)
    assert not (desk.folder / "c.db").exists()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda text: "", "must be an optional # system"),
        (lambda text: text.replace("$title", "$titel"), "has the placeholder $titel; there are $known, $number"),
        (lambda text: text.replace("$number", "many"), "lacks $number in its last section"),
        (lambda text: text.replace("photographs:", "photographs for $5:"), "has a lone $ in its section '# system'"),
        (lambda text: text.replace("\n# assistant", "\n# asistant", 1), "has a section '# asistant'"),
        (lambda text: text.replace("\n# assistant", "\n# user", 1), "in turn"),
        (lambda text: text + "\n# assistant\n{}\n", "with a # user at the end"),
    ],
)
def test_broken_prompts(desk, change, sentence):
    prompt = desk.folder / "prompt.md"
    prompt.write_text(change(DEFAULT_PROMPT.read_text()))
    said = desk.refusal("--prompt", prompt)
    assert f"the prompt {prompt} " in said
    assert sentence in said


def test_a_prompt_of_ones_own(desk):
    prompt = desk.folder / "prompt.md"
    prompt.write_text("# user\n## Task\n$number things like $title for $$1, none of [$targets] or $known.\n")
    assert [m["role"] for m in Prompt.read(prompt).messages(title="a", number=1, targets="b", known="c")] == ["user"]
    desk.server.answer = lambda question: names("a", "b", "c", "d", "e", "f", "g", "h")
    desk.discover("--prompt", prompt, "--concurrency", 1)
    assert desk.server.asked[0].request["messages"] == [
        {"role": "user", "content": "## Task\n3 things like shark for $1, none of [shark, cello, grey owl] or none."}
    ]
