"""Rows of a file that somebody wrote: delimited text, JSON, JSON lines or Parquet, told by its content.

Nothing is dropped without being counted in `Table.told`; memory does not grow with the file, but for JSON.
"""

from __future__ import annotations

import bz2
import codecs
import csv
import gzip
import io
import json
import lzma
import random
import re
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import IO, Any, cast

from fastlt.data_prep.crawl.lists.cells import is_url, one_line

Row = tuple[int, dict[str, Any]]
"""The number of a line or row, and what stands under each column's name."""
SAMPLE = 256  # first rows that tell what a table is like
_SPREAD = 2048  # and others from all over the file
_GROUPS = 5  # of a Parquet file, that are looked into
_MAX_OPEN_LINES = 100  # of one quoted value
_MAX_JSON_BYTES = 2**30
_DELIMITERS = ("\t", ",", ";", "|")
_PACKED = ((b"\x1f\x8b", gzip.open), (b"BZh", bz2.open), (b"\xfd7zXZ", lzma.open))
_NO_LISTS = {
    b"PK\x03\x04": "a spreadsheet or a zip archive: save the list in it as CSV",
    b"\xd0\xcf\x11\xe0": "an old spreadsheet: save it as CSV",
    b"\x28\xb5\x2f\xfd": "packed by zstd: unpack it first",
    b"SQLite format 3": "a database: export the table as CSV",
    b"%PDF": "a PDF",
    b"\xff\xd8\xff": "an image",
    b"\x89PNG": "an image",
    b"version https://git-lfs": "a pointer of Git LFS: `git lfs pull` brings the file itself",
    b"<": "a web page: save the list itself",
}


class NoListError(ValueError):
    """A file is something else than a list of URLs."""


@dataclass
class Table:
    """One file.

    Attributes:
        names: of the columns; "1", "2" and so on where nothing names them.
        told: what was odd in the rows read last, each with how often and where first.
    """

    file: Path
    names: list[str] = field(default_factory=list)
    has_header: bool = True
    told: Counter[str] = field(default_factory=Counter)
    first: dict[str, int] = field(default_factory=dict)

    def rows(self, columns: Sequence[str] | None = None) -> Iterator[Row]:
        """Every row, from the first one, with these columns at least."""
        raise NotImplementedError

    def sample(self) -> list[dict[str, Any]]:
        """The first rows, others from the whole file, and for each column one that has it: lists are often sorted."""
        draw = random.Random(0)
        first: list[dict[str, Any]] = []
        spread: list[dict[str, Any]] = []
        empty, late = set(self.names), []
        for number, row in enumerate(self._sampled_rows()):
            if begins := {name for name in empty if row.get(name) not in (None, "")}:
                empty -= begins
                late.append(row)
            if number < SAMPLE:
                first.append(row)
            elif len(spread) < _SPREAD:
                spread.append(row)
            elif (place := draw.randrange(number - SAMPLE + 1)) < _SPREAD:
                spread[place] = row
        self.told.clear()
        self.first.clear()
        return [*first, *spread, *(row for row in late if row not in first)]

    def _sampled_rows(self) -> Iterator[dict[str, Any]]:
        return (row for _, row in self.rows())

    def tell(self, what: str, number: int) -> None:
        """Counts something odd in a line."""
        self.told[what] += 1
        self.first.setdefault(what, number)


