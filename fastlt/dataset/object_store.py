"""Files of one folder, here or in an object store, by fsspec: sizes, bytes block by block, and whole uploads.

Which store is meant stands before :// in the URL; fsspec has some, and packages of the user's bring others (s3fs for
s3, gcsfs for gs, adlfs for abfs). Credentials are theirs to find. Whatever they raise becomes one sentence here.
"""

from __future__ import annotations

import errno
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from fastlt.foreign import without_credentials
from fastlt.messages import one_line
from fastlt.places import Place, as_url

BLOCK = 2**24  # bytes of one request: a connection to a store of today brings them in a tenth of a second
_AT_ONCE = 8  # requests, as one connection has but a part of a network's speed
_TRIES, _FIRST_WAIT = 5, 0.5  # of a request, seconds; each wait is twice the one before
_MOST_BYTES = 2**28  # of a manifest or a label space: a million classes and pairs have a tenth
_BUCKETS = ("s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "oci", "oss", "http", "https")
"""Stores that have no folders to make: what is made there instead is a bucket, maybe of a misspelled name."""
_FINAL = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, NotImplementedError)
T = TypeVar("T")


class ObjectStore:
    """A folder in a store.

    Args:
        place: the folder; of a URL without credentials.

    Raises:
        ValueError: no package that knows such URLs is installed, or it wants what it was not given.
    """

    def __init__(self, place: Place) -> None:
        import fsspec  # a quarter of a second, which who has no URL need not wait for

        self.url = str(place)
        protocol = "" if isinstance(place, Path) else self.url.partition("://")[0]
        try:
            if isinstance(place, Path):
                self._files, self._root = fsspec.filesystem("file"), str(place.absolute())
            else:
                self._files, self._root = fsspec.core.url_to_fs(place)
        except ImportError as error:
            raise ValueError(_what_to_install(self.url, protocol, error)) from None
        except Exception as error:
            raise ValueError(f"{self.url} cannot be used: {_said(error)}.") from None
        self._is_http, self._has_folders = protocol in ("http", "https"), protocol not in _BUCKETS

    def size(self, name: str) -> int | None:
        """Bytes of a file; None where there is none, -1 where the store does not tell.

        Raises:
            ValueError: the store cannot be asked.
        """
        with self._telling(name, "read"):
            try:
                size = _tried(lambda: self._files.info(self._path(name))["size"])
            except FileNotFoundError:
                return None
        return -1 if size is None else size

    def read_small(self, name: str) -> bytes | None:
        """All bytes of a file that is small; None where there is none.

        Raises:
            ValueError: it cannot be read, or is far larger than any of its kind.
        """
        with self._telling(name, "read"):
            try:
                content = _tried(self._read_at_once, name)
            except FileNotFoundError:
                return None
            if len(content) > _MOST_BYTES:
                raise ValueError(f"it has more than {_MOST_BYTES:,} bytes")
        return content

    def _read_at_once(self, name: str) -> bytes:
        streamed = {"block_size": 0} if self._is_http else {}
        content = bytearray()
        with self._files.open(self._path(name), "rb", **streamed) as stream:
            while len(content) <= _MOST_BYTES and (piece := stream.read(2**20)):
                content += piece
        return bytes(content)

    def blocks(self, name: str, start: int, end: int) -> Iterator[bytes]:
        """The bytes from start to end of a file, in order; several requests are under way at once.

        Raises:
            ValueError: it cannot be read, though it was tried again, or has fewer bytes.
        """
        with self._telling(name, "read"):
            if self._is_http and not self._knows_ranges(name):
                yield from self._stream(name, start, end)
                return
            with ThreadPoolExecutor(_AT_ONCE) as pool:
                waiting: deque[Future[bytes]] = deque()
                try:
                    for at in range(start, end, BLOCK):
                        waiting.append(pool.submit(_tried, self._block, name, at, min(at + BLOCK, end)))
                        if len(waiting) >= _AT_ONCE:
                            yield waiting.popleft().result()
                    while waiting:
                        yield waiting.popleft().result()
                finally:
                    for future in waiting:
                        future.cancel()

    def _block(self, name: str, start: int, end: int) -> bytes:
        if self._is_http:  # cat_file would take all that a server sends for a part
            with self._files.open(self._path(name), "rb", size=end, block_size=BLOCK, cache_type="none") as stream:
                stream.seek(start)
                content = stream.read(end - start)
        else:
            content = self._files.cat_file(self._path(name), start=start, end=end)  # s3fs has another one second
        if len(content) != end - start:
            raise OSError(f"it ended after {start + len(content):,} bytes")
        return content

    def _knows_ranges(self, name: str) -> bool:
        """Whether a web server sends parts of files: Python's own one, for example, does not."""
        try:
            _tried(self._block, name, 1, 2)
        except ValueError:
            return False
        return True

    def _stream(self, name: str, start: int, end: int) -> Iterator[bytes]:
        """As `blocks`, by one request for the whole file."""
        with self._files.open(self._path(name), "rb", block_size=0) as stream:
            at = 0
            while at < end:
                piece = stream.read(min(BLOCK, end - at))
                if not piece:
                    raise OSError(f"it ended after {at:,} bytes")
                at += len(piece)
                if at > start:
                    yield piece[max(0, start - (at - len(piece))) :]

    def put(self, file: Path, name: str, progress: Callable[[int], None]) -> None:
        """Uploads a file as one object.

        Args:
            file: here.
            name: there.
            progress: told how many more bytes are there, now and then.

        Raises:
            ValueError: it cannot be written.
        """
        from fsspec.callbacks import Callback

        class Told(Callback):
            def relative_update(self, inc: int = 1) -> None:
                progress(inc)

        with self._telling(name, "written"):
            self._make_folder()
            _tried(self._files.put_file, str(file), self._path(name), callback=Told())
        self._files.invalidate_cache()

    def write_small(self, name: str, content: bytes) -> None:
        """Makes an object of these bytes.

        Raises:
            ValueError: it cannot be written.
        """
        with self._telling(name, "written"):
            self._make_folder()
            _tried(self._files.pipe_file, self._path(name), content)
        self._files.invalidate_cache()

    def remove(self, name: str) -> None:
        """Removes an object.

        Raises:
            ValueError: that is not allowed, or it is not there.
        """
        with self._telling(name, "removed"):
            self._files.rm_file(self._path(name))

    def _make_folder(self) -> None:
        if self._has_folders:
            self._files.makedirs(self._root, exist_ok=True)

    def _path(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"

    @contextmanager
    def _telling(self, name: str, done: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise ValueError(f"{self.url}/{name} cannot be {done}: it is not there.") from None
        except Exception as error:
            raise ValueError(f"{self.url}/{name} cannot be {done}: {_said(error)}.") from None


def writable_store(url: str) -> ObjectStore:
    """The store that a user wants something written to.

    Raises:
        ValueError: it is no URL, one with credentials, or one of a web server; or as `ObjectStore`.
    """
    place = as_url(url)
    if place.startswith(("http://", "https://")):
        raise ValueError(f"{place} cannot be written to, as web servers are only read: use s3://, gs:// or the like.")
    return ObjectStore(place)


def _tried(request: Callable[..., T], *given: Any, **options: Any) -> T:
    """What a request brings, made again where it fails for a reason that may pass."""
    for trial in range(1, _TRIES + 1):
        try:
            return request(*given, **options)
        except (*_FINAL, ValueError):
            raise
        except Exception as error:
            if trial == _TRIES or getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
                raise
            status = getattr(error, "status", None)  # of aiohttp
            if isinstance(status, int) and 400 <= status < 500 and status not in (408, 425, 429):
                raise
            time.sleep(_FIRST_WAIT * 2 ** (trial - 1))
    raise AssertionError("the last try returns or raises")


def _what_to_install(url: str, protocol: str, error: Exception) -> str:
    from fsspec.registry import known_implementations

    package = known_implementations.get(protocol, {}).get("class", "").partition(".")[0]
    if package in ("", "fsspec"):
        return f"{url} cannot be used: {_said(error)}."
    return f"{url} needs {package}, which is not installed: pip install {package}."


def _said(error: Exception) -> str:
    """What a store's package says, which may repeat what it sent."""
    return one_line(without_credentials(str(error)), 300).rstrip(".") or type(error).__name__
