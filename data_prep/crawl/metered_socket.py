"""Sockets that count what comes in, so that what never becomes a body has an end too: chunks of a byte, say."""

from __future__ import annotations

import asyncio
import socket
import weakref
from typing import Any

_BESIDE_BODY = 2**20  # bytes of headers and frames, beyond one more for each byte of the body
_open: weakref.WeakValueDictionary[int, MeteredSocket] = weakref.WeakValueDictionary()


class MeteredSocket(socket.socket):
    """A socket whose reading fails where much more comes in than `allow` says."""

    def __init__(self, *words: Any) -> None:
        super().__init__(*words)
        self._left, self.is_over = _BESIDE_BODY, False
        _open[self.fileno()] = self

    @classmethod
    def of(cls, transport: asyncio.BaseTransport | None) -> MeteredSocket | None:
        """The socket under a connection, which asyncio shows behind a wrapper."""
        shown = transport.get_extra_info("socket") if transport else None
        return _open.get(shown.fileno()) if shown else None

    def begin(self) -> None:
        """Another body begins."""
        self._left = _BESIDE_BODY

    def allow(self, num_bytes: int) -> None:
        """So many bytes of it have come."""
        self._left += 2 * num_bytes

    def recv(self, *words: Any) -> bytes:
        """As a socket's, counted."""
        data = super().recv(*words)
        self._count(len(data))
        return data

    def recv_into(self, *words: Any) -> int:
        """As a socket's, counted."""
        number = super().recv_into(*words)
        self._count(number)
        return number

    def _count(self, number: int) -> None:
        self._left -= number
        if self._left < 0:
            self.is_over = True
            raise ConnectionAbortedError("too many bytes beside the body")
