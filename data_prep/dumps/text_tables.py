"""Tables of text as dumps have them, tab-separated and packed or not, in batches of the columns that are wanted."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, BinaryIO

import pyarrow as pa
from pyarrow import csv

from fastlt.data_prep.dumps.database import Source
from fastlt.messages import listed, one_line

_BLOCK = 2**23  # bytes, which a line does not exceed
_ENOUGH = 10  # values, all of them in quotes, to say that a column is quoted
_GZIP = b"\x1f\x8b"


@dataclass
class TextTable:
    """A file of a dump.

    Attributes:
        name: for messages.
        open: gives its bytes, unpacked by `unpacked`.
        places: {column: its place}; None: the first line has their names.
        skip: lines before the rows where `places` are given.
        separator, quote: quote is "" where quotes are letters like any other.
        encoding: of the text.
        odd_rows: how many rows had another number of columns, and were left out.
    """

    name: str
    open: Callable[[], BinaryIO]
    places: Mapping[str, int] | None = None
    skip: int = 1
    separator: str = "\t"
    quote: str = ""
    encoding: str = "utf-8"
    odd_rows: int = field(default=0, init=False)

    def columns(self) -> list[str]:
        """Their names.

        Raises:
            ValueError: it cannot be read, or is no such table.
        """
        if self.places is not None:
            return list(self.places)
        try:
            with closing(self.open()) as stream:
                line = unpacked(stream).read(2**16).split(b"\n")[0].decode(self.encoding).lstrip("\ufeff").rstrip("\r")
        except (OSError, EOFError, UnicodeDecodeError) as error:
            raise ValueError(f"{self.name} cannot be read: {one_line(error)}: fetch it again.") from None
        if not line:
            raise ValueError(f"{self.name} is empty: fetch it again.")
        if line.startswith(('"', "'")):
            raise ValueError(self._is_quoted)
        return line.split(self.separator)

    def source(
        self,
        wanted: list[str],
        seen: Callable[[pa.RecordBatch], None] | None = None,
        called: Mapping[str, str] = MappingProxyType({}),
    ) -> Source:
        """Rows of these columns, all of them text; NULL is what is empty.

        Args:
            wanted: columns.
            seen: is shown each batch that is read.
            called: {column: how the table calls it, where that is something else}.

        Raises:
            ValueError: a column is missing.
        """
        found = self.columns()
        if missing := [called.get(name, name) for name in wanted if called.get(name, name) not in found]:
            raise ValueError(
                f"{self.name} has no column {one_line(missing[0])!r}, only {listed(found, 12)}: it is no such file of "
                "this dump."
            )
        schema = pa.schema([(name, pa.string()) for name in wanted])
        return Source(schema, lambda: self._batches(schema, seen, [called.get(name, name) for name in wanted]))

    def _batches(
        self, schema: pa.Schema, seen: Callable[[pa.RecordBatch], None] | None, columns: list[str]
    ) -> Iterator[pa.RecordBatch]:
        names = columns if self.places is None else [f"f{self.places[name]}" for name in columns]
        options: dict[str, Any] = {
            "read_options": csv.ReadOptions(
                block_size=_BLOCK,
                encoding=self.encoding,
                autogenerate_column_names=self.places is not None,
                skip_rows=self.skip if self.places is not None else 0,
            ),
            "parse_options": csv.ParseOptions(
                delimiter=self.separator, quote_char=self.quote or False, invalid_row_handler=self._leave_out
            ),
            "convert_options": csv.ConvertOptions(
                include_columns=names,
                column_types=dict.fromkeys(names, pa.string()),
                strings_can_be_null=True,
                null_values=[""],
            ),
        }
        try:
            with closing(self.open()) as stream, csv.open_csv(unpacked(stream), **options) as reader:
                for number, batch in enumerate(reader):
                    batch = pa.RecordBatch.from_arrays(batch.columns, schema=schema)
                    # Of an archive, the ids alone: its words are of many authors, who may quote.
                    may_be = batch.columns if self.places is None else batch.columns[:1]
                    if number == 0 and not self.quote and any(map(_is_quoted, may_be)):
                        raise ValueError(self._is_quoted)
                    if seen:
                        seen(batch)
                    yield batch
        except (
            pa.ArrowException,
            zlib.error,
            zipfile.BadZipFile,
            OSError,
            EOFError,
            UnicodeError,
            LookupError,
        ) as error:
            raise ValueError(f"{self.name} cannot be read: {one_line(error)}: fetch it again.") from None

    @property
    def _is_quoted(self) -> str:
        return f"{self.name} has quoted columns, and the dump has none: take the file as it was published."

    def _leave_out(self, _: csv.InvalidRow) -> str:
        self.odd_rows += 1
        return "skip"


def unpacked(stream: BinaryIO) -> Any:
    """The stream, unpacked if it is gzip, by its first bytes."""
    file = pa.PythonFile(stream, "r")
    if not stream.seekable():
        return file
    start = stream.read(2)
    stream.seek(0)
    return pa.CompressedInputStream(file, "gzip") if start == _GZIP else file


def _is_quoted(column: pa.Array) -> bool:
    first = column.drop_null().slice(0, 100).to_pylist()
    return len(first) >= _ENOUGH and all(len(value) > 1 and value[0] == value[-1] == '"' for value in first)
