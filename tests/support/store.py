"""A loopback web server of a folder, as stores are read by https://: it sends parts of files or not, is slow, fails."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote


class WebStore:
    """What a server does, and was asked.

    Attributes:
        url: of the folder.
        ranges: whether it sends parts of files.
        delay: seconds before each answer.
        failing: how many of the next requests of bytes get a 503.
        cut: how many of the next bodies end in their middle.
        sent: (name of the file, first byte) of each answer with bytes of it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.url = folder, ""
        self.ranges, self.delay, self.failing, self.cut = True, 0.0, 0, 0
        self.sent: list[tuple[str, int]] = []


@contextmanager
def web_store(folder: Path) -> Iterator[WebStore]:
    """Serves a folder on 127.0.0.1."""
    store = WebStore(folder)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def do_GET(self) -> None:
            self._answer(with_body=True)

        def _answer(self, with_body: bool) -> None:
            time.sleep(store.delay)
            file = store.folder / unquote(self.path).lstrip("/")
            if not file.is_file():
                self._end(404, {}, b"")
                return
            if with_body and store.failing:
                store.failing -= 1
                self._end(503, {}, b"")
                return
            size = file.stat().st_size
            first, last, status = 0, size - 1, 200
            if store.ranges and (asked := re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))):
                first, last, status = int(asked[1]), min(int(asked[2]), size - 1), 206
            headers = {"Accept-Ranges": "bytes"} if store.ranges else {}
            if not with_body:
                self._end(status, headers | {"Content-Length": str(size)}, None)
                return
            with file.open("rb") as stream:
                stream.seek(first)
                content = stream.read(last - first + 1)
            store.sent.append((file.name, first))
            if store.cut:
                store.cut -= 1
                self.close_connection = True
                self._end(status, headers | {"Content-Length": str(len(content))}, content[: len(content) // 2])
                return
            self._end(status, headers, content)

        def _end(self, status: int, headers: dict[str, str], body: bytes | None) -> None:
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(body or b""))} | headers).items():
                self.send_header(name, value)
            self.end_headers()
            if body:
                try:
                    self.wfile.write(body)
                except ConnectionError:
                    self.close_connection = True

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    store.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield store
    finally:
        server.shutdown()
        server.server_close()
