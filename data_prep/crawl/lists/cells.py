"""What a cell of a list means: URLs of images as people write them, and plain text."""

from __future__ import annotations

import ast
import contextlib
import html
import re
import warnings
from collections.abc import Iterator
from decimal import Decimal
from typing import Any
from urllib.parse import quote

from fastlt.data_prep.crawl.addresses import parse_url
from fastlt.foreign import parse_json
from fastlt.messages import one_line

_WEB = re.compile(r"https?://[^\s/]", re.IGNORECASE)
_NO_SCHEME = re.compile(r"(?:www\.|//)[\w-]+(?:\.[\w-]+)+(?::\d+)?(?:/|$)", re.IGNORECASE)
_BUCKET = re.compile(r"(s3|gs)://([\w.-]+)/(.+)", re.IGNORECASE)
_NEXT_URL = re.compile(r"(?<=[|;,\s])(?=(?:https?|s3|gs)://|//|www\.)", re.IGNORECASE)
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*):", re.IGNORECASE)
_FILE_PAGE = re.compile(
    r"https?://(?:commons\.wikimedia\.org|[a-z-]+\.wikipedia\.org)/wiki/(?:File|Image):([^?#]+)", re.IGNORECASE
)
_IMAGE_NAME = re.compile(r"\.(?:jpe?g|jpe|jfif|png|webp|gif|bmp|tiff?|avif)(?=$|[?#&!:/_])", re.IGNORECASE)

_PAGE_NAME = re.compile(r"^[^?#]*/[^?#]*\.(?:[sx]?html?|aspx?|jsp)(?=$|[?#/])", re.IGNORECASE)

_IMG = re.compile(r"<img\b[^>]*?\bsrc\s*=\s*[\"']?([^\"'\s>]+)", re.IGNORECASE)
_NAMES = ("name", "label", "text", "title", "value", "id")  # of what an object is called
_MAX_WRITTEN = 100_000
_MAX_TEXT = 10_000  # characters of a label or an attribution


def is_url(value: Any) -> bool:
    """Whether a cell is one or more URLs of the web, or of a public bucket."""
    if not isinstance(value, str):
        return False
    if value.lstrip().startswith(("[", "<img", "<IMG")):
        value = next(iter(_written_list(value) or _IMG.findall(value)), "")
    value = value.strip().strip("<>\"'")
    return bool(_WEB.match(value) or _NO_SCHEME.match(value) or _BUCKET.match(value))


def looks_like_image(value: Any) -> bool:
    """Whether a cell's URL names an image file."""
    if looks_like_page(value):
        return False
    return is_url(value) and bool(_IMAGE_NAME.search(_parts(value)[0]) or "/special:filepath/" in value.lower())


def ends_as_image(text: str) -> bool:
    """Whether a text is a URL that ends with the name of an image file."""
    found = list(_IMAGE_NAME.finditer(text)) if is_url(text) else []
    return bool(found) and (found[-1].end() == len(text) or text[found[-1].end()] in "?#")


def looks_like_page(value: Any) -> bool:
    """Whether a cell's URL names a web page, whatever stands before its ending."""
    return is_url(value) and bool(_PAGE_NAME.search(value))


def image_urls(value: Any) -> tuple[list[str], list[str]]:
    """(URLs in a cell, or in a list of them; for each thing in it that is none, what it is)."""
    urls, others = [], []
    for part in _parts(value):
        url = _as_url(part)
        if url:
            urls.append(url)
        else:
            others.append(_kind(part))
    return list(dict.fromkeys(urls)), others


def page_of(url: str) -> str:
    """The page of a file on Wikimedia Commons, where its license and its author stand; "" for other URLs."""
    host, path, name = url.partition("/wiki/Special:FilePath/")
    return f"{host}/wiki/File:{name.partition('?')[0]}" if path else ""


def as_text(value: Any) -> str:
    """On one line, without controls; the first of several, an object's name; "" for nothing, pandas' NaN too."""
    if isinstance(value, list | tuple):
        value = next(iter(value), None)
    if isinstance(value, dict):
        value = next((value[key] for key in _NAMES if isinstance(value.get(key), str | int)), None)
    if isinstance(value, bytes):
        return one_line(value.decode("utf-8", "replace"), _MAX_TEXT)
    if isinstance(value, Decimal):
        value = float(value) if value.is_finite() else None
    if isinstance(value, float) and value.is_integer():  # pandas, for a column of integers with gaps
        value = int(value)
    return one_line(value, _MAX_TEXT) if isinstance(value, str | int | float) and value == value else ""


def _parts(value: Any) -> list[str]:
    if isinstance(value, list | tuple):
        return [part for item in value for part in _parts(item)] or [""]
    if isinstance(value, dict):  # Hugging Face's images that are somewhere else
        return _parts(value.get("url") or value.get("path") or "")
    if not isinstance(value, str):
        return [""]
    if written := _written_list(value) or _IMG.findall(value):
        return _parts(written)
    parts = (part.strip().rstrip("|;,").rstrip() for part in _NEXT_URL.split(value.strip()))
    return [part for part in parts if part] or [""]


def _written_list(text: str) -> list[str]:
    """The texts in a list that JSON or Python wrote into a cell; none where the cell is something else."""
    if not text.lstrip().startswith("[") or "//" not in text or len(text) > _MAX_WRITTEN:
        return []
    for read in (parse_json, ast.literal_eval):
        with contextlib.suppress(ValueError, SyntaxError, TypeError, MemoryError, RecursionError), _silence():
            found = read(text.strip())
            return [item for item in found if isinstance(item, str)] if isinstance(found, list) else []
    return []


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Python, on backslashes in what somebody wrote
        yield


def _as_url(text: str) -> str:
    """The URL that a person means, or "" ."""
    text = text.strip().strip("<>\"'").strip()
    if "&amp;" in text:
        text = html.unescape(text)
    if bucket := _BUCKET.match(text):
        store = {"s3": f"https://{bucket[2]}.s3.amazonaws.com/", "gs": f"https://storage.googleapis.com/{bucket[2]}/"}
        text = store[bucket[1].lower()] + bucket[3]
    elif _NO_SCHEME.match(text):
        text = f"https:{text}" if text.startswith("//") else f"http://{text}"
    if not _WEB.match(text) or len(text) > _MAX_WRITTEN:
        return ""
    if page := _FILE_PAGE.match(text):
        text = f"https://commons.wikimedia.org/wiki/Special:FilePath/{page[1]}"
    text = re.sub(r"[\s\x00-\x1f\x7f]", lambda c: quote(c[0]), text)
    parsed = parse_url(text)
    return str(parsed) if parsed else ""


def _kind(text: str) -> str:
    scheme = _SCHEME.match(text)
    if not text.strip():
        return "without a URL"
    return f"with a URL of {scheme[1].lower()}:" if scheme and len(scheme[1]) > 1 else "with something that is no URL"
