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
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice, takewhile
from pathlib import Path
from typing import IO, Any, cast

from fastlt.data_prep.crawl.lists.cells import ends_as_image, is_url, one_line

Row = tuple[int, dict[str, Any]]
"""The number of a line or row, and what stands under each column's name."""
SAMPLE = 256  # first rows that tell what a table is like
_SPREAD = 2048  # and others from all over the file
_GROUPS = 5  # of a Parquet file, that are looked into
_MAX_OPEN_LINES = 100  # of one quoted value
_MAX_JSON_BYTES = 2**30
_OTHER_WIDTH = "with more or fewer values than the first line has"
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
class Table(ABC):
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

    @abstractmethod
    def rows(self, columns: Sequence[str] | None = None) -> Iterator[Row]:
        """Every row, from the first one, with these columns at least."""

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

    def _as_unicode(self, lines: Iterable[str]) -> Iterator[str]:
        """The lines, those that are no UTF-8 read as what they most often are: an old program's."""
        for number, line in enumerate(lines, 1):
            if line.isascii() or not _NO_UTF_8.search(line):
                yield line
                continue
            self.tell("not in UTF-8, read as Windows-1252", number)
            yield line.encode("utf-8", "surrogateescape").decode("utf-8", "windows-1252")

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
            raise NoListError(f"{file} is no list of URLs but {what}.")
    encoding = _encoding(start)
    text = codecs.getincrementaldecoder(encoding)("replace").decode(start).lstrip("\ufeff \t\r\n")
    if text.count("\0") > len(text) / 100:
        raise NoListError(f"{file} is no list of URLs: it is not text.")
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


_NO_UTF_8 = re.compile(r"[\udc80-\udcff]")  # a byte that is left as it is
codecs.register_error("windows-1252", _as_windows_1252)
csv.field_size_limit(2**31 - 1)  # polygons and captions are long


def _lines(file: Path, encoding: str) -> IO[str]:
    errors = "surrogateescape" if encoding == "utf-8-sig" else "replace"
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
            numbered = list(islice((line for line in enumerate(lines, 1) if line[1].strip()), SAMPLE))
        self._comments = _comments(numbered)
        named = numbered[len(self._comments) :][:1]
        excel = re.match(r"sep=(.)\s*$", named[0][1]) if named else None  # Excel's first line
        self._skipped = named[0][0] if excel else max(self._comments, default=0)
        head = [line for number, line in numbered if number > self._skipped]
        self._delimiter = excel[1] if excel else _delimiter(head, file)
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
        # R names rows, but not the column of their names.
        self._names_rows = self.has_header and _names_rows(head[1:], self._delimiter, len(cells))
        cells = ["row"] * self._names_rows + cells
        self.names = _unique(cells) if self.has_header else [str(i + 1) for i in range(width or len(cells))]

    def rows(self, columns: Sequence[str] | None = None) -> Iterator[Row]:
        yield from self._rows()
        for number in self._comments:
            self.tell("before the list that begin with #, left out", number)

    def _rows(self) -> Iterator[Row]:
        width, header = len(self.names), self.has_header
        with _lines(self.file, self._encoding) as lines:
            numbered = islice(enumerate(self._as_unicode(lines), 1), self._skipped, None)
            for number, fields in self._records(numbered, width):
                if header:
                    header = False
                    if self._names_rows:  # so that the first line alone has one value less
                        self.told.pop(_OTHER_WIDTH, None)
                        self.first.pop(_OTHER_WIDTH, None)
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
                self.tell(_OTHER_WIDTH, number)
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


def _comments(lines: list[tuple[int, str]]) -> list[int]:
    """The numbers of the first lines where these are comments, and not names of columns behind a #."""
    comments = list(takewhile(lambda line: line[1].lstrip().startswith("#"), lines))
    after = lines[len(comments)][1] if len(comments) < len(lines) else ""
    for delimiter in _DELIMITERS:
        if comments and _holds_url(after, delimiter) and (width := len(_fields(after, delimiter))) > 1:
            names = _fields(comments[-1][1], delimiter)
            if len(names) == width and not _holds_url(comments[-1][1], delimiter):
                comments.pop()
                break
    return [number for number, _ in comments]


def _names_rows(lines: list[str], delimiter: str, width: int) -> bool:
    """Whether most lines have just one value more than there are names, in front."""
    rows = [_fields(line, delimiter) for line in lines]
    longer = [row for row in rows if len(row) == width + 1 and row[-1] and not is_url(row[0])]
    return width > 1 and len(longer) > len(rows) / 2 and any(any(map(is_url, row)) for row in longer)


