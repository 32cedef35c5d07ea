"""A language model for tests: an HTTP server on loopback that speaks /v1/chat/completions and does as it is told."""

from __future__ import annotations

import json
import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Reply:
    """What goes over the wire; a body that is an iterator of bytes goes out piece by piece, and ends the connection."""

    body: Any
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


def completion(content: str, tokens: tuple[int, int] | None = (100, 20)) -> Reply:
    """An ordinary answer; `tokens` are the prompt's and the answer's."""
    body: dict[str, Any] = {"id": "1", "object": "chat.completion", "created": 0, "model": "m"}
    message = {"role": "assistant", "content": content}
    body["choices"] = [{"index": 0, "message": message, "finish_reason": "stop"}]
    if tokens:
        body["usage"] = {"prompt_tokens": tokens[0], "completion_tokens": tokens[1], "total_tokens": sum(tokens)}
    return Reply(body)


def names(*titles: str, **options: Any) -> Reply:
    """An answer with these categories."""
    return completion(json.dumps({"categories": titles}), **options)


def error(status: int, message: str = "no", code: str | None = None, **headers: str) -> Reply:
    """An error as OpenAI words it."""
    body = {"error": {"message": message, "type": "some_error", "param": None, "code": code}}
    return Reply(body, status, {name.replace("_", "-"): value for name, value in headers.items()})


@dataclass(frozen=True)
class Question:
    """A request, read as the default prompt words it."""

    request: dict[str, Any]

    @property
    def last(self) -> str:
        return self.request["messages"][-1]["content"]

    @property
    def text(self) -> str:
        """The part that asks about the class at hand, repairs aside."""
        asked = [
            m["content"] for m in self.request["messages"] if m["role"] == "user" and "Target class:" in m["content"]
        ]
        return asked[-1]

    @property
    def title(self) -> str:
        return re.search("Target class: (.*)", self.text)[1]

    @property
    def number(self) -> int:
        return int(re.search("Number of categories: (.*)", self.text)[1])

    @property
    def known(self) -> list[str]:
        known = re.search("Named already, not to be repeated: (.*)", self.text)[1]
        return [] if known == "none" else known.split(", ")

    @property
    def identity(self) -> str:
        """Equal for questions that are the same."""
        return json.dumps(self.request["messages"])


def obliging(question: Question) -> Reply:
    """As many categories as wanted, all new."""
    start = len(question.known)
    return names(*(f"{question.title} cousin {start + i}" for i in range(question.number)))


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address) -> None:
        """A client that hangs up is no error; its traceback would stand in what the command is heard to say."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class LlmServer:
    """Answers every request with `answer(question)`, each in a thread of its own.

    Attributes:
        answer: may be changed at any time.
        asked: questions as they came; `answered`: those whose reply (status 200) was sent.
        headers: of the last request.
        sent: bytes of the pieces that went out.
    """

    def __init__(self) -> None:
        self.answer: Callable[[Question], Reply] = obliging
        self.asked: list[Question] = []
        self.answered: list[Question] = []
        self.headers: dict[str, str] = {}
        self.sent = 0
        self.closing = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                outer.headers = {name.lower(): value for name, value in self.headers.items()}
                body = self.rfile.read(int(self.headers["content-length"]))
                question = Question(json.loads(body))
                outer.asked.append(question)
                reply = outer.answer(question) if self.path == "/v1/chat/completions" else error(404, "no such path")
                if isinstance(reply.body, Iterator):
                    return self.send_pieces(reply)
                raw = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
                with suppress(ConnectionError):  # whoever asked may have been killed
                    self.send_response(reply.status)
                    headers = {"content-type": "application/json", "content-length": str(len(raw))} | reply.headers
                    for name, value in headers.items():
                        self.send_header(name, value)
                    self.end_headers()
                    self.wfile.write(raw)
                if reply.status == 200:
                    outer.answered.append(question)

            def send_pieces(self, reply: Reply) -> None:
                self.close_connection = True
                self.send_response(reply.status)
                for name, value in {"content-type": "application/json", **reply.headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                for piece in reply.body:
                    self.wfile.write(piece)
                    outer.sent += len(piece)

            def log_message(self, *_: object) -> None:
                pass

        self._server = _Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/v1"

    def hang(self) -> None:
        """For `answer`: comes back when the server closes."""
        self.closing.wait()

    def close(self) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
