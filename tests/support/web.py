"""A loopback web site for the crawler's tests, with every vice of the real web, on as many addresses as asked for."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

DRIP_BYTES, DRIP_SECONDS = 16, 0.2


@dataclass
class Answer:
    """What is sent for one request.

    Attributes:
        body, status, headers: as usual.
        length: what Content-Length says, where that is a lie; -1 sends none and closes at the end.
        delay: seconds before anything is sent.
        drip: sends a few bytes now and then.
        endless: repeats the body until the client goes away.
    """

    body: bytes = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    length: int | None = None
    delay: float = 0.0
    drip: bool = False
    endless: bool = False


class Web:
    """Serves `answer(host, path)`, None being a 404, on 127.0.0.1, 127.0.0.2, ... or on the addresses that are given.

    Attributes:
        hosts: "address:port" of each.
        asked: how often each (address:port that the client connected to, path) was asked for.
        agents: what clients called themselves.
        log: (seconds, address:port, what the client called itself) of each request.
    """

    def __init__(self, answer: Callable[[str, str], Answer | None], addresses: int | list[str] = 1) -> None:
        if isinstance(addresses, int):
            addresses = [f"127.0.0.{i + 1}" for i in range(addresses)]
        self._answer, self._addresses = answer, addresses
        self.asked: Counter[tuple[str, str]] = Counter()
        self.agents: set[str] = set()
        self.log: list[tuple[float, str, str]] = []

    def __enter__(self) -> Web:
        started = threading.Event()

        async def serve() -> None:
            self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
            self.hosts, servers, port = [], [], 0
            for address in self._addresses:
                servers.append(await asyncio.start_server(self._talk, address, port, backlog=1024))
                port = servers[-1].sockets[0].getsockname()[1]
                self.hosts.append(f"{address}:{port}")
            started.set()
            await self._stop.wait()

        self._thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
        self._thread.start()
        assert started.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                lines = head.decode("latin-1").split("\r\n")
                path = lines[0].split(" ")[1]
                headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])}
                address, port = writer.get_extra_info("sockname")[:2]
                self.asked[f"{address}:{port}", path] += 1
                self.agents.add(headers.get("user-agent", ""))
                self.log.append((time.monotonic(), f"{address}:{port}", headers.get("user-agent", "")))
                if not await self._send(writer, self._answer(headers["host"], path) or Answer(status=404)):
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _send(self, writer: asyncio.StreamWriter, answer: Answer) -> bool:
        """Returns whether the connection may be used again."""
        await asyncio.sleep(answer.delay)
        length = len(answer.body) if answer.length is None else answer.length
        headers = dict(answer.headers) | ({"Content-Length": str(length)} if length >= 0 else {"Connection": "close"})
        lines = [f"HTTP/1.1 {answer.status} Status", *(f"{name}: {value}" for name, value in headers.items())]
        writer.write("\r\n".join([*lines, "", ""]).encode("latin-1"))
        if answer.drip:
            for i in range(0, len(answer.body), DRIP_BYTES):
                writer.write(answer.body[i : i + DRIP_BYTES])
                await writer.drain()
                await asyncio.sleep(DRIP_SECONDS)
            return answer.length is None
        writer.write(answer.body)
        while answer.endless:
            writer.write(answer.body)
            await writer.drain()
        await writer.drain()
        return answer.length is None
