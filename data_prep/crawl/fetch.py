"""One transfer: polite, safe, bounded in bytes and time, redirects followed by hand; bytes out or a reason."""

from __future__ import annotations

import asyncio
import json
import zlib
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, NamedTuple

import aiohttp
from protego import Protego
from yarl import URL

import fastlt
from fastlt.data_prep.crawl import reasons
from fastlt.data_prep.crawl.addresses import ForbiddenAddressError, any_socket, host_of, parse_url, public_socket
from fastlt.data_prep.crawl.budgets import Ledger, NoRoomError, Transfer
from fastlt.data_prep.crawl.host_limits import Policies
from fastlt.data_prep.crawl.metered_socket import MeteredSocket
from fastlt.data_prep.crawl.options import Limits, Politeness
from fastlt.data_prep.crawl.parts.part import Claim
from fastlt.data_prep.crawl.politeness import AGENT, Host, HostGivenUpError, HostRestsError, opts_out, our_rules
from fastlt.data_prep.retry_after import retry_after
from fastlt.foreign import parse_answer

_SMALL = 2**20  # bytes of a body that every transfer may hold; larger ones take turns
_ROBOTS_BYTES = 512 * 1024  # RFC 9309 asks for at least 500 KiB
_JSON_BYTES = 16 * 2**20  # of an answer of an API; the longest pages have two megabytes
_MOST_COMPARED = 2 * 10**6  # lines of robots.txt x characters of a URL: a hundredth of a second
_HEADER_BYTES = 128 * 1024  # of one line: content security policies fill more than the usual 8 KiB
_MAX_REMEMBERED = 50_000  # hosts, and robots.txt files
_BACKOFF = 1.0  # seconds, doubled by each retry
_RETRIES = 2  # of a transfer in trouble
_MAX_REDIRECTS = 5
_MAX_ATTEMPTS = 10  # of one transfer at a host that is busy again and again
_MAX_HELD = 128 * 2**20  # bytes of bodies that wait to be used, above which no request begins


class DroppedError(Exception):
    """An answer that is final; the message is the reason."""


class FailedError(Exception):
    """Trouble that another day may cure; the message is the reason."""


class _TryAgainError(FailedError):
    """Trouble that the next seconds may cure."""


class _BusyError(_TryAgainError):
    """The host asks to wait, which `Host.turn` does."""