def open_table(file: Path) -> Table:
    """The table in a file, by what the file holds; its name decides only where that is not enough.

    Raises:
        ValueError: it is no list.
        OSError, EOFError, zlib.error, lzma.LZMAError: it cannot be read.
    """
    with _unpacked(file) as stream:
        start = stream.read(4096)
    if start.startswith(b"PAR1"):
        return ParquetTable(file)
    for mark, what in _NO_LISTS.items():
        if start.lstrip().startswith(mark):
            raise ValueError(f"{file} is no list of URLs but {what}.")
    encoding = _encoding(start)
    text = codecs.getincrementaldecoder(encoding)("replace").decode(start).lstrip("\ufeff \t\r\n")
    if text.count("\0") > len(text) / 100:
        raise ValueError(f"{file} is no list of URLs: it is not text.")
    if text.startswith("{") and not _suffixes(file) & {".csv", ".tsv"}:
        return JsonLinesTable(file, encoding) if _is_json_lines(file, encoding) else JsonTable(file, encoding)
    if text.startswith("[") and not _suffixes(file) & {".csv", ".tsv"}:
        return JsonTable(file, encoding)
    return DelimitedTable(file, encoding)


def _suffixes(file: Path) -> set[str]:
    return {suffix.lower() for suffix in file.suffixes}


def _unpacked(file: Path) -> IO[bytes]:
    with file.open("rb") as stream:
        start = stream.read(8)
    for mark, opener in _PACKED:
        if start.startswith(mark):
            return cast(IO[bytes], opener(file, "rb"))
    return file.open("rb")


def _encoding(start: bytes) -> str:
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    for encoding, high in (("utf-16-le", start[1::2]), ("utf-16-be", start[::2])):  # without its mark
        if high.count(0) > len(high) / 3:
            return encoding
    return "utf-8-sig"


def _as_windows_1252(error: UnicodeError) -> tuple[str, int]:
    """What is no UTF-8 is most often somebody's name from an old program."""
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return error.object[error.start : error.end].decode("cp1252", "replace"), error.end


codecs.register_error("windows-1252", _as_windows_1252)
csv.field_size_limit(2**31 - 1)  # polygons and captions are long


def _lines(file: Path, encoding: str) -> IO[str]:
    errors = "windows-1252" if encoding == "utf-8-sig" else "replace"
    return io.TextIOWrapper(_unpacked(file), encoding=encoding, errors=errors)


# Delimited text


