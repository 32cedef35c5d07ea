"""What messages share: names of many things, and what somebody else wrote."""

from __future__ import annotations

import re
from collections.abc import Sequence

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