class Fetcher:
    """Transfers under one set of limits; use as `async with`.

    Args:
        politeness, limits: as the options say.
        policies: what each host allows.
        ledger: what each host was asked for.
        claim: which hosts may be asked, where that is not all of them.
    """

    def __init__(
        self,
        politeness: Politeness,
        limits: Limits,
        policies: Policies,
        ledger: Ledger,
        claim: Claim | None = None,
    ) -> None:
        self._politeness, self._limits, self._claim = politeness, limits, claim
        self._policies, self._ledger = policies, ledger
        self._hosts: OrderedDict[str, Host] = OrderedDict()
        self._robots: OrderedDict[tuple[str, str], asyncio.Task[_Rules | None]] = OrderedDict()
        self._connections = asyncio.Semaphore(self._politeness.connections)
        self._large = asyncio.Semaphore(8)
        self._held, self._room = 0, asyncio.Event()
        self._room.set()

    async def __aenter__(self) -> Fetcher:
        connector = aiohttp.TCPConnector(
            limit=0,  # ours counts
            ttl_dns_cache=300,
            socket_factory=any_socket if self._limits.allow_private else public_socket,
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            auto_decompress=False,  # images are compressed already; what is not is a bomb or not an image
            cookie_jar=aiohttp.DummyCookieJar(),
            max_line_size=_HEADER_BYTES,
            max_field_size=_HEADER_BYTES,
            headers={
                "User-Agent": f"{AGENT}/{fastlt.__version__} (+{self._politeness.contact})",
                "Accept-Encoding": "identity",
            },
            timeout=aiohttp.ClientTimeout(total=self._limits.timeout, sock_connect=min(15.0, self._limits.timeout)),
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._robots.values():
            task.cancel()
        await self._session.close()

    def host(self, name: str) -> Host:
        """The state of a host, made anew for one that was not heard of for long."""
        name = self._policies.key(name)
        if name not in self._hosts:
            limits = self._policies.of(name)
            self._hosts[name] = Host(name, limits, self._ledger.account(name, limits))
            if len(self._hosts) > _MAX_REMEMBERED:
                self._hosts.popitem(last=False)
        self._hosts.move_to_end(name)
        return self._hosts[name]

    async def image(self, url: str) -> tuple[bytes, Host]:
        """The body behind the URL, and the host that it came from in the end; `release` it when it was used.

        Raises:
            DroppedError: for good; also an opt-out, robots.txt, or an address that may not be asked.
            FailedError: trouble, after all retries.
            HostGivenUpError: the host was given up.
            HostRestsError: a limit of a host is used up, perhaps of one that this redirects to.
        """
        body, host = await self._retried(url, {}, self._limits.max_bytes, is_image=True)
        self._held += len(body)
        if self._held > _MAX_HELD:
            self._room.clear()
        return body, host

    def release(self, num_bytes: int) -> None:
        """The body of an image was used: its memory is free for others."""
        self._held -= num_bytes
        if self._held <= _MAX_HELD:
            self._room.set()

    async def json(self, url: str, parameters: Mapping[str, str]) -> Any:
        """The parsed answer of an API, which robots.txt does not speak of.

        Raises:
            FailedError: as `image`, or an answer that is no JSON.
            HostRestsError: as `image`.
        """
        try:
            body, _ = await self._retried(url, parameters, _JSON_BYTES)
            return parse_answer(body)
        except json.JSONDecodeError:
            raise FailedError("the answer is not JSON") from None
        except ValueError as error:
            raise FailedError(f"the answer cannot be read: {error}") from None
        except (DroppedError, HostGivenUpError) as error:
            is_long = str(error) == reasons.TOO_MANY_BYTES  # not those that an option allows
            raise FailedError(f"the answer is longer than {_JSON_BYTES:,} bytes" if is_long else str(error)) from None

    async def _retried(
        self, url: str, parameters: Mapping[str, str], max_bytes: int, is_image: bool = False
    ) -> tuple[bytes, Host]:
        """The body behind the URL, and its host; only for an image robots.txt and opt-outs are asked."""
        troubles = 0
        for _ in range(_MAX_ATTEMPTS):
            try:
                return await self._follow(url, parameters, max_bytes, is_image)
            except _BusyError as error:
                reason = str(error)
            except _TryAgainError as error:
                reason = str(error)
                troubles += 1
                if troubles > _RETRIES:
                    break
                await asyncio.sleep(_BACKOFF * 2 ** (troubles - 1))
        raise FailedError(reason)

    async def _follow(
        self, url: str, parameters: Mapping[str, str], max_bytes: int, is_image: bool
    ) -> tuple[bytes, Host]:
        target = parse_url(url)
        if target is None:
            raise DroppedError("not an http(s) URL")
        target = target.update_query(parameters) if parameters else target
        first_host = ""
        for _ in range(_MAX_REDIRECTS + 1):
            name = host_of(target)
            first_host = first_host or name
            if self._claim and not self._claim.owns(name):
                raise FailedError(reasons.ANOTHER_PART)
            try:
                if is_image and not self._politeness.ignore_robots:
                    await self._ask_robots(target, name)
                host = self.host(name)
                answer = await self._request(target, host, max_bytes, is_image)
            except HostGivenUpError as error:
                if name == first_host:
                    raise
                raise FailedError(str(error)) from None  # the host that redirects there is not to blame
            if isinstance(answer, bytes):
                return answer, host
            try:
                onward = parse_url(str(target.join(URL(answer))))
            except ValueError:
                onward = None
            if onward is None:
                raise DroppedError("redirect to nowhere")
            target = onward
        raise DroppedError("too many redirects")

    async def _request(self, url: URL, host: Host, max_bytes: int, is_image: bool) -> bytes | str:
        """One request in its turn: the body, or where it is; trouble of the network comes out as `_TryAgainError`."""
        async with host.turn(self._connections, self._room) as transfer:
            if self._claim:
                self._claim.check()
            try:
                async with self._session.get(url, allow_redirects=False) as response:
                    if response.status in (429, 503):
                        host.pause(retry_after(response.headers) or _BACKOFF)
                    answer = await self._answer(response, transfer, max_bytes, is_image)
                host.answered()
                return answer
            except DroppedError:
                host.answered()
                raise
            except NoRoomError as error:
                host.answered()
                raise (FailedError if error.for_good else _BusyError)(str(error)) from None
            except _TryAgainError:
                host.failed()
                raise
            except TimeoutError:
                host.failed()
                raise _TryAgainError("too slow") from None
            except aiohttp.ClientConnectorError as error:
                if isinstance(error.os_error, ForbiddenAddressError) or "not a public address" in str(error.os_error):
                    raise DroppedError(reasons.NOT_PUBLIC) from None
                host.failed()
                raise _TryAgainError("no connection") from None
            except aiohttp.ClientPayloadError:
                raise _TryAgainError("cut off") from None
            except (aiohttp.ClientError, ConnectionError, ValueError) as error:
                if isinstance(error, aiohttp.InvalidURL):
                    raise DroppedError("not an http(s) URL") from None
                host.failed()
                raise _TryAgainError("no answer") from None

    async def _answer(
        self, response: aiohttp.ClientResponse, transfer: Transfer, max_bytes: int, is_image: bool
    ) -> bytes | str:
        if response.status in (301, 302, 303, 307, 308):
            return response.headers.get("Location", "")
        if is_image and not self._politeness.ignore_opt_outs and opts_out(response.headers):
            raise DroppedError(reasons.OPTED_OUT)
        body = await self._read(response, max_bytes, transfer)
        transfer.is_image = is_image
        return body

    async def _read(self, response: aiohttp.ClientResponse, max_bytes: int, transfer: Transfer) -> bytes:
        status = response.status
        if status in (429, 503):
            raise _BusyError(f"status {status}")
        if status in (408, 425) or status >= 500:
            raise _TryAgainError(f"status {status}")
        if status not in (200, 203):  # 203: a proxy has changed it, perhaps
            raise DroppedError(f"status {status}")
        if (response.content_length or 0) > max_bytes:
            raise DroppedError(reasons.TOO_MANY_BYTES)
        transfer.announce(response.content_length or 0)
        return _unpacked(await self._read_body(response, max_bytes, transfer), response.headers, max_bytes)

    async def _read_body(self, response: aiohttp.ClientResponse, max_bytes: int, transfer: Transfer) -> bytes:
        socket = MeteredSocket.of(response.connection.transport if response.connection else None)
        if socket:
            socket.begin()
        chunks: list[bytes] = []
        num_bytes = 0
        while num_bytes <= min(_SMALL, max_bytes):
            chunk = await _chunk(response, socket, transfer)
            if not chunk:
                return b"".join(chunks)
            chunks.append(chunk)
            num_bytes += len(chunk)
        async with self._large:  # so that a thousand large bodies do not lie in memory at once
            while num_bytes <= max_bytes:
                chunk = await _chunk(response, socket, transfer)
                if not chunk:
                    return b"".join(chunks)
                chunks.append(chunk)
                num_bytes += len(chunk)
        raise DroppedError(reasons.TOO_MANY_BYTES)

    async def _ask_robots(self, url: URL, host: str) -> None:
        """Raises what robots.txt makes of the URL; it is read once for a host."""
        origin = (url.scheme, host)
        if origin not in self._robots or self._robots[origin].cancelled():
            self._robots[origin] = asyncio.create_task(self._read_robots(url.origin()))
            if len(self._robots) > _MAX_REMEMBERED:
                self._robots.popitem(last=False)
        self._robots.move_to_end(origin)
        try:
            rules = await asyncio.shield(self._robots[origin])
        except HostRestsError:
            self._robots.pop(origin, None)  # it is read when the host is asked again
            raise
        if not rules:
            return
        if rules.number * len(str(url)) > _MOST_COMPARED:
            raise DroppedError(reasons.TOO_MANY_RULES)
        if not rules.parsed.can_fetch(str(url), AGENT):
            raise DroppedError(reasons.ROBOTS)

    async def _read_robots(self, origin: URL) -> _Rules | None:
        """The rules of a host, if it has any; where they cannot be read, nothing of it is (RFC 9309, 2.3.1)."""
        try:
            text, _ = await self._retried(str(origin / "robots.txt"), {}, _ROBOTS_BYTES)
        except DroppedError as error:
            # No such file, or one that is fenced off, is permission; trouble of the server is not, nor is half a file.
            if str(error) == reasons.NOT_PUBLIC:
                raise
            if str(error) == reasons.TOO_MANY_BYTES:
                raise FailedError("robots.txt is too long") from None
            text = b""
        except (FailedError, HostGivenUpError) as error:
            if str(error) == reasons.ANOTHER_PART:  # whoever has all hosts may read it
                raise
            raise FailedError(f"robots.txt cannot be read: {error}") from None
        ours = our_rules(text.decode("utf-8-sig", "replace"))
        if not ours.strip():
            return None
        rules = Protego.parse(ours)
        self.host(host_of(origin)).slow_down(float(rules.crawl_delay(AGENT) or 0))
        return _Rules(rules, ours.count("\n") + 1)


class _Rules(NamedTuple):
    """What a robots.txt says to us, and in how many lines."""

    parsed: Protego
    number: int


async def _chunk(response: aiohttp.ClientResponse, socket: MeteredSocket | None, transfer: Transfer) -> bytes:
    """The next bytes of the body, none at its end; DroppedError where what comes beside it has no end."""
    try:
        chunk = await response.content.readany()
    except aiohttp.ClientError:
        if socket and socket.is_over:
            raise DroppedError(reasons.TOO_MANY_BYTES) from None
        raise
    if socket:
        socket.allow(len(chunk))
    transfer.take(len(chunk))
    return chunk


def _unpacked(body: bytes, headers: Mapping[str, str], max_bytes: int) -> bytes:
    """The body without a compression that was not asked for; one that unpacks to too much is not unpacked."""
    if headers.get("Content-Encoding", "").strip().lower() not in ("gzip", "x-gzip", "deflate"):
        return body
    for window in (32 + zlib.MAX_WBITS, -zlib.MAX_WBITS):  # gzip or zlib by its header; deflate without one
        try:
            unpacked = zlib.decompressobj(window).decompress(body, max_bytes + 1)
        except zlib.error:
            continue
        if len(unpacked) > max_bytes:
            raise DroppedError(reasons.TOO_MANY_BYTES)
        return unpacked
    return body  # it says so and is not
