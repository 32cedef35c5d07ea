"""Delimited text as people have it: CSV, TSV and their like with quotes that close or not, or one URL a line."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice, takewhile
from pathlib import Path

from fastlt.data_prep.crawl.lists.cells import ends_as_image, is_url
from fastlt.data_prep.crawl.lists.table import SAMPLE, Row, Table
from fastlt.data_prep.crawl.lists.text_file import as_unicode, suffixes, text_lines

_MAX_OPEN_LINES = 100  # of one quoted value
_MAX_PREAMBLE = 10  # lines
_OTHER_WIDTH = "with more or fewer values than the first line has"
_DELIMITERS = ("\t", ",", ";", "|")
_SPACES = "  "  # any number of them, where " " is the one between a URL and what else its line has
csv.field_size_limit(2**31 - 1)  # polygons and captions are long


class DelimitedTable(Table):
    """CSV, TSV and their like, or one URL a line.

    A quoted value may run over several lines where the line that ends it makes a row of the right width, unless these
    lines are rows of their own; a quote that never ends is a character like others, and costs no row.
    """

    def __init__(self, file: Path, encoding: str) -> None:
        super().__init__(file)
        self._encoding = encoding
        with text_lines(file, encoding) as lines:
            numbered = list(islice((line for line in enumerate(lines, 1) if line[1].strip()), SAMPLE))
        self._comments = _comments(numbered) or _preamble(numbered)
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
            self.tell("before the list, left out", number)

    def _rows(self) -> Iterator[Row]:
        width, header = len(self.names), self.has_header
        with text_lines(self.file, self._encoding) as lines:
            numbered = islice(enumerate(as_unicode(lines, self.tell), 1), self._skipped, None)
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
            # A line with the quote that ends a value may look like a row as well.
            if (has_url or '"' not in ahead[more][1]) and self._is_row(ahead[more][1], width):
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
    if delimiter in ("", " ", _SPACES) or '"' not in text:
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
    if delimiter == _SPACES:
        return text.split()
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


def _preamble(lines: list[tuple[int, str]]) -> list[int]:
    """The numbers of the first lines where these say something of the table that begins behind them."""
    for delimiter in _DELIMITERS:
        widths = [len(_fields(line, delimiter)) for _, line in lines]
        width = max(widths, key=widths.count, default=1)
        start = widths.index(width) if widths else 0
        prose = set(widths[:start]) == {1} and not any(_holds_url(line, delimiter) for _, line in lines[:start])
        if width > 1 and 0 < start <= _MAX_PREAMBLE and prose and widths.count(width) >= 0.9 * len(widths[start:]):
            return [number for number, _ in lines[:start]]
    return []


def _names_rows(lines: list[str], delimiter: str, width: int) -> bool:
    """Whether most lines have just one value more than there are names, in front."""
    rows = [_fields(line, delimiter) for line in lines]
    longer = [row for row in rows if len(row) == width + 1 and row[-1] and sum(map(is_url, row[1:])) == 1]
    named = len({row[0] for row in longer}) == len(longer)
    return width > 1 and named and len(longer) > len(rows) / 2


def _holds_url(line: str, delimiter: str) -> bool:
    return any(map(is_url, _plain_fields(line, delimiter)))


def _delimiter(head: list[str], file: Path) -> str:
    """What stands between the values of the first lines; "" for one value a line."""
    one_a_line = suffixes(file).isdisjoint({".csv", ".tsv"}) and all(is_url(line.partition("\t")[0]) for line in head)
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
    if not best and not one_a_line and _is_spaced_table(head):
        return _SPACES
    spaced = [_SPACED.fullmatch(line.strip()) for line in body]
    return best or (" " if body and all(spaced) and not one_a_line else "")


_SPACED = re.compile(r"\S.*?\s+https?://\S+|https?://\S+\s+\S.*")


def _is_spaced_table(head: list[str]) -> bool:
    """Whether spaces make columns, and not only a URL and the words before or behind it."""
    rows = [line.split() for line in head]
    body = rows[1:] if rows and not any(map(is_url, rows[0])) else rows
    width = len(body[0]) if body else 0
    if width < 3 or any(len(row) != width for row in rows):
        return False
    urls = [at for at in range(width) if all(is_url(row[at]) for row in body)]
    # Words may stand before a URL; then they are no numbers.
    return bool(urls) and 0 not in urls and (urls != [width - 1] or all(any(map(str.isdigit, row[0])) for row in body))


def _glued(head: list[str]) -> str:
    """What stands between a URL of an image and a label in most lines that begin with a URL; "" where a URL is all."""
    for delimiter in ("\t", ",", ";", "|", " "):
        # A comma or a space may be part of a URL, but not before a word and after the ending of an image or no other.
        split = [line for line in head if _is_labeled(line.strip(), delimiter)]
        whole = [line for line in head if ends_as_image(line.strip())]
        if len(split) > 0.9 * len(head) and not whole:
            return delimiter
    return ""


def _is_labeled(line: str, delimiter: str) -> bool:
    url, _, label = line.partition(delimiter)
    label = label.strip()
    if not is_url(url):
        return False
    ends = ends_as_image(url) or delimiter == " " or bool(_WORDS.fullmatch(label))
    return bool(label) and not is_url(label) and ends


_WORDS = re.compile(r"\"?[^\W\d_][\w' -]*\"?")  # and nothing that a URL has behind a comma, such as sizes


def _unique(names: list[str]) -> list[str]:
    """The names, numbered where two are the same or one is empty."""
    found: list[str] = []
    for position, name in enumerate(names, 1):
        name = name or str(position)
        found.append(name if name not in found else f"{name} ({position})")
    return found
