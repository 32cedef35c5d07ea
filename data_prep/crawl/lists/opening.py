"""Which kind of table a file holds: told by its content, by its name only where that is not enough."""

from __future__ import annotations

import codecs
from itertools import islice
from pathlib import Path

from fastlt.data_prep.crawl.lists.delimited import DelimitedTable
from fastlt.data_prep.crawl.lists.json_tables import JsonLinesTable, JsonTable
from fastlt.data_prep.crawl.lists.parquet_table import ParquetTable
from fastlt.data_prep.crawl.lists.table import NoListError, Table
from fastlt.data_prep.crawl.lists.text_file import LongLineError, encoding_of, suffixes, text_lines, unpacked
from fastlt.foreign import parse_json

_LINES = 20  # that tell whether a file has JSON lines
_PAGE = "a web page: save the list itself"
_NO_LISTS = {
    b"PK\x03\x04": "a spreadsheet or a zip archive: save the list in it as CSV",
    b"\xd0\xcf\x11\xe0": "an old spreadsheet: save it as CSV",
    b"\x28\xb5\x2f\xfd": "packed by zstd: unpack it first",
    b"SQLite format 3": "a database: export the table as CSV",
    b"%PDF": "a PDF",
    b"\xff\xd8\xff": "an image",
    b"\x89PNG": "an image",
    b"version https://git-lfs": "a pointer of Git LFS: `git lfs pull` brings the file itself",
    b"<!doctype": _PAGE,
    b"<html": _PAGE,
    b"<head": _PAGE,
    b"<?xml": "XML: save the list in it as CSV",
}


def open_table(file: Path) -> Table:
    """The table in a file, by what the file holds; its name decides only where that is not enough.

    Raises:
        ValueError: it is no list.
        OSError, EOFError, zlib.error, lzma.LZMAError: it cannot be read.
    """
    with unpacked(file) as stream:
        start = stream.read(4096)
    if start.startswith(b"PAR1"):
        return ParquetTable(file)
    for mark, what in _NO_LISTS.items():
        if start.lstrip().lower().startswith(mark.lower()):
            raise NoListError(f"{file} is no list of URLs but {what}.")
    encoding = encoding_of(start)
    text = codecs.getincrementaldecoder(encoding)("replace").decode(start).lstrip("\ufeff \t\r\n")
    if text.count("\0") > len(text) / 100:
        raise NoListError(f"{file} is no list of URLs: it is not text.")
    if text.startswith(("{", "[")) and not suffixes(file) & {".csv", ".tsv"}:
        return JsonLinesTable(file, encoding) if _is_json_lines(file, encoding) else JsonTable(file, encoding)
    return DelimitedTable(file, encoding)


def _is_json_lines(file: Path, encoding: str) -> bool:
    """Whether lines are records of their own: the first one and others, or some of the first where the name says so."""
    is_called_so = not suffixes(file).isdisjoint({".jsonl", ".ndjson"})
    try:
        with text_lines(file, encoding) as lines:
            first = list(islice((line for line in lines if line.strip()), _LINES))
    except LongLineError:  # of one value, perhaps
        return is_called_so
    records = [_is_record(line) for line in first]
    if not is_called_so:
        return len(records) > 1 and records[0]
    return any(records) and (len(records) > 1 or first[0].lstrip().startswith("{"))


def _is_record(line: str) -> bool:
    try:
        return isinstance(parse_json(line), dict | list)
    except ValueError:
        return False
