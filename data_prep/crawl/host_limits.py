"""What one host allows: limits that come with fastlt, each with the page that states it, those of --policy, options."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from yarl import URL

from fastlt.data_prep.crawl.options import Politeness
from fastlt.messages import one_line
from fastlt.yaml_text import read_mapping

STATED = Path(__file__).with_name("limits.yaml")
HOUR, DAY = 3600, 86_400  # seconds
_UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_SIZE = re.compile(r"([\d.]+)\s*([KMGT]?B)", re.IGNORECASE)
_TEXTS = ("page", "instead")


@dataclass(frozen=True)
class HostLimits:
    """What may be asked of a host; None is no limit.

    Attributes:
        bytes_per_second, bytes_per_hour, bytes_per_day: of bodies.
        page: where it is stated, "" for a limit of the options.
        instead: what to do where that means days.
    """

    requests_per_second: float | None = None
    requests_per_day: float | None = None
    connections: int | None = None
    bytes_per_second: float | None = None
    bytes_per_hour: float | None = None
    bytes_per_day: float | None = None
    page: str = ""
    instead: str = ""

    def said(self) -> str:
        """The limits in a few words."""
        parts = [
            f"{self.requests_per_second:g} requests/s" if self.requests_per_second else "",
            f"{self.requests_per_day:,.0f} requests/day" if self.requests_per_day else "",
            f"{self.connections} at once" if self.connections else "",
            f"{amount(self.bytes_per_second)}/s" if self.bytes_per_second else "",
            f"{amount(self.bytes_per_hour)}/hour" if self.bytes_per_hour else "",
            f"{amount(self.bytes_per_day)}/day" if self.bytes_per_day else "",
        ]
        return ", ".join(filter(None, parts)) or "none"


NUMBERS = tuple(field.name for field in fields(HostLimits) if field.name not in _TEXTS)


def shown(key: str) -> str:
    """A host as people know it."""
    return key.removesuffix(":*")


def amount(num_bytes: float) -> str:
    """So many bytes, for people."""
    unit = next(unit for unit in ("TB", "GB", "MB", "KB", "B") if num_bytes >= _UNITS[unit] or unit == "B")
    return f"{num_bytes / _UNITS[unit]:.4g} {unit}"


class Policies:
    """The limits of every host.

    What is stated for a host lowers --rate, --api-rate and --per-host and never raises them; what --policy says takes
    the place of both. What the host itself asks for, by robots.txt or Retry-After, comes on top (`politeness.py`).

    Args:
        politeness: the options, --policy among them.
        apis: hosts of image sources' APIs, for which --api-rate holds too.

    Attributes:
        apis: the same.

    Raises:
        ValueError: --policy cannot be read or has a mistake, which is named by file, host and key.
    """

    def __init__(self, politeness: Politeness, apis: Collection[str] = ()) -> None:
        self._politeness = politeness
        self._stated = _checked(STATED, read_mapping(STATED, "policy"))
        self._own: dict[str, dict[str, Any]] = {}
        if politeness.policy:
            self._own = _checked(politeness.policy, read_mapping(politeness.policy, "policy"))
        self.apis = frozenset(apis)
        self._api_keys = frozenset(map(self.key, apis))

    def key(self, host: str) -> str:
        """What a host's limits and counts go by: name:*, where they are those of a name, as all its ports are one host.

        Args:
            host: name:port.
        """
        name = _name(host)
        return f"{name}:*" if host not in self._own and (name in self._own or name in self._stated) else host

    @property
    def has_own(self) -> bool:
        """Whether there is a --policy."""
        return bool(self._own)

    def of(self, host: str) -> HostLimits:
        """The limits of a host, which is name:port or what `key` makes of that."""
        host, options = self.key(host), self._politeness
        rates = [options.rate, options.api_rate if host in self._api_keys else 0]
        found = HostLimits(min(filter(None, rates), default=None), connections=options.per_host)
        stated, own = _entry(self._stated, host), _entry(self._own, host)
        lowered = {
            key: value if getattr(found, key) is None else min(value, getattr(found, key))
            for key, value in stated.items()
            if key in NUMBERS and value is not None
        }
        found = replace(found, **stated | lowered)
        if own:
            found = replace(found, **{"page": str(options.policy)} | own)
        return found

    def unused(self, hosts: Iterable[str]) -> list[str]:
        """Hosts that --policy names and that are none of these."""
        met = {key for host in hosts for key in (host, _name(host))}
        return [host for host in self._own if host not in met]


def _name(host: str) -> str:
    return host.rpartition(":")[0]


def _entry(policy: dict[str, dict[str, Any]], host: str) -> dict[str, Any]:
    return policy.get(host) or policy.get(_name(host)) or {}


def _checked(file: Path, read: dict[Any, Any]) -> dict[str, dict[str, Any]]:
    """{host as candidates have it, with or without port: {key: value}}."""
    found: dict[str, dict[str, Any]] = {}
    for said, entry in read.items():
        where = f"policy {file}: host {one_line(said)!r}"
        host = _host(said)
        if not host:
            raise ValueError(f"{where} is no host: write a name such as images.example.org, or name:port.")
        if host in found:
            raise ValueError(f"{where} stands twice, in two ways of writing it.")
        if not isinstance(entry, dict):
            raise ValueError(f"{where} has no keys: write for example `requests_per_second: 1` below it.")
        found[host] = {key: _value(where, key, value) for key, value in entry.items()}
    return found


def _host(said: Any) -> str:
    """The name, or name:port, as `addresses.host_of` writes it; "" if it is none."""
    try:
        url = URL(f"http://{said}")
    except ValueError:
        return ""
    plain = isinstance(said, str) and re.fullmatch(r"[\w.:-]+", url.raw_host or "") and url == url.origin()
    if not plain or not url.raw_host:
        return ""
    return f"{url.raw_host}:{url.explicit_port}" if url.explicit_port else url.raw_host


def _value(where: str, key: Any, value: Any) -> Any:
    if key in _TEXTS:
        if not isinstance(value, str):
            raise ValueError(f"{where}: {key} is {one_line(value)!r}, not a text.")
        return one_line(value, 300)
    if key not in NUMBERS:
        raise ValueError(f"{where}: there is no key {one_line(key)!r}, only {', '.join([*NUMBERS, *_TEXTS])}.")
    if value is None:
        return None
    number = value
    if key.startswith("bytes") and isinstance(value, str) and (size := _SIZE.fullmatch(value.strip())):
        try:
            number = float(size[1]) * _UNITS[size[2].upper()]
        except ValueError:
            number = None
    wants = "a size such as 24 GB" if key.startswith("bytes") else "a number"
    is_number = isinstance(number, int | float) and not isinstance(number, bool) and math.isfinite(number)
    if not is_number or number <= 0 or (key == "connections" and number != int(number)):
        whole = "a whole number" if key == "connections" else wants
        raise ValueError(f"{where}: {key} is {one_line(repr(value))}; give {whole} above 0, or null for no limit.")
    least = 1 if key != "requests_per_second" else 1 / DAY
    if number < least:
        raise ValueError(
            f"{where}: {key} is {one_line(repr(value))}: nothing could be fetched; give at least {least:g}."
        )
    return int(number) if key == "connections" else float(number)
