"""What comes from outside: the one place that reads its JSON, takes secrets out of it, and makes its words harmless."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable
from html.entities import html5
from itertools import accumulate
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote

from fastlt.messages import harmless, one_line

DEPTH = 64  # lists and objects inside each other; what people exchange has ten at most
MOST_VALUES = 2**20  # of a server's answer: a megabyte of {}, takes 25 in memory
_PIECE = 2**24
_FILE_BYTES = 2**32  # the lists of iNaturalist 2021 have one gigabyte
_SHORTEST_SECRET = 6  # shorter ones are "none" and the like, and parts of words

_NOT_A_MARK = bytes(set(range(256)) - set(b'[]{}"'))
_STEP = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}
_HALF_A_CHARACTER = re.compile(r"\\u[dD][89a-fA-F]")
_BACKSLASHES = r"(?:\\|u005c|x5c|%(?:25)*5c|&(?:amp;)*(?:#0*92|#x0*5c|bsol);?)++"
_NAMES: dict[str, list[str]] = {}  # of web pages, for each character
for _name, _meant in html5.items():
    _NAMES.setdefault(_meant, []).append(_name.rstrip(";"))
_CREDENTIALS = re.compile(r"(?<=://)[^/\s@'\"]+@|(?<=\bbearer )\S+|(?<=\bbasic )[\w+/=-]{8,}", re.IGNORECASE)
_FORMULA = tuple("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")  # the last four are Japanese spreadsheets'


def parse_json(text: str | bytes, **options: Any) -> Any:
    """The value of a JSON text, whatever it is.

    Args:
        text: of any length; bytes in UTF-8, UTF-16 or UTF-32.
        options: of `json.loads`.

    Raises:
        ValueError: it is no JSON, nested too deeply for whoever reads it next, or too large for the memory.
    """
    try:
        if isinstance(text, bytes):
            text = text.decode(json.detect_encoding(text))
        if _depth(text) > DEPTH:
            raise ValueError(f"it has more than {DEPTH} lists or objects inside each other")
        return json.loads(text, **options)
    except MemoryError:
        raise ValueError("it needs more memory than there is") from None


def parse_answer(body: bytes) -> Any:
    """The value of the JSON that a server sent; what is no text in it (bytes, halves of characters) becomes "?".

    Raises:
        ValueError: as `parse_json`, or it has more values than any honest answer.
    """
    text = body.decode(json.detect_encoding(body), "replace")
    if text.count(",") + text.count("[") + text.count("{") > MOST_VALUES:
        raise ValueError(f"it has more than {MOST_VALUES:,} values")
    value = parse_json(text)
    if _HALF_A_CHARACTER.search(text):
        value = json.loads(json.dumps(value, ensure_ascii=False).encode(errors="replace"))
    return value


def load_json(file: Path) -> Any:
    """The value of a JSON file in UTF-8, one of those that we write.

    Raises:
        ValueError: as `parse_json` and `read_bytes`; it is a pipe or the like, for which one could wait for ever.
        OSError: it cannot be read.
    """
    if file.exists() and not (file.is_file() or file.is_dir()):
        raise ValueError("it is no file")
    return parse_json(read_bytes(file).decode())


def read_bytes(file: Path, most: int = _FILE_BYTES) -> bytes:
    """A file's content, which nobody promised to end.

    Raises:
        ValueError: it is longer than `most` bytes, or than the memory.
        OSError: it cannot be read.
    """
    content = bytearray()
    try:
        with file.open("rb") as stream:
            while len(content) <= most and (piece := stream.read(_PIECE)):
                content += piece
        if len(content) > most:
            raise ValueError(f"{file} is longer than {most:,} bytes")
        return bytes(content)
    except MemoryError:
        raise ValueError(f"{file} needs more memory than there is") from None


def _depth(text: str) -> int:
    """How many lists and objects are inside each other at most, found without recursion; no more for short texts."""
    if (most := text.count("[") + text.count("{")) <= DEPTH:
        return most
    unescaped = re.sub(r"\\.", "", text, flags=re.DOTALL) if "\\" in text else text
    marks = unescaped.encode("utf-8", "surrogatepass").translate(None, _NOT_A_MARK)
    outside_of_strings = b"".join(marks.split(b'"')[::2])
    return max(accumulate(map(_STEP.__getitem__, outside_of_strings)), default=0)


class Secrets:
    """What nobody may see where somebody else's words are shown or kept: they may repeat what they were sent.

    Args:
        secrets: keys and passwords. Those of less than six characters are part of too many words to be found.
    """

    def __init__(self, secrets: Iterable[str]) -> None:
        patterns = [_however_written(secret) for secret in secrets if len(secret) >= _SHORTEST_SECRET]
        self._pattern = re.compile("|".join(patterns), re.IGNORECASE) if patterns else None

    def hide(self, text: str) -> str:
        """The text with *** where a secret was."""
        return self._pattern.sub("***", text) if self._pattern else text

    def hide_in(self, value: Any) -> Any:
        """The same in all texts of a JSON value, which tell no more by their escapes."""
        if isinstance(value, str):
            return self.hide(value)
        if isinstance(value, list):
            return [self.hide_in(item) for item in value]
        if isinstance(value, dict):
            return {self.hide(key): self.hide_in(item) for key, item in value.items()}
        return value


def _however_written(secret: str) -> str:
    """The pattern of a secret as it is, and as URLs, headers, JSON (also in JSON) and web pages may write it."""
    content = secret.encode(errors="replace")
    coded = {content.hex()}
    for sent in (content, b"Bearer " + content):
        coded |= {encode(sent).decode().rstrip("=") for encode in (base64.b64encode, base64.urlsafe_b64encode)}
    parts = [part for part in re.split(r"(\\+)", secret) if part]
    written = [_BACKSLASHES if part[0] == "\\" else r"\\*+".join(map(_character, part)) for part in parts]
    # What a run of backslashes begins is not begun again in its middle: that would take the square of its length.
    begin = r"(?<![\\;])(?<!5c)" if secret[0] == "\\" else r"\\?"
    return "|".join([re.escape(secret), *map(_escaped, sorted(coded)), begin + "".join(written)])


def _character(c: str) -> str:
    """A character as it is, or as JSON, URLs and web pages may write it, each of these also within its own kind."""
    wide = c.encode("utf-16-be", errors="replace")
    spelled = r"\\++".join(f"u{wide[i : i + 2].hex()}" for i in range(0, len(wide), 2))  # its backslashes come before
    python = f"x{ord(c):02x}|u{ord(c):08x}"
    percent = "".join(f"%(?:25)*{byte:02x}" for byte in c.encode(errors="replace"))
    names = "".join(f"|{name}" for name in _NAMES.get(c, ()))
    web = f"&(?:amp;)*(?:#0*{ord(c)}|#x0*{ord(c):x}{names});?"
    space = r"|\+" if c == " " else ""
    return f"(?>{spelled}|{python}|{percent}|{web}|{re.escape(c)}{space})"


def _escaped(base64_or_hex: str) -> str:
    return re.sub(r"[+/]", lambda found: rf"\\*+(?:\{found[0]}|%{ord(found[0]):x})", base64_or_hex)


def without_credentials(text: str) -> str:
    """A text with *** for what looks like a credential: of an Authorization header, or before the @ of a URL."""
    return _CREDENTIALS.sub(lambda found: "***@" if found[0].endswith("@") else "***", text)


def shown_url(url: str) -> str:
    """A URL, or what somebody took for one, as it may be shown: without user, password and query."""
    return re.sub(r"^([\w+.-]+://)?.*@", lambda found: found[1] or "", url.partition("?")[0], flags=re.DOTALL)


def passwords_of(url: str) -> tuple[str, ...]:
    """The secrets in a URL: its password and what Basic authentication makes of it, or a user who is a token; keys
    in its query."""
    user, colon, password = url.partition("://")[2].partition("/")[0].rpartition("@")[0].partition(":")
    user, password = unquote(user), unquote(password)
    query = parse_qsl(url.partition("?")[2].partition("#")[0])
    keys = [value for name, value in query if re.search("key|token|secret|sig|pass|auth", name, re.IGNORECASE)]
    return (password, f"{user}:{password}", *keys) if colon else (user, f"{user}:", *keys)


def require_class_name(name: object) -> None:
    """Raises ValueError for what cannot be the name of a class: no text, or one with characters that terminals obey."""
    if not isinstance(name, str) or harmless(name) != name or "\n" in name or "\t" in name:
        raise ValueError(f"{repr(name)[:100]} is no name of a class: it is no text, or has control characters in it")


def table_cell(text: str) -> str:
    """A text for a CSV file: with an apostrophe before what a spreadsheet would take for a formula."""
    return f"'{text}" if text.lstrip(" ").startswith(_FORMULA) else text


def markdown(text: str, most: int = 100) -> str:
    """A text on one line of a Markdown page or in a cell of its tables, in which nothing is a mark or a tag."""
    return re.sub(r"([\\`*_{}\[\]()<>#+!|~$&:@/])", lambda found: f"&#{ord(found[0])};", one_line(text, most))
