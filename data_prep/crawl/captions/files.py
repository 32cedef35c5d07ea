"""Files of captioned URLs, read in batches: Parquet as it lies there, other tables through the reader of lists."""

from __future__ import annotations

import glob
import lzma
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import parquet

from fastlt.data_prep.crawl.lists.cells import as_text
from fastlt.data_prep.crawl.lists.columns import NONE, Asked, choose
from fastlt.data_prep.crawl.lists.opening import open_table
from fastlt.data_prep.crawl.lists.parquet_table import ParquetTable
from fastlt.data_prep.crawl.lists.table import NO_OBJECT, Table
from fastlt.data_prep.crawl.lists.urls import files_of_list
from fastlt.messages import listed, one_line

_ROWS = 32_768
_MOST_BYTES = 2**28  # of the texts of so many rows: a few bytes of a file can stand for a long text in each
_LONGEST = 2_000  # bytes of a caption
_LOOKED_AT = 1_000  # rows, by which columns are chosen: there may be thousands of files
_CAPTION_NAMES = ("caption", "text", "alttext", "alt", "title", "description")
_NULL, _LONG = "rows without a caption", f"rows with a caption of more than {_LONGEST:,} bytes"
_NO_URL = "rows without a URL"


class AskedOfCaptions(NamedTuple):
    """Columns that people named; None where it is to be found."""

    caption: str | None = None
    url: str | None = None
    similarity: str | None = None
    license: str | None = None


class Columns(NamedTuple):
    """Those of a file; "" for none."""

    caption: str
    url: str
    similarity: str
    license: str

    def __str__(self) -> str:
        return ", ".join(f"{what}={one_line(name)}" for what, name in self._asdict().items() if name)


class Captions(NamedTuple):
    """A batch: `captions` and columns beside it of the same length; `left_out` counts the rows that are not in it."""

    captions: pa.StringArray
    urls: pa.Array
    similarities: np.ndarray | None
    licenses: pa.Array | None
    left_out: Counter[str]


def files_of(pattern: str) -> list[Path]:
    """A file, the lists in a folder, or what a pattern like data/*.parquet finds, in order.

    Raises:
        ValueError: there is none.
    """
    path = Path(pattern).expanduser()
    if path.exists():
        return files_of_list(path)[0]
    found = sorted(Path(name) for name in glob.glob(str(path), recursive=True))
    files = [file for file in found if file.is_file()]
    if not files:
        raise ValueError(f"there is no file at {pattern}.")
    return files


def open_captions(file: Path, asked: AskedOfCaptions) -> tuple[Columns, Iterator[Captions]]:
    """The columns of a file, and its rows in batches, which are to be read and searched inside of `readable`.

    Raises:
        ValueError: it is no table, or lacks a column; iterating: it holds something else than captions.
    """
    with readable(file):
        table = open_table(file)
        rows = [row for _, row in islice(table.rows(), _LOOKED_AT)]
        if not any(table.names):
            raise ValueError(f"{file} is empty.")
        chosen = choose(table, Asked(url=asked.url, label=NONE, license=asked.license), rows)
        caption = asked.caption or _caption_column(table, chosen.url)
        if caption is None or caption not in table.names:
            said = f"no column {caption!r}" if caption else "no column that is called like captions"
            raise ValueError(f"{file} has {said}, only {listed(table.names)}: say which one with --caption-column.")
        if asked.similarity not in (None, NONE, *table.names):
            raise ValueError(f"{file} has no column {asked.similarity!r} for --similarity-column.")
        similarity = "" if asked.similarity == NONE else asked.similarity or _similarity(table)
    columns = Columns(caption, chosen.url, similarity, chosen.license)
    read = _parquet_batches if isinstance(table, ParquetTable) else _table_batches
    return columns, read(table, columns)


@contextmanager
def readable(file: Path) -> Iterator[None]:
    """Raises ValueError for what is wrong with a file; that a text is no UTF-8 shows only where it is searched."""
    try:
        yield
    except (pa.ArrowException, OSError, EOFError, zlib.error, lzma.LZMAError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} cannot be read: {one_line(error)}.") from None


def _caption_column(table: Table, url: str) -> str | None:
    if not table.has_header and len(table.names) == 2:  # CC3M and CC12M
        return next(name for name in table.names if name != url)
    plain = {"".join(filter(str.isalnum, name.casefold())): name for name in reversed(table.names)}
    return next((plain[name] for name in _CAPTION_NAMES if name in plain), None)


def _similarity(table: Table) -> str:
    """How like image and caption are: of several, that of the larger model, which has the later name (b32, l14)."""
    alike = [name for name in table.names if "similarity" in name.casefold()]
    return max(alike, default="")


def _parquet_batches(table: Table, columns: Columns) -> Iterator[Captions]:
    wanted = list(dict.fromkeys(filter(None, columns)))
    for cells in _cells(table.file, [columns.caption, columns.url], wanted):
        yield _batch(table.file, columns, {name: cells.column(name) for name in wanted})


