"""How long a server asks to wait: the Retry-After header, for the crawler and for the language model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that a server asks to wait, from milliseconds, seconds or a date; None when it does not say.

    A date counts from the server's own Date, not from our clock, where it tells one.
    """
    value = headers.get("retry-after", "")
    try:
        if "retry-after-ms" in headers:
            seconds = float(headers["retry-after-ms"]) / 1000
        else:
            seconds = float(value)
    except ValueError:
        try:
            now = parsedate_to_datetime(headers["date"]) if "date" in headers else datetime.now(UTC)
            seconds = (parsedate_to_datetime(value) - now).total_seconds()
        except (ValueError, TypeError, OverflowError):  # a date of any year
            return None
    return seconds if math.isfinite(seconds) and seconds > 0 else None
