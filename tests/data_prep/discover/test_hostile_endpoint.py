"""An endpoint that may be anybody's: answers without end or sense, packed and redirected ones, echoes of the key."""

from __future__ import annotations

import base64
import gzip
import html
import itertools
import json
import socket
import threading
from contextlib import suppress

import pytest

from fastlt.cli import main
from fastlt.data_prep.catalog import Catalog

pytest.importorskip("openai")
from support.llm_server import LlmServer, Reply, completion, error, names, obliging

KEY = "sk-live-51'Zq\\9876/&<x"
FEW = ["--concurrency", 1, "--attempts", 1]


def printed_by_status(desk, *more: str) -> str:
    assert main(["status", str(desk.folder / "c.db"), *more]) == 0
    return desk.capsys.readouterr().out


def everything_kept(desk) -> bytes:
    return b"".join(file.read_bytes() for file in desk.folder.glob("c.db*"))


# Answers that do not end


@pytest.mark.parametrize("status", [200, 500])
def test_an_answer_without_end_costs_one_question_and_is_cut_off_after_a_few_megabytes(desk, status):
    def answer(question):
        if question.title != "cello":
            return obliging(question)
        start = b'{"choices": [{"message": {"content": "'
        return Reply(itertools.chain([start], itertools.repeat(b"a" * 2**16, 4000)), status)

    desk.server.answer = answer
    said = desk.refusal("--concurrency", 1)
    assert "class 'cello' got no answer (the answer of 127.0.0.1:" in said
    assert "is longer than 4,194,304 bytes" in said
    assert [state for _, state, _ in desk.states()] == ["done", "open", "done"]
    assert [question.title for question in desk.server.asked].count("cello") == 1
    assert desk.server.sent < 64 * 2**20  # what the sockets of both sides hold, and far from the 250 MB


def test_an_answer_that_drips_for_ever_ends_with_the_timeout(desk):
    def drops():
        yield b'{"choices": ['
        while not desk.server.closing.wait(0.2):
            yield b" "

    desk.server.answer = lambda q: Reply(drops()) if q.title == "cello" else obliging(q)
    assert "class 'cello' got no answer (Request timed out.)" in desk.refusal(*FEW, "--timeout", 2)
    assert [state for _, state, _ in desk.states()] == ["done", "open", "done"]


# Answers that are not read


@pytest.mark.parametrize("encoding", ["gzip", "br", "\x1b[31mdeflate"])
@pytest.mark.parametrize("status", [200, 400])
def test_a_packed_answer_is_not_unpacked(desk, encoding, status):
    """One of 20 kB that unpacks to twenty megabytes."""
    packed = gzip.compress(json.dumps(completion(" " * 2 * 10**7).body).encode())
    desk.server.answer = lambda question: Reply(packed, status, {"content-encoding": encoding})
    said = desk.refusal("--concurrency", 1)
    assert "sends its answers packed (" in said
    assert "\x1b" not in said
    assert len(desk.server.asked) == 1
    assert desk.server.headers["accept-encoding"] == "identity"


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_not_followed(desk, status):
    other = LlmServer()
    try:
        place = f"{other.url}/chat/completions?token=secret-of-theirs"
        desk.server.answer = lambda question: Reply(b"", status, {"location": place})
        said = desk.refusal("--concurrency", 1)
        assert f"redirects to {other.url.split('/')[2]}, and no prompt is sent on" in said
        assert "secret-of-theirs" not in said
        assert other.asked == []
        assert len(desk.server.asked) == 1
    finally:
        other.close()


# Answers without sense


def deep(depth: int) -> str:
    return "[" * depth + "]" * depth


@pytest.mark.parametrize(
    "body",
    [
        deep(100_000).encode(),
        b'{"choices": ' + deep(100_000).encode() + b"}",
        b'{"choices": [{"message": {"content": ' + b'{"a":' * 900 + b"1" + b"}" * 900 + b"}}]}",
        b'{"choices": [{"message": {"tool_calls": [{"function": {"arguments": ' + deep(900).encode() + b"}}]}}]}",
        b'{"error": ' + deep(900).encode() + b"}",
        b"[" + b"{}," * 1_300_000 + b"{}]",
        b'{"choices": [' + b"9" * 5000 + b"]}",
        b"\xff\xfe\x00" * 1000,
        b"\x80" * 100_000,
        b"",
    ],
    ids=["deep", "deep-choices", "deep-content", "deep-call", "deep-error", "many", "digits", "utf-16", "no-text", ""],
)
@pytest.mark.parametrize("status", [200, 400, 500])
def test_a_body_without_sense_costs_one_question(desk, body, status):
    headers = {"content-type": "application/json; charset=zlib_codec"}
    desk.server.answer = lambda q: Reply(body, status, headers) if q.title == "cello" else obliging(q)
    said = desk.refusal(*FEW)
    assert "class 'cello' got no answer (" in said
    assert len(said) < 1000
    assert said[:-1].isprintable()
    assert [state for _, state, _ in desk.states()] == ["done", "open", "done"]