class DelimitedTable(Table):
    """CSV, TSV and their like, or one URL a line.

    A quoted value may run over several lines where the line that ends it makes a row of the right width, unless these
    lines are rows of their own; a quote that never ends is a character like others, and costs no row.
    """

    def __init__(self, file: Path, encoding: str) -> None:
        super().__init__(file)
        self._encoding = encoding
        with _lines(file, encoding) as lines:
            head = list(islice((line for line in lines if line.strip()), SAMPLE))
        self._named = re.match(r"sep=(.)\s*$", head[0]) if head else None  # Excel's first line
        if self._named:
            del head[0]
        self._delimiter = self._named[1] if self._named else _delimiter(head, file)
        # In tab-separated text a quote is a character, but for those who quote all they write.
        self._spans_lines = self._delimiter != "\t" or '"' in (head[0] if head else "")
        # Without a header no line says how many values a row has: most do.
        begins = bool(head) and _holds_url(head[0], self._delimiter)
        widths = Counter(len(_fields(line, self._delimiter)) for line in head)
        width = widths.most_common(1)[0][0] if begins else 0
        rows = [fields for _, fields in self._records(enumerate(head, 1), width)]
        cells = rows[0] if rows else []
        self.has_header = bool(cells) and not begins
        if len(cells) == 1 and cells[0].casefold() not in ("url", "urls"):  # else a line of something else
            self.has_header &= any(is_url(row[0]) for row in rows[1:2])
        self.names = _unique(cells) if self.has_header else [str(i + 1) for i in range(width or len(cells))]

    def rows(self, columns: Sequence[str] | None = None) -> Iterator[Row]:
        width, header = len(self.names), self.has_header
        with _lines(self.file, self._encoding) as lines:
            numbered = enumerate(lines, 1)
            if self._named:
                next(numbered, None)
            for number, fields in self._records(numbered, width):
                if header:
                    header = False
                    continue
                yield number, dict(zip(self.names, fields, strict=False))

    def _records(self, lines: Iterable[tuple[int, str]], width: int = 0) -> Iterator[tuple[int, list[str]]]:
        """(line, fields) of each record; without a width that of the first one counts."""
        ahead: deque[tuple[int, str]] = deque()
        rest = iter(lines)
        while ahead or (item := next(rest, None)) is not None:
            number, line = ahead.popleft() if ahead else item  # type: ignore[misc]
            if not line.strip():
                continue
            fields, plain = _quoted_fields(line, self._delimiter), _plain_fields(line, self._delimiter)
            if not width:
                fields = plain if fields is None else fields
                width = len(fields)
            elif fields is None or (len(fields) != width and len(plain) == width):
                fields = self._over_lines(number, line, width, ahead, rest)
                if fields is None:
                    fields = plain
                    if line.count('"') % 2:
                        self.tell("with a quote that nothing closes, read as it stands", number)
            extra = fields[width:]
            if len(fields) < width or any(extra):
                self.tell("with more or fewer values than the first line has", number)
            yield number, fields

    def _over_lines(
        self, number: int, line: str, width: int, ahead: deque[tuple[int, str]], rest: Iterator[tuple[int, str]]
    ) -> list[str] | None:
        """The fields of a record that goes on in the next lines, which are taken from `ahead` and `rest`; or None."""
        if not self._spans_lines or not _is_open(line, self._delimiter):
            return None
        text, has_url = line, _holds_url(line, self._delimiter)
        for more in range(_MAX_OPEN_LINES):
            if more == len(ahead):
                item = next(rest, None)
                if item is None:
                    return None
                ahead.append(item)
            if has_url and self._is_row(ahead[more][1], width):
                return None
            text += ahead[more][1]
            if '"' not in ahead[more][1]:
                continue
            fields = _quoted_fields(text, self._delimiter)
            if fields is not None and len(fields) == width:
                for _ in range(more + 1):
                    ahead.popleft()
                return fields
            if not _is_open(text, self._delimiter):
                return None
        return None

    def _is_row(self, line: str, width: int) -> bool:
        """Whether a line alone is a row with a URL."""
        readings = _plain_fields(line, self._delimiter), _quoted_fields(line, self._delimiter)
        return any(fields and len(fields) == width and any(map(is_url, fields)) for fields in readings)


def _quoted_fields(text: str, delimiter: str) -> list[str] | None:
    """The fields of a record with quotes as CSV has them; None where they are something else."""
    text = text.rstrip("\r\n")
    if delimiter in ("", " ") or '"' not in text:
        return _plain_fields(text, delimiter)
    try:
        records = _csv_records(text, delimiter)
    except csv.Error:
        return None
    return [cell.strip() for cell in records[0]] if len(records) == 1 else None


def _csv_records(text: str, delimiter: str) -> list[list[str]]:
    lines = io.StringIO(text, newline="")
    return list(csv.reader(lines, delimiter=delimiter, strict=True, skipinitialspace=True))


def _is_open(text: str, delimiter: str) -> bool:
    """Whether a quoted value goes on at the end of the text."""
    try:
        _csv_records(text, delimiter)
    except csv.Error as error:
        return "end of data" in str(error)
    return False


def _plain_fields(text: str, delimiter: str) -> list[str]:
    text = text.rstrip("\r\n")
    if not delimiter:
        return [text.strip()]
    if delimiter == " ":  # one URL and something before or after it
        parts = text.split(None, 1) if is_url(text.split(None, 1)[0]) else text.rsplit(None, 1)
        return [part.strip() for part in parts]
    return [cell.strip() for cell in text.split(delimiter)]


def _fields(line: str, delimiter: str) -> list[str]:
    return _quoted_fields(line, delimiter) or _plain_fields(line, delimiter)


def _holds_url(line: str, delimiter: str) -> bool:
    return any(map(is_url, _plain_fields(line, delimiter)))


