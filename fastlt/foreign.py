"""What comes from outside: the one place that reads its JSON, takes secrets out of it, and makes its words harmless."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable
from itertools import accumulate
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from fastlt.messages import harmless

DEPTH = 64  # lists and objects inside each other; what people exchange has ten at most
MOST_VALUES = 2**20  # of a server's answer: a megabyte of {}, takes 25 in memory
_PIECE = 2**24
_FILE_BYTES = 2**32  # the lists of iNaturalist 2021 have one gigabyte
_SHORTEST_SECRET = 6  # shorter ones are "none" and the like, and parts of words

_NOT_A_MARK = bytes(set(range(256)) - set(b'[]{}"'))
_STEP = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}
_HALF_A_CHARACTER = re.compile(r"\\u[dD][89a-fA-F]")
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
        forms = {form for secret in secrets if len(secret) >= _SHORTEST_SECRET for form in _forms(secret)}
        longest_first = sorted(forms, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(_however_escaped, longest_first)), re.IGNORECASE) if forms else None

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


def _forms(secret: str) -> set[str]:
    """A secret as it is, and as URLs, headers, JSON and web pages may write it."""
    spelled = "".join(f"\\u{ord(c):04x}" for c in secret)
    return {
        secret,
        quote(secret),
        quote(secret, safe=""),
        spelled,
        base64.b64encode(secret.encode()).decode().rstrip("="),
        secret.encode().hex(),
        "".join(f"%{byte:02x}" for byte in secret.encode()),
    }


def _however_escaped(form: str) -> str:
    """The pattern of a text that may be in JSON, in JSON in JSON and so on."""
    pattern = "".join(map(_character, form))
    return rf"(?<!\\){pattern}" if form[0] in "\\'\"" else pattern  # or each of many backslashes would be begun at


def _character(c: str) -> str:
    """A character as it is, behind any backslashes where JSON puts some, or as a web page may write it."""
    if c.isalnum():
        return c
    plain = r"\\+" if c == "\\" else rf"\\*{c}" if c in "'\"" else re.escape(c)
    name = {'"': "&quot;|", "&": "&amp;|", "<": "&lt;|", ">": "&gt;|"}.get(c, "")
    return rf"(?:{plain}|{name}&#0*{ord(c)};|&#x0*{ord(c):x};)"


def without_credentials(text: str) -> str:
    """A text with *** for what looks like a credential: of an Authorization header, or before the @ of a URL."""
    return _CREDENTIALS.sub(lambda found: "***@" if found[0].endswith("@") else "***", text)


def shown_url(url: str) -> str:
    """A URL, or what somebody took for one, as it may be shown: without user, password and query."""
    return re.sub(r"^([\w+.-]+://)?.*@", lambda found: found[1] or "", url.partition("?")[0], flags=re.DOTALL)


def passwords_of(url: str) -> tuple[str, ...]:
    """The secrets in a URL: its password and what Basic authentication makes of it, or a user who is a token."""
    user, colon, password = url.partition("://")[2].partition("/")[0].rpartition("@")[0].partition(":")
    user, password = unquote(user), unquote(password)
    return (password, f"{user}:{password}") if colon else (user, f"{user}:")


def require_class_name(name: object) -> None:
    """Raises ValueError for what cannot be the name of a class: no text, or one with characters that terminals obey."""
    if not isinstance(name, str) or harmless(name) != name or "\n" in name or "\t" in name:
        raise ValueError(f"{repr(name)[:100]} is no name of a class: it is no text, or has control characters in it")


def table_cell(text: str) -> str:
    """A text for a CSV file: with an apostrophe before what a spreadsheet would take for a formula."""
    return f"'{text}" if text.lstrip(" ").startswith(_FORMULA) else text