@pytest.mark.parametrize(
    "tokens", [10**25, -(10**25), "1e400", "many", 1e300, float("nan"), float("-inf"), [1], None, True]
)
def test_counts_of_tokens_without_sense(desk, tokens):
    desk.server.answer = lambda q: names(f"{q.title} ray", tokens=(7, 7)) if q.title != "shark" else odd(q)

    def odd(question):
        reply = obliging(question)
        reply.body["usage"] = {"prompt_tokens": tokens, "completion_tokens": tokens}
        return reply

    assert desk.discover("--categories", 1).code == 0
    (used,) = desk.rows("SELECT sum(prompt_tokens + completion_tokens) FROM answer")[0]
    assert 28 < used < 10_000


@pytest.mark.parametrize(
    "content", [{"a": 1}, [[["a"]]], [None, 1], {"type": "text", "text": {"text": "x"}}, 5, True, "\ud800", "\0", ""]
)
def test_content_of_any_type_is_an_answer_that_is_not_used(desk, content):
    desk.classes("shark\t500\n")
    desk.server.answer = lambda question: completion(content)
    assert "no target class has any category" in desk.refusal()
    assert desk.states()[0][1] == "short"


def test_names_with_half_characters_and_controls_are_kept_without_them(desk):
    desk.classes("shark\t500\n")
    said = '{"categories": ["ray \\ud800", "skate\\u0000", "\\u001b[31mdog\\u202efish\\u009b"]}'
    desk.server.answer = lambda question: completion(said)
    done = desk.discover()
    assert done.code == 0, done.err
    titles = [title for (title,) in desk.rows("SELECT title FROM category ORDER BY id")]
    assert [title.isprintable() for title in titles] == [True, True, True]
    assert [title.split()[0] for title in titles] == ["ray", "skate", "[31mdog"]


SLOW = {
    "list": "1. " + "a " * 500_000,
    "list of marks": "1. " * 300_000,
    "kept out": json.dumps({"leav" * 200_000: ["ray"]}),
    "brackets": '{"categories": ["ray"]}' * 40_000,
    "thoughts": "<think>" * 150_000,
    "unclosed": "<think" * 150_000,
    "backslashes": "\\" * 1_000_000,
}


@pytest.mark.parametrize("kind", SLOW)
def test_a_megabyte_without_sense_is_read_in_no_time_and_hangs_no_later_run(desk, kind):
    """The limit is of the test's: what took time with the square of the length took minutes."""
    desk.classes("shark\t500\n")
    desk.server.answer = lambda question: completion(SLOW[kind])
    assert "no target class has any category" in desk.refusal("--timeout", 20)
    with Catalog(desk.folder / "c.db") as catalog:  # as an older fastlt left it: kept before it was read
        catalog.connection.execute("UPDATE answer SET content = ?", [SLOW[kind]])
    desk.server.answer = obliging
    assert desk.discover().code == 0
    assert len(desk.neighbors()["shark"]) == 3


# What they repeat