def _holds_url(line: str, delimiter: str) -> bool:
    return any(map(is_url, _plain_fields(line, delimiter)))


def _delimiter(head: list[str], file: Path) -> str:
    """What stands between the values of the first lines; "" for one value a line."""
    one_a_line = _suffixes(file).isdisjoint({".csv", ".tsv"}) and all(is_url(line) for line in head if "\t" not in line)
    if one_a_line and (glued := _glued(head)):
        return glued
    best, most = "", 0.0
    for delimiter in _DELIMITERS[:1] if one_a_line else _DELIMITERS:
        widths = [len(_fields(line, delimiter)) for line in head]
        alike = sum(width == widths[0] for width in widths) / len(widths) if widths else 0.0
        if widths and widths[0] > 1 and alike > most:
            best, most = delimiter, alike
    body = (
        head
        if not head or is_url(head[0]) or len(head[0].split()) != 2 or _SPACED.fullmatch(head[0].strip())
        else head[1:]
    )
    spaced = [_SPACED.fullmatch(line.strip()) for line in body]
    return best or (" " if body and all(spaced) and not one_a_line else "")


_SPACED = re.compile(r"\S+\s+https?://\S+|https?://\S+\s+\S.*")


def _glued(head: list[str]) -> str:
    """What stands between a URL of an image and a label in most lines that begin with a URL; "" where a URL is all."""
    for delimiter in ("\t", ",", ";", "|", " "):
        parts = [line.strip().partition(delimiter) for line in head]
        # A comma or a space may be part of a URL, but not after the ending of an image and before no other.
        split = [url for url, _, label in parts if ends_as_image(url) and label.strip() and not is_url(label.strip())]
        whole = [line for line in head if ends_as_image(line.strip())]
        if len(split) > 0.9 * len(head) and not whole:
            return delimiter
    return ""


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
            for number, line in enumerate(self._as_unicode(lines), 1):
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
            text = raw.decode(encoding, "surrogateescape" if encoding == "utf-8-sig" else "replace")
            value = json.loads("".join(self._as_unicode(text.splitlines(keepends=True))))
            self._odd = Counter(self.told), dict(self.first)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{file} is no JSON: {error}.") from None
        self._records = _records_in(value)
        if not self._records and value:
            raise NoListError(f"{file} has no list of records in it.")
        self.names = list(dict.fromkeys(name for row in self._records if isinstance(row, dict) for name in row))

    def rows(self, columns: Sequence[str] | None = None) -> Iterator[Row]:
        self.told.update(self._odd[0])
        self.first |= self._odd[1]
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
    if records := _of_coco(value):
        return records
    inner = list(value.values())
    of_urls = any(inner) and all(isinstance(item, list) and all(map(is_url, item)) for item in inner)
    if of_urls and not any(_COLUMN_OF_URLS.search(name) for name in value):
        return [{"label": label, "url": url} for label, urls in value.items() for url in urls]
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


def _of_coco(value: dict[str, Any]) -> list[Any]:
    """The images of COCO's format, each with the names of its categories."""
    images, annotations, categories = (value.get(name) for name in ("images", "annotations", "categories"))
    if not (isinstance(images, list) and isinstance(annotations, list) and isinstance(categories, list)):
        return []
    names = {str(item.get("id")): item.get("name") for item in categories if isinstance(item, dict)}
    labels: dict[str, dict[Any, None]] = {}
    for item in annotations:
        if isinstance(item, dict) and isinstance(name := names.get(str(item.get("category_id"))), str):
            labels.setdefault(str(item.get("image_id")), {})[name] = None
    found = []
    for image in images:
        if not isinstance(image, dict):
            found.append(image)
            continue
        urls = [image[key] for key in _COCO_URLS if is_url(image.get(key))]
        found.append({"url": urls[0] if urls else None, "label": list(labels.get(str(image.get("id")), {}))})
    return found


# Lists of URLs with such a name are columns, others those of labels.
_COLUMN_OF_URLS = re.compile(
    r"ur[li]|link|href|src|^(images?|img|photos?|pictures?|page|thumbnails?|source)$", re.IGNORECASE
)
_COCO_URLS = ("coco_url", "url", "image_url", "flickr_url")


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
        except (pyarrow.ArrowException, UnicodeDecodeError) as error:
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
        except (pyarrow.ArrowException, UnicodeDecodeError) as error:
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
        except (pyarrow.ArrowException, UnicodeDecodeError) as error:
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
