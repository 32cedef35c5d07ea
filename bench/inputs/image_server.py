"""A loopback server for crawl benchmarks, as cheap as one in Python can be; run as `image_server.py ARCHIVE MOST`.

`/N.jpg` is image N modulo the number of images in the archive, with N in eight bytes behind its end, so that no two
are the same file; without an archive there are none. Prints its port and serves until its standard input ends.
"""

import asyncio
import sys
import zipfile


def read_images(archive: str, most: int) -> list[bytes]:
    if not archive:
        return []
    with zipfile.ZipFile(archive) as opened:
        names = [name for name in opened.namelist() if name.lower().endswith((".jpg", ".jpeg"))]
        return [opened.read(name) for name in names[:most]]


class Images(asyncio.Protocol):
    """One connection."""

    images: list[bytes]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport, self._received = transport, b""

    def data_received(self, data: bytes) -> None:
        self._received += data
        while (end := self._received.find(b"\r\n\r\n")) >= 0:
            head, self._received = self._received[:end], self._received[end + 4 :]
            name = head.split(b" ", 2)[1].lstrip(b"/").removesuffix(b".jpg")
            if self.images and name.isdigit():
                image = self.images[int(name) % len(self.images)]
                answer = b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % (len(image) + 8)
                self._transport.write(b"%b%b%08d" % (answer, image, int(name)))
            else:
                self._transport.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
            if b"connection: close" in head.lower():
                self._transport.close()


async def main() -> None:
    Images.images = read_images(sys.argv[1], int(sys.argv[2]))
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Images, "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main())
