"""Loopback sites by the thousand, a tenth of them hostile; run as `hostile_server.py`.

A site is `hNUMBER.test`, and hostile if its number ends in 9: then the number says in which of `WAYS`. Every other site
has `/N.jpg`, each with bytes of its own. Prints its port, which it has at `ADDRESSES`, and serves until its standard
input ends.
"""

import asyncio
import gzip
import io
import re
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from bench.inputs import hostile_images

ADDRESSES = [f"127.0.0.{i}" for i in range(1, 33)]  # so many, or there were too few ports for the connections
Site = Callable[[str, asyncio.StreamWriter], Awaitable[None]]
_DRIP = 1.0  # seconds between the bytes of a slow one


def photographs(number: int = 64) -> list[bytes]:
    """JPEGs of 500 x 375 pixels."""
    made = []
    for seed in range(number):
        coarse = np.random.default_rng(seed).integers(0, 256, (30, 40, 3), dtype=np.uint8)
        stream = io.BytesIO()
        Image.fromarray(coarse).resize((500, 375), Image.Resampling.BICUBIC).save(stream, "JPEG", quality=85)
        made.append(stream.getvalue())
    return made


def answer(body: bytes, status: str = "200 OK", *headers: str) -> bytes:
    """All of a whole answer."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def says(content: bytes) -> Site:
    """A site that sends this, whatever it is asked for, but has no robots.txt."""

    async def send(path: str, writer: asyncio.StreamWriter) -> None:
        writer.write(answer(b"", "404 Not Found") if path == "/robots.txt" else content)

    return send


def robots(content: bytes) -> Site:
    """A site that has good images behind this robots.txt."""

    async def send(path: str, writer: asyncio.StreamWriter) -> None:
        writer.write(content if path == "/robots.txt" else answer(b"no image"))

    return send


def endless(head: bytes, more: bytes, seconds: float = 0.0, only: str = "") -> Site:
    """A site that begins like this and goes on with `more` forever; every so many seconds, or as fast as it can."""

    async def send(path: str, writer: asyncio.StreamWriter) -> None:
        if path != only and (only or path == "/robots.txt"):
            writer.write(answer(b"", "404 Not Found"))
            return
        writer.write(head)
        while True:
            writer.write(more)
            await writer.drain()
            await asyncio.sleep(seconds)

    return send


async def tarpit(path: str, writer: asyncio.StreamWriter) -> None:
    """Says nothing."""
    await asyncio.sleep(3600)


async def reset(path: str, writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


async def redirect_further(path: str, writer: asyncio.StreamWriter) -> None:
    writer.write(answer(b"", "302 Found", f"Location: {path}x"))


def sites() -> dict[str, Site]:
    """The ways to be hostile, by name."""
    head = b"HTTP/1.1 200 OK\r\n"
    image = hostile_images
    bomb = gzip.compress(bytes(200 * 2**20))
    return {
        "tarpit": tarpit,
        "headers drip": endless(head, b"X: 1\r\n", _DRIP),
        "headers without end": endless(head, b"X-Header: 1\r\n" * 1000),
        "header line without end": endless(head + b"X: ", b"a" * 2**16),
        "status line without end": endless(b"HTTP/1.1 200 ", b"O" * 2**16),
        "body without end": endless(head + b"\r\n", bytes(2**16)),
        "body drips": endless(head + b"Content-Length: 100000\r\n\r\n", b"\xff", _DRIP),
        "chunks without end": endless(head + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\na\r\n" * 1000),
        "size of a chunk without end": endless(head + b"Transfer-Encoding: chunked\r\n\r\n", b"0" * 2**16),
        "redirects in a circle": says(answer(b"", "302 Found", "Location: /circle.jpg")),
        "redirects further and further": redirect_further,
        "redirects to a private address": says(answer(b"", "302 Found", "Location: http://127.0.0.1:9/secret")),
        "redirects to a file": says(answer(b"", "302 Found", "Location: file:///etc/passwd")),
        "resets": reset,
        "garbage": says(bytes(range(256)) * 64),
        "cut off": says(head + b"Content-Length: 100000\r\n\r\n" + bytes(1000)),
        "says it has terabytes": says(head + b"Content-Length: 9999999999999\r\n\r\n" + bytes(1000)),
        "negative length": says(head + b"Content-Length: -5\r\n\r\n" + bytes(1000)),
        "asks to wait for years": says(answer(b"", "429 Too Many Requests", "Retry-After: 1000000000")),
        "asks to wait again and again": says(answer(b"", "429 Too Many Requests", "Retry-After: 1")),
        "error": says(answer(b"", "500 Internal Server Error")),
        "robots.txt without end": endless(head + b"\r\n", b"User-agent: *\nAllow: /\n" * 1000, only="/robots.txt"),
        "robots.txt drips": endless(head + b"\r\n", b"#", _DRIP, only="/robots.txt"),
        "robots.txt with a delay of years": robots(answer(b"User-agent: *\nCrawl-delay: 1000000000\n")),
        "robots.txt of wildcards": robots(answer(b"User-agent: *\n" + b"Disallow: /" + b"*a" * 5000 + b"\n")),
        "gzip bomb": says(answer(bomb, "200 OK", "Content-Encoding: gzip")),
        "WebP of 46 bytes": says(answer(image.huge_webp())),
        "TIFF of huge tiles": says(answer(image.tiff_of_huge_tiles())),
        "JPEG of many scans": says(answer(image.jpeg_of_many_scans())),
        "GIF of comments": says(answer(image.gif_of_comments())),
        "PNG that says it is huge": says(answer(image.huge_png())),
        "PNG with a bomb of text": says(answer(image.text_bomb())),
        "PNG with a bomb of a profile": says(answer(image.text_bomb(b"iCCP"))),
        "EPS": says(answer(image.eps_that_writes(Path("/tmp/never")))),
        "half a JPEG": says(answer(photographs(1)[0][:9000])),
    }


class Web:
    """Answers as the sites do."""

    def __init__(self) -> None:
        self._images, self._sites = photographs(), list(sites().values())

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, asyncio.LimitOverrunError, asyncio.CancelledError, ConnectionError):
            while not writer.is_closing():
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                found = re.search(r"\r\nhost: h(\d+)\.test", head, re.IGNORECASE)
                number, path = int(found[1]) if found else 0, head.split(" ", 2)[1]
                if number % 10 == 9:
                    await self._sites[number // 10 % len(self._sites)](path, writer)
                    await writer.drain()
                    if path != "/robots.txt":
                        break
                elif name := re.fullmatch(r"/(\d+)\.jpg", path):
                    writer.write(answer(b"%b%08d" % (self._images[int(name[1]) % len(self._images)], int(name[1]))))
                else:
                    writer.write(answer(b"", "404 Not Found"))
        writer.close()


async def main() -> None:
    web, loop, port = Web(), asyncio.get_running_loop(), 0
    for address in ADDRESSES:
        server = await asyncio.start_server(web.talk, address, port, backlog=4096)
        port = server.sockets[0].getsockname()[1]
    print(port, flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main())