def _delimiter(head: list[str], file: Path) -> str:
    """What stands between the values of the first lines; "" for one value a line."""
    one_a_line = _suffixes(file).isdisjoint({".csv", ".tsv"}) and all(is_url(line) for line in head if "\t" not in line)
    best, most = "", 0.0
    for delimiter in _DELIMITERS[:1] if one_a_line else _DELIMITERS:
        widths = [len(_fields(line, delimiter)) for line in head]
        alike = sum(width == widths[0] for width in widths) / len(widths) if widths else 0.0
        if widths and widths[0] > 1 and alike > most:
            best, most = delimiter, alike
    spaced = [re.fullmatch(r"\S+\s+https?://\S+|https?://\S+\s+\S.*", line.strip()) for line in head]
    return best or (" " if head and all(spaced) and not one_a_line else "")


def _unique(names: list[str]) -> list[str]:
    """The names, numbered where two are the same or one is empty."""
    found: list[str] = []
    for position, name in enumerate(names, 1):
        name = name or str(position)
        found.append(name if name not in found else f"{name} ({position})")
    return found


# JSON


class JsonLinesTable(Table):
    """An object a line; not all of them need all names."""

    def __init__(self, file: Path, encoding: str) -> None:
        super().__init__(file)
        self._encoding = encoding
        # A name may come first in the last line, and its values are not to be lost.
        self.names = list(dict.fromkeys(name for _, row in self.rows() for name in row))

    def rows(self, columns: Sequence[str] | None = None) -> Iterator[Row]:
        with _lines(self.file, self._encoding) as lines:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError):
                    row = None
                if isinstance(row, dict):
                    yield number, row
                else:
                    self.tell("that hold no JSON object", number)


class JsonTable(Table):
    """One JSON value: records, columns as pandas writes them, or an object with one of these in it."""

    def __init__(self, file: Path, encoding: str) -> None:
        super().__init__(file)
        with _unpacked(file) as stream:
            raw = stream.read(_MAX_JSON_BYTES + 1)
        if len(raw) > _MAX_JSON_BYTES:
            raise ValueError(f"{file} is too long for one JSON value: write a record a line, as .jsonl.")
        try:
            value = json.loads(raw.decode(encoding, "replace"))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{file} is no JSON: {error}.") from None
        self._records = _records_in(value)
        if not self._records and value:
            raise ValueError(f"{file} has no list of records in it.")
        self.names = list(dict.fromkeys(name for row in self._records if isinstance(row, dict) for name in row))

    def rows(self, columns: Sequence[str] | None = None) -> Iterator[Row]:
        for number, row in enumerate(self._records, 1):
            if isinstance(row, dict):
                yield number, row
            else:
                self.tell("that hold no JSON object", number)


def _is_json_lines(file: Path, encoding: str) -> bool:
    """Whether the first line is an object of its own, and another line follows or the name says so."""
    with _lines(file, encoding) as lines:
        first = next((line for line in lines if line.strip()), "")
        more = any(line.strip() for line in lines)
    try:
        json.loads(first)
    except (ValueError, RecursionError):
        return False
    return more or not _suffixes(file).isdisjoint({".jsonl", ".ndjson"})


