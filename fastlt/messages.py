"""What messages share: names of many things, bytes and seconds, and what somebody else wrote."""

from __future__ import annotations

import re
from collections.abc import Sequence
from errno import EDQUOT, ENOSPC

_OBEYED = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u061c\u2028-\u202e\u2066-\u2069]")


def listed(names: Sequence[str], most: int = 5) -> str:
    """The first names of many, and how many more there are."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(one_line(name, 1000) for name in names[:most]) + more


def harmless(text: str) -> str:
    """A text for a terminal, without what that would obey: controls but for the ends of lines, and turns of the writing
    direction, which show one thing and mean another."""
    return _OBEYED.sub("\ufffd", text)


def one_line(text: object, most: int = 100) -> str:
    """What somebody else wrote: on one line, with nothing in it that a terminal obeys, and not long."""
    begun = str(text)[: 20 * most + 1000]  # it may be long, and most of it spaces
    plain = " ".join("".join(c if c.isprintable() else " " for c in begun).split())
    return plain if len(plain) <= most else f"{plain[:most]}..."


def told(error: Exception) -> str:
    """What an error says; one of the system without its number, and with what to do where a disk is full."""
    full = ": make room, and run the same command again" * (getattr(error, "errno", None) in (ENOSPC, EDQUOT))
    return re.sub(r"\[Errno -?\d+\] ", "", str(error)) + full


def in_bytes(number: float) -> str:
    """So many bytes, in three digits."""
    unit, name = next(((u, n) for u, n in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB")) if number >= u), (1e3, "kB"))
    return f"{number / unit:.3g} {name}"


def in_time(seconds: float) -> str:
    """So many seconds, as people say them."""
    if seconds < 60:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
