"""Reading what a source answered: what is of no use is skipped, what is of no documented form is an error."""

from __future__ import annotations

import re
from collections.abc import Iterator
from mimetypes import MimeTypes
from typing import Any
from urllib.parse import urlsplit

from fastlt.data_prep.crawl.sources.source import SourceError
from fastlt.messages import one_line

MAX_TEXT = 10_000  # characters of a field; credits with links and images have a thousand
_MAX_URL = 8_000
STILL_IMAGES = frozenset({"image/jpeg", "image/png", "image/webp", "image/bmp", "image/gif", "image/tiff"})
_OUR_TYPES = MimeTypes()  # Python's own table, which no file of this machine has changed


def records(source: str, answer: Any, key: str) -> list[dict[str, Any]]:
    """The JSON objects of the list `answer[key]`; other things in it are left out.

    Raises:
        SourceError: there is no such list.
    """
    found = answer.get(key) if isinstance(answer, dict) else None
    if not isinstance(found, list):
        raise SourceError(f"{source} answered without a list {key!r}: {one_line(repr(answer), 200)}.")
    return [record for record in found if isinstance(record, dict)]


def field(source: str, answer: Any, key: str, kind: type) -> Any:
    """`answer[key]`, which the source promises to be there.

    Raises:
        SourceError: it is not there, or not of that kind.
    """
    value = answer.get(key) if isinstance(answer, dict) else None
    if not isinstance(value, kind):
        raise SourceError(f"{source} answered with no {kind.__name__} {key!r}: {one_line(repr(answer), 200)}.")
    return value


def text(record: Any, *keys: str) -> str:
    """The first of these fields which is a text with something in it, on one line; else ""."""
    values = (record.get(key) for key in keys) if isinstance(record, dict) else ()
    return next((line for v in values if isinstance(v, str) and (line := one_line(v, MAX_TEXT))), "")


def objects(record: dict[str, Any], key: str) -> Iterator[dict[str, Any]]:
    """The JSON objects of a list that a record may have."""
    values = record.get(key)
    return (value for value in (values if isinstance(values, list) else []) if isinstance(value, dict))


def http_url(value: Any) -> str:
    """`value` where it is the URL of something on the web, else ""."""
    if not isinstance(value, str) or len(value) > _MAX_URL:
        return ""
    if not value.strip().isprintable() or re.search(r"\s", value.strip()):
        return ""
    try:
        parts = urlsplit(value.strip())
        return value.strip() if parts.scheme.lower() in ("http", "https") and parts.hostname else ""
    except ValueError:  # such as unclosed brackets around the host
        return ""


def is_still_image(url: str, mime: str = "") -> bool:
    """Whether it may be a still image, by its MIME type or else its extension; unknown ones may be."""
    kind = mime.partition(";")[0].strip().lower() or _OUR_TYPES.guess_type(urlsplit(url).path)[0]
    return kind is None or kind in STILL_IMAGES


def same_name(one: str, other: str) -> bool:
    """Whether two names are the same but for case, hyphens and the like."""
    return _words(one) == _words(other) != []


def _words(name: str) -> list[str]:
    return re.findall(r"\w+", name.replace("'", "").replace("\u2019", "").casefold())
