"""`fastlt discover` against a server that fails, hangs or counts tokens, and killed while it waits for one."""

from __future__ import annotations

import os
import signal
import string
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

pytest.importorskip("openai")
from support.llm_server import Reply, error, names, obliging

pytestmark = pytest.mark.medium

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
    done = desk.discover("--concurrency", 4, "--attempts", 1)  # tries are for failures, of which this is none
    assert done.code == 0, done.err
    assert 1 <= len(early) <= 4
    assert len(desk.server.answered) == 12


def test_a_server_that_wants_to_be_left_alone_for_too_long(desk):
    desk.server.answer = lambda q: obliging(q) if q.title == "shark" else error(429, "not today", retry_after="86400")
    said = desk.refusal("--concurrency", 1, "--max-wait", 3600)
    assert "limits our rate and asks for a wait of 86,400 s (429: " in said
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
    assert "class 'shark' got no answer (500: " in desk.refusal("--attempts", 2)
    assert [state for _, state, _ in desk.states()] == ["open", "done", "done"]
    asked = len(desk.server.asked)
    desk.server.answer = obliging
    assert desk.discover().code == 0
    assert [question.title for question in desk.server.asked[asked:]] == ["shark"]
    assert desk.states()[0] == ("shark", "done", "")


def test_a_server_that_fails_at_everything_is_given_up(desk):
    desk.classes("".join(f"class {i}\t500\n" for i in range(50)))
    desk.server.answer = lambda question: error(500, "boom")
    assert "failed at 3 questions in a row (500: " in desk.refusal("--attempts", 1, "--concurrency", 1)
    assert len(desk.server.asked) == 3
    assert len(desk.rows("SELECT id FROM target WHERE state = 'open'")) == 50


def test_a_server_that_hangs(desk):
    def answer(question):
        desk.server.hang()
        return error(500)

    desk.server.answer = answer
    assert "got no answer" in desk.refusal("--timeout", 1, "--attempts", 1, "--concurrency", 2, "--categories", 0, 0, 1)


def test_no_server_at_all(desk):
    assert "http://127.0.0.1:9/v1/ cannot be reached" in desk.refusal("--base-url", "http://127.0.0.1:9/v1")


def test_questions_are_asked_at_the_same_time(desk):
    """Three are answered only once three are there."""
    barrier = threading.Barrier(3)

    def answer(question):
        barrier.wait(timeout=20)
        return obliging(question)

    desk.server.answer = answer
    assert desk.discover("--concurrency", 3, "--attempts", 1).code == 0


# What it may cost


def test_the_limit_of_tokens_holds_over_runs(desk):
    desk.classes("".join(f"class {i}\t500\n" for i in range(10)))
    desk.server.answer = lambda q: names(*(f"{q.title} {k}" for k in "abc"), tokens=(600, 400))
    limit = ["--concurrency", 3, "--max-tokens-total", 7000]
    said = desk.refusal(*limit)
    assert "the limit of 7,000 tokens is reached" in said
    assert "higher --max-tokens-total continues" in said
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


@pytest.mark.slow
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
