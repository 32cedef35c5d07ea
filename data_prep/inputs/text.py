"""Text files and JSON as editors and spreadsheets save them."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import NamedTuple

from fastlt.foreign import read_bytes


def read_text(file: Path, what: str, errors: str = "strict") -> str:
    """A file's text, in UTF-8 or UTF-16, with a byte order mark or without.

    Args:
        file: to read.
        what: how messages call it, for example "class list".
        errors: what becomes of other bytes, as `bytes.decode` has it.

    Raises:
        ValueError: it cannot be read.
    """
    try:
        try:
            content = read_bytes(file)
        except ValueError as error:
            raise ValueError(f"the {what} {error}.") from None
        if content.startswith(b"version https://git-lfs"):
            raise ValueError(f"the {what} {file} is a pointer of Git LFS: `git lfs pull` brings the file itself.")
        return content.decode(json.detect_encoding(content), errors).removeprefix("\ufeff")
    except OSError as error:
        raise ValueError(f"the {what} {file} cannot be read: {error}.") from None
    except UnicodeDecodeError as error:
        raise ValueError(
            f"the {what} {file} cannot be read: byte {error.start:,} is no {error.encoding}; save it as UTF-8."
        ) from None


def unquoted(field: str) -> str:
    """A field without spaces around it and the quotes that a spreadsheet writes."""
    field = field.strip()
    if len(field) > 1 and field[0] == field[-1] and field[0] in "\"'":
        return field[1:-1].replace(2 * field[0], field[0]).strip()
    return field


class Header(NamedTuple):
    """The names of columns, and what stands between them."""

    fields: list[str]
    delimiter: str | None


def header_fields(line: str) -> Header | None:
    """What a line says if it is a header: two columns or more, and no number among them."""
    delimiter = next((d for d in "\t;," if d in line), None)
    fields = split_fields(line, delimiter)
    if len(fields) < 2 or any(field.replace(".", "").isdecimal() for field in fields):
        return None
    return Header(fields, delimiter)


def split_fields(line: str, delimiter: str | None) -> list[str]:
    """The fields of one line; None splits at spaces. Quotes bind within the line, so none can swallow others."""
    try:
        row = next(csv.reader([line.strip()], delimiter=delimiter), []) if delimiter else line.split()
    except csv.Error as error:
        raise ValueError(f"{line.strip()[:80]!r} cannot be split into columns: {error}.") from None
    return [unquoted(field) for field in row]
