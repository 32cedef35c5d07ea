"""The HTTP client of an endpoint that may be anybody's: answers end, nothing is unpacked or followed, secrets go."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from urllib.parse import urlsplit

from openai import APIConnectionError, APITimeoutError, DefaultAsyncHttpxClient

from fastlt.foreign import Secrets, parse_answer
from fastlt.messages import one_line

MAX_BYTES = 4 * 2**20  # of an answer; a model's longest has 100,000 tokens, most of them thoughts
_KEPT_HEADERS = ("retry-after", "retry-after-ms", "date")


class RefusedAnswerError(APIConnectionError):
    """An answer that is not read; the message says why.

    Attributes:
        are_all_so: whether there is no point in asking this endpoint again.
    """

    def __init__(self, message: str, request: Any, are_all_so: bool) -> None:
        super().__init__(message=message, request=request)
        self.are_all_so = are_all_so


class EndpointClient(DefaultAsyncHttpxClient):
    """httpx's client as openai configures it, proxies of the environment included.

    Args:
        seconds: for a whole answer, however it drips.
        secrets: taken out of answers before anybody reads them.
    """

    def __init__(self, seconds: float, secrets: Secrets) -> None:
        super().__init__(timeout=seconds, follow_redirects=False, headers={"Accept-Encoding": "identity"})
        self._seconds, self._secrets = seconds, secrets

    async def send(self, request: Any, **options: Any) -> Any:
        """Sends a request; the response is whole.

        Raises:
            RefusedAnswerError: a redirect, a compressed answer, or one that is too long.
            APITimeoutError: it took too long.
        """
        try:
            async with asyncio.timeout(self._seconds):
                response = await super().send(request, **options | {"stream": True, "follow_redirects": False})
                try:
                    body = await _body(response)
                finally:
                    await response.aclose()
        except TimeoutError:
            raise APITimeoutError(request=request) from None
        headers = {name: response.headers[name] for name in _KEPT_HEADERS if name in response.headers}
        content = self._harmless(body).encode(errors="replace")
        return type(response)(response.status_code, headers=headers, content=content, request=request)

    def _harmless(self, body: bytes) -> str:
        """JSON without secrets; of anything else a line that can be shown."""
        try:
            return json.dumps(self._secrets.hide_in(parse_answer(body)), ensure_ascii=False)
        except ValueError:
            return one_line(self._secrets.hide(body.decode(errors="replace")), 2000)


async def _body(response: Any) -> bytes:
    host = f"{response.request.url.host}:{response.request.url.port or ''}".rstrip(":")
    if 300 <= response.status_code < 400:
        onward = one_line(_host(response.headers.get("location", "")), 200) or "nowhere"
        said = f"{host} redirects to {onward}, and no prompt is sent on: give --base-url of the server itself"
        raise RefusedAnswerError(said, response.request, are_all_so=True)
    packed = response.headers.get("content-encoding", "").strip().lower()
    if packed not in ("", "identity"):
        said = f"{host} sends its answers packed ({one_line(packed, 40)}), which it was asked not to do"
        raise RefusedAnswerError(said, response.request, are_all_so=True)
    body = bytearray()
    async for chunk in response.aiter_raw():
        body += chunk
        if len(body) > MAX_BYTES:
            said = f"the answer of {host} is longer than {MAX_BYTES:,} bytes"
            raise RefusedAnswerError(said, response.request, are_all_so=False)
    return bytes(body)


def _host(location: str) -> str:
    """The host and port alone: path and query may say whom they were meant for."""
    try:
        return urlsplit(location).netloc.rpartition("@")[2] or "another path"
    except ValueError:  # such as half an IPv6 address
        return ""