def test_the_key_is_nowhere_whatever_an_endpoint_repeats(desk, monkeypatch):
    """In errors, in answers, in names, in a page of HTML; as it is, and as JSON, URLs and headers write it."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    forms = [KEY, repr(KEY), json.dumps(KEY), base64.b64encode(KEY.encode()).decode()]
    forms += [KEY.upper(), KEY.encode().hex(), html.escape(KEY), "".join(f"%{byte:02X}" for byte in KEY.encode())]
    forms += ["".join(c if c.isalnum() else f"&#{ord(c)};" for c in KEY)]
    forms += [
        json.dumps(json.dumps(KEY).replace("/", "\\/").replace("&", "\\u0026").replace("<", "\\u003c")),  # PHP, Go
        "".join(f"&#{ord(c)};" for c in KEY),
        KEY.replace("'", "&apos;"),
        base64.urlsafe_b64encode(KEY.encode()).decode(),
        base64.b64encode(f"Bearer {KEY}".encode()).decode(),
    ]
    forms += ["".join(f"\\u{ord(c):04x}" for c in KEY), KEY.replace("\\", "%5C").replace("'", "%27")]
    echoes = iter(
        [
            *(names("ray", f"key {form}") for form in forms),
            completion('{"categories": ["skate", "' + "".join(f"\\u{ord(c):04x}" for c in KEY) + '"]}'),
            Reply({"choices": [{"message": {"content": {"authorization": f"Bearer {KEY}"}}}]}),
            Reply({"error": {"message": f"you sent Authorization: Bearer {KEY}"}}),
            Reply(f"<html>Authorization: Bearer {KEY}</html>".encode()),
            Reply(f"<html>Authorization: Bearer {KEY}</html>".encode(), 400),
            error(429, f"Bearer {KEY} is slow", retry_after_ms="20"),
            *(error(400, f"{'x' * pad} Bearer {KEY}") for pad in (0, 150, 160, 170)),
            *(error(500, f"header {form}") for form in forms),
            error(401, f"Bearer {KEY} is no key"),
        ]
    )
    last = error(401, f"Bearer {KEY} is no key")
    desk.classes("".join(f"class {i}\t500\n" for i in range(40)))
    desk.server.answer = lambda question: next(echoes, last)
    said = ""
    for _ in range(12):
        done = desk.discover(*FEW)
        said += done.out + done.err
    assert next(echoes, None) is None  # all were sent
    said += printed_by_status(desk) + printed_by_status(desk, "--json")
    for part in (*forms, KEY[:12]):
        assert part not in said
        assert part.encode() not in everything_kept(desk)
    assert "Bearer ***" in said


def test_a_password_in_the_url_is_sent_and_not_shown(desk):
    place = desk.server.url.replace("http://", "http://alice:correct-horse@")
    basic = base64.b64encode(b"alice:correct-horse").decode()
    desk.server.answer = lambda question: error(401, f"Authorization: {desk.server.headers['authorization']}")
    said = desk.refusal("--base-url", place)
    assert desk.server.headers["authorization"] == f"Basic {basic}"
    assert f"{desk.server.url}/ refuses the key" in said
    for secret in ("correct-horse", "alice", basic):
        assert secret not in said + printed_by_status(desk)
        assert secret.encode() not in everything_kept(desk)


@pytest.mark.parametrize(
    "url",
    [
        "ftp://alice:correct-horse@host/v1",
        "alice:correct-horse@host/v1",
        "http://alice:correct-horse@",
        "http://alice:correct-horse@host:port/v1",
        "http://alice:correct-horse@host:99999/v1",
        "http://alice:correct-horse@[::1/v1",
        "http://alice:correct/horse@host/v1",
        "http://alice:correct-horse@ho st\x1b[31m/v1",
        "nothing?key=correct-horse",
    ],
)
def test_a_url_that_is_none_is_told_without_its_password(desk, url):
    said = desk.refusal("--base-url", url)
    assert "is not an http URL" in said
    assert "horse" not in said
    assert "\x1b" not in said


def test_a_password_of_a_proxy_is_not_shown(desk, monkeypatch):
    monkeypatch.setenv(
        "http_proxy", desk.server.url.replace("http://", "http://alice:correct-horse@").removesuffix("/v1")
    )
    desk.server.answer = lambda question: error(400, f"alice:correct-horse sent {desk.server.headers}")
    said = desk.refusal("--base-url", "http://api.example.invalid/v1")
    assert "horse" not in said + printed_by_status(desk)
    assert b"correct-horse" not in everything_kept(desk)


@pytest.mark.parametrize(
    "proxy", ["ht!tp://alice:correct-horse@127.0.0.1:1", "socks5://alice:correct-horse@127.0.0.1:1"]
)
def test_a_proxy_that_cannot_be_used_is_one_sentence(desk, monkeypatch, proxy):
    monkeypatch.setenv("ALL_PROXY", proxy)
    monkeypatch.setenv("http_proxy", proxy)
    said = desk.refusal("--base-url", "http://api.example.invalid/v1")
    assert "the proxy of this environment cannot be used" in said
    assert "horse" not in said
    assert "Traceback" not in said


@pytest.mark.parametrize("key", ["sk-live\n51Zq", "sk-live-\u00e9", "sk\x1blive-51"])
def test_a_key_that_no_header_can_have_is_not_shown(desk, monkeypatch, key):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    said = desk.refusal()
    assert "what OPENAI_API_KEY holds is no key" in said
    assert key[:5] not in said
    assert desk.server.asked == []


def test_a_key_from_a_file_may_end_with_a_line(desk, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-live-51Zq\r\n")
    assert desk.discover().code == 0
    assert desk.server.headers["authorization"] == "Bearer sk-live-51Zq"


def test_words_that_a_terminal_obeys_are_gone(desk):
    desk.server.answer = lambda q: (
        error(500, "\x1b]0;owned\x07 \x9b31m \u202e red \u2066") if q.title == "cello" else obliging(q)
    )
    said = desk.refusal(*FEW) + printed_by_status(desk)
    assert all(c.isprintable() or c == "\n" for c in said)
    assert "]0;owned 31m red" in said
    assert not any(mark.encode() in everything_kept(desk) for mark in ("\x1b]0", "\u202e", "\x9b"))


def test_a_server_that_is_no_web_server(desk):
    """Bytes without end that are no HTTP."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def talk():
            for _ in range(3):
                peer, _ = listening.accept()
                with peer, suppress(OSError):
                    for _ in range(100):
                        peer.sendall(b"\x1b[31m\xff\0" * 10_000)

        threading.Thread(target=talk, daemon=True).start()
        said = desk.refusal("--base-url", f"http://127.0.0.1:{listening.getsockname()[1]}/v1", *FEW)
    assert "failed at 3 questions in a row (" in said
    assert said[:-1].isprintable()
