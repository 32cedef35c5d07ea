"""Who may ask the page's server: a browser on this machine that was given the address, and no other page in it."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Callable[[], Awaitable[Message]], Send], Awaitable[None]]

_NAMES = ("127.0.0.1", "localhost")
_MOST_BYTES = 4_000_000  # of what is sent to it
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}
"""Of every answer: nothing runs but our own files, and nobody else shows or reads what is sent."""


class Guard:
    """Stands before an application; it sees only what the guard lets through, without the token.

    The token is the first part of every path, so that there is no cookie, which servers on other ports would be sent.

    Args:
        app: of ASGI.
        token: which nobody can guess.
    """

    def __init__(self, app: App, token: str) -> None:
        self._app, self._token = app, token

    async def __call__(self, scope: Message, receive: Callable[[], Awaitable[Message]], send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, send)
        if scope["type"] != "http":
            return await send({"type": "websocket.close"})

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                ours = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message = {**message, "headers": [*message.get("headers", ()), *ours]}
            await send(message)

        status, rest = self._judge(scope)
        if status == 200:
            inside = {**scope, "path": rest, "raw_path": rest.encode(errors="surrogateescape"), "root_path": ""}
            try:
                return await self._app(inside, receive, with_headers)
            except asyncio.CancelledError:  # the server ends, and waits no longer
                status = 503
        said = {404: b"not found", 403: b"not from here", 411: b"length required", 413: b"too long", 503: b"ended"}[
            status
        ]
        headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(said)).encode())]
        await with_headers({"type": "http.response.start", "status": status, "headers": headers})
        await with_headers({"type": "http.response.body", "body": said})

    def _judge(self, scope: Message) -> tuple[int, str]:
        """200 and the path without the token, or what is wrong."""
        headers: dict[bytes, list[bytes]] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name.lower(), []).append(value)
        hosts = headers.get(b"host", [])
        if len(hosts) != 1 or hosts[0].decode("latin-1").rpartition(":")[0] not in _NAMES:
            return 403, ""  # another name that leads here, as of a page that had its name changed to this address
        before, _, path = scope["path"].partition("/")  # `OPTIONS *` has no slash
        token, slash, rest = path.partition("/")
        if before or not slash or not secrets.compare_digest(token.encode(errors="replace"), self._token.encode()):
            return 404, ""
        if scope["method"] not in ("GET", "HEAD"):
            if headers.get(b"origin") != [b"http://" + hosts[0]]:
                return 403, ""
            length = headers.get(b"content-length", [b""])[0]
            if not length.isdigit():
                return 411, ""
            if int(length) > _MOST_BYTES:
                return 413, ""
        elif rest and headers.get(b"sec-fetch-site", [b"none"])[0] not in (b"same-origin", b"none"):
            return 403, ""  # the page itself may be opened by a link in another one
        return 200, f"/{rest}"
