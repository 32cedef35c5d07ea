"""Which URLs and addresses may be asked: http(s) on public addresses, nothing inside the user's own network."""

from __future__ import annotations

import ipaddress
import re
import socket

from aiohttp import AddrInfoType
from yarl import URL

from fastlt.data_prep.crawl.metered_socket import MeteredSocket

_MAX_URL = 8_000  # characters, as many as servers take
_PLAIN = re.compile(  # without port, quotes and dots that lead upward: parsed, these stay as they are
    r"(?P<scheme>https?)://(?P<host>(?:[a-z0-9](?:[a-z0-9-]{0,40}[a-z0-9])?\.){1,4}[a-z]{2,20})"
    r"(?:/(?!\.)[\w.~-]*)+(?:\?[\w.~=&-]+)?",
    re.ASCII,
)
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_UNICAST = ipaddress.ip_network("2000::/3")  # all of IPv6 that is given out for hosts
_SPECIAL = [ipaddress.ip_network(net) for net in ("192.0.0.0/24", "3fff::/20")]  # which `is_global` does not know


class ForbiddenAddressError(OSError):
    """A connection to an address that is not public."""


def is_public(address: str) -> bool:
    """Whether a numeric IPv4 or IPv6 address is one of the public internet.

    An IPv6 address that carries an IPv4 one (mapped, 6to4, Teredo, NAT64) counts as what it carries.
    """
    ip = ipaddress.ip_address(address.partition("%")[0])
    carried: list[ipaddress.IPv4Address | ipaddress.IPv6Address] = [ip]
    if isinstance(ip, ipaddress.IPv6Address):
        low = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if ip.ipv4_mapped or ip in _NAT64:
            carried = [low]
        carried += [ip.sixtofour] if ip.sixtofour else []
        carried += list(ip.teredo) if ip.teredo else []
    return all(map(_is_unicast, carried))


def _is_unicast(ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    if ip.version == 6 and ip not in _UNICAST:
        return False
    return ip.is_global and not ip.is_multicast and not ip.is_reserved and not any(ip in net for net in _SPECIAL)


def any_socket(info: AddrInfoType) -> socket.socket:
    """A socket for one resolved address, whatever it is."""
    family, kind, protocol, _, _ = info
    return MeteredSocket(family, kind, protocol)


def public_socket(info: AddrInfoType) -> socket.socket:
    """A socket for one resolved address; aiohttp makes all its sockets here, so nothing else is ever connected to.

    What was resolved is what is checked and connected to: a name that resolves otherwise the next time gains nothing.

    Raises:
        ForbiddenAddressError: the address is private, loopback, link-local, multicast or reserved.
    """
    if not is_public(str(info[4][0])):
        raise ForbiddenAddressError("not a public address")
    return any_socket(info)


def parse_url(url: str) -> URL | None:
    """The URL if it is an http or https one with a host, and not endless, else None."""
    if len(url) > _MAX_URL:
        return None
    try:
        parsed = URL(url.strip())
    except ValueError:
        return None
    return parsed.with_fragment(None) if parsed.scheme in ("http", "https") and parsed.raw_host else None


def host_of(url: URL) -> str:
    """Host and port: what politeness counts by."""
    return f"{url.raw_host}:{url.port}"


def place_of(url: str) -> tuple[str, str] | None:
    """The same as `parse_url` and `host_of`, as text: (URL, host and port); None where it is none."""
    if len(url) <= _MAX_URL and (plain := _PLAIN.fullmatch(url)):
        return url, f"{plain['host']}:{443 if plain['scheme'] == 'https' else 80}"
    parsed = parse_url(url)
    return (str(parsed), host_of(parsed)) if parsed else None