def _records_in(value: Any) -> list[Any]:
    """The records that a JSON value is or holds."""
    if isinstance(value, list):
        if value and all(isinstance(item, str) for item in value):
            return [{"url": item} for item in value]
        if value and all(isinstance(item, list) for item in value):
            return [{str(i + 1): cell for i, cell in enumerate(item)} for item in value]
        return value
    if not isinstance(value, dict) or not value:
        return []
    if isinstance(value.get("columns"), list) and isinstance(value.get("data"), list):  # pandas' "split"
        names, rows = [*map(str, value["columns"])], value["data"]
        return [dict(zip(names, row, strict=False)) if isinstance(row, list) else row for row in rows]
    inner = list(value.values())
    if all(isinstance(item, dict) for item in inner):
        by_row = any(is_url(cell) for cell in inner[0].values()) and len({*map(frozenset, inner)}) == 1
        if by_row and sum(is_url(cell) for cell in inner[0].values()) < len(inner[0]):
            return inner  # {row: {column: value}}
        keys = dict.fromkeys(key for item in inner for key in item)
        return [{name: column.get(key) for name, column in value.items()} for key in keys]  # {column: {row: value}}
    if (
        all(isinstance(item, list) for item in inner)
        and len({len(item) for item in inner}) == 1
        and not any(isinstance(item[0], dict) for item in inner if item)
    ):
        return [dict(zip(value, row, strict=True)) for row in zip(*inner, strict=True)]  # {column: [value, ...]}
    if all(is_url(key) for key in value):
        return [{"url": key, "label": item} for key, item in value.items()]
    if all(is_url(item) for item in inner):
        return [{"label": key, "url": item} for key, item in value.items()]
    return max((item for item in inner if isinstance(item, list)), key=len, default=[])


# Parquet


class ParquetTable(Table):
    """A Parquet file; class labels of Hugging Face's data sets come as their names."""

    def __init__(self, file: Path) -> None:
        super().__init__(file)
        pyarrow, parquet = _pyarrow()
        try:
            with parquet.ParquetFile(file) as source:
                self.names = source.schema_arrow.names
                self._classes = _class_names(source.schema_arrow.metadata or {})
        except pyarrow.ArrowException as error:
            raise ValueError(f"{file} cannot be read: {one_line(error)}.") from None

    def rows(self, columns: Sequence[str] | None = None) -> Iterator[Row]:
        pyarrow, parquet = _pyarrow()
        wanted, number = None if columns is None else list(dict.fromkeys(columns)), 0
        try:
            # Buffered, a row group of any size is read piece by piece.
            with parquet.ParquetFile(self.file, buffer_size=2**20, pre_buffer=False) as source:
                for batch in source.iter_batches(SAMPLE if wanted is None else 4096, columns=wanted):
                    for row in batch.to_pylist():
                        number += 1
                        yield number, {name: self._named(name, value) for name, value in row.items()}
        except pyarrow.ArrowException as error:
            raise ValueError(f"{self.file} cannot be read: {one_line(error)}.") from None

    def _sampled_rows(self) -> Iterator[dict[str, Any]]:
        """Some of each batch of a few row groups."""
        pyarrow, parquet = _pyarrow()
        try:
            with parquet.ParquetFile(self.file, buffer_size=2**20, pre_buffer=False) as source:
                groups = source.num_row_groups
                some = sorted({i * (groups - 1) // (_GROUPS - 1) for i in range(_GROUPS)}) if groups else []
                for number, batch in enumerate(source.iter_batches(SAMPLE, row_groups=some)):
                    step = 16 if number else 1  # the first rows are wanted together
                    for row in batch.take(pyarrow.array(range(0, len(batch), step))).to_pylist():
                        yield {name: self._named(name, value) for name, value in row.items()}
        except pyarrow.ArrowException as error:
            raise ValueError(f"{self.file} cannot be read: {one_line(error)}.") from None

    def _named(self, column: str, value: Any) -> Any:
        classes = self._classes.get(column)
        return classes[value] if classes and isinstance(value, int) and 0 <= value < len(classes) else value


def _class_names(metadata: dict[bytes, bytes]) -> dict[str, list[str]]:
    try:
        features = json.loads(metadata.get(b"huggingface", b"{}")).get("info", {}).get("features", {})
        return {name: [*map(str, about["names"])] for name, about in features.items() if about.get("names")}
    except (ValueError, AttributeError, TypeError, RecursionError):
        return {}


def _pyarrow() -> Any:
    import pyarrow  # slow to import
    from pyarrow import parquet

    return pyarrow, parquet