def _cells(file: Path, texts: list[str], wanted: list[str]) -> Iterator[pa.RecordBatch]:
    """Rows in batches, which are not larger in memory than `_short` allows, or have texts as dictionaries.

    A page of a few texts can stand for any number of rows. Arrow has all of it with the first batch of a row group: if
    its texts are short, so are those to come, and may be written out. Dictionaries grow with a row group, and are
    copied for each batch.
    """
    how = {"buffer_size": 2**20, "pre_buffer": False}
    schema = parquet.read_schema(file)
    for name in texts:  # of a column of lists, say, there are no dictionaries
        require_text(file, schema, name)
    with parquet.ParquetFile(file, read_dictionary=texts, **how) as packed, parquet.ParquetFile(file, **how) as plain:
        for group in range(packed.num_row_groups):
            batches = packed.iter_batches(_ROWS, row_groups=[group], columns=wanted)
            first = next(batches, None)
            if first is None:
                continue
            yield first
            if max(_longest(first.column(name)) for name in texts) * _ROWS <= _MOST_BYTES:
                batches = islice(plain.iter_batches(_ROWS, row_groups=[group], columns=wanted), 1, None)
            yield from batches


def _longest(texts: pa.Array) -> int:
    """Bytes of the longest text in a dictionary, whether or not a row has it."""
    known = texts.dictionary if isinstance(texts, pa.DictionaryArray) else texts
    return int(_lengths(known).max(initial=0))


def _table_batches(table: Table, columns: Columns) -> Iterator[Captions]:
    wanted = list(dict.fromkeys(filter(None, columns)))
    table.told.clear()  # by the rows that columns were chosen by
    rows = (row for _, row in table.rows(wanted))
    while some := list(islice(rows, _ROWS // 8)):
        cells = {name: [as_text(row.get(name)) or None for row in some] for name in wanted}
        yield _batch(table.file, columns, {name: pa.array(values, pa.string()) for name, values in cells.items()})
    if number := table.told[NO_OBJECT]:
        nothing = pa.array([], pa.string())
        yield Captions(nothing, nothing, None, None, Counter({f"lines {NO_OBJECT}": number}))


def _batch(file: Path, columns: Columns, cells: dict[str, pa.Array]) -> Captions:
    """What can be used of some rows."""
    captions, urls = (_short(file, name, cells[name]) for name in (columns.caption, columns.url))
    lengths = _lengths(captions)
    why = {_NO_URL: _lengths(urls) <= 0, _NULL: lengths <= 0, _LONG: lengths > _LONGEST}
    usable = np.ones(len(captions), bool)
    left_out: Counter[str] = Counter()
    for reason, are_so in why.items():
        if number := int((are_so & usable).sum()):
            left_out[reason] = number
        usable &= ~are_so
    some = dict(cells) if usable.all() else {name: column.filter(pa.array(usable)) for name, column in cells.items()}
    similarity = some.get(columns.similarity)
    numbers = None
    if similarity is not None:
        numbers = pc.cast(similarity, pa.float64(), safe=False).fill_null(-np.inf).to_numpy(False)
    license = some.get(columns.license)
    return Captions(_plain(some[columns.caption]), _plain(some[columns.url]), numbers, license, left_out)


def require_text(file: Path, schema: pa.Schema, name: str) -> None:
    """Raises ValueError where a column of a Parquet file holds something else than text, or is there twice."""
    if schema.names.count(name) > 1:
        raise ValueError(f"{file} has several columns {one_line(name)!r}: write it anew with one of them.")
    kind = schema.field(name).type
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
        raise ValueError(f"column {one_line(name)!r} of {file} holds {kind}, not text.")


def _short(file: Path, name: str, cells: pa.Array) -> pa.Array:
    """The same. Raises ValueError where the texts are not of such a table."""
    values = cells.dictionary if isinstance(cells, pa.DictionaryArray) else cells
    usual = np.clip(_lengths(cells), 0, _LONGEST + 1)  # longer ones are left out before they are written out
    if max(int(usual.sum()), values.nbytes) > _MOST_BYTES:
        raise ValueError(f"column {name!r} of {file} has texts that are too long for captions and URLs.")
    return cells


def _lengths(texts: pa.Array) -> np.ndarray:
    """Bytes of each, -1 where there is none: int64 [B]."""
    if isinstance(texts, pa.DictionaryArray):
        at = texts.indices.fill_null(-1).to_numpy(False)
        of_value = np.append(_lengths(texts.dictionary), -1)
        return of_value[at]
    return pc.binary_length(texts).fill_null(-1).cast(pa.int64()).to_numpy(False)


def _plain(texts: pa.Array) -> pa.StringArray:
    texts = texts.dictionary_decode() if isinstance(texts, pa.DictionaryArray) else texts
    return texts.cast(pa.string())
