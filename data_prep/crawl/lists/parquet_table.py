"""A Parquet file, read piece by piece."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fastlt.data_prep.crawl.lists.table import SAMPLE, Row, Table
from fastlt.foreign import parse_json
from fastlt.messages import one_line

_AT_ONCE = 64  # rows: a few bytes of a file can stand for a long value in every one of them
_MOST_BYTES = 2**26  # of these, a megabyte a row; photographs lie in some lists
_MOST_VALUES = 2**20  # of these: what is missing or false takes no bytes there, and some here
_MAX_TEXT = 2**20
_GROUPS = 5  # row groups that are looked into


class ParquetTable(Table):
    """A Parquet file; class labels of Hugging Face's data sets come as their names."""

    unit = "row"

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
                for batch in source.iter_batches(_AT_ONCE, columns=wanted):
                    for row in self._records(batch):
                        number += 1
                        yield number, {name: self._named(name, value) for name, value in row.items()}
        except (pyarrow.ArrowException, UnicodeDecodeError) as error:
            raise ValueError(f"{self.file} cannot be read: {one_line(error)}.") from None

    def sampled_rows(self) -> Iterator[dict[str, Any]]:
        """Some of each batch of a few row groups."""
        pyarrow, parquet = _pyarrow()
        try:
            with parquet.ParquetFile(self.file, buffer_size=2**20, pre_buffer=False) as source:
                groups = source.num_row_groups
                some = sorted({i * (groups - 1) // (_GROUPS - 1) for i in range(_GROUPS)}) if groups else []
                for number, batch in enumerate(source.iter_batches(_AT_ONCE, row_groups=some)):
                    step = 16 if number * _AT_ONCE >= SAMPLE else 1  # the first rows are wanted together
                    for row in self._records(batch.take(pyarrow.array(range(0, len(batch), step)))):
                        yield {name: self._named(name, value) for name, value in row.items()}
        except (pyarrow.ArrowException, UnicodeDecodeError) as error:
            raise ValueError(f"{self.file} cannot be read: {one_line(error)}.") from None

    def _records(self, batch: Any) -> list[dict[str, Any]]:
        """The rows of a batch. Raises ValueError where they are longer than any of a list."""
        if batch.nbytes > _MOST_BYTES:
            raise ValueError(
                f"{self.file} has {len(batch)} rows of {batch.nbytes / 1e6:,.0f} MB together: it is no list of URLs."
            )
        if (values := sum(map(_values_in, batch.columns))) > _MOST_VALUES:
            raise ValueError(f"{self.file} has {len(batch)} rows of {values:,} values together: it is no list of URLs.")
        rows = batch.to_pylist()
        if any(len(value) > _MAX_TEXT for row in rows for value in row.values() if isinstance(value, str)):
            raise ValueError(f"{self.file} has a text of more than {_MAX_TEXT:,} characters: it is no list of URLs.")
        return rows

    def _named(self, column: str, value: Any) -> Any:
        classes = self._classes.get(column)
        return classes[value] if classes and isinstance(value, int) and 0 <= value < len(classes) else value


def _values_in(array: Any) -> int:
    """How many values an Arrow array has, those inside of lists and structures with them."""
    if not hasattr(array, "flatten"):
        return len(array)
    inner = array.flatten()
    return len(array) + sum(map(_values_in, inner if isinstance(inner, list) else [inner]))


def _class_names(metadata: dict[bytes, bytes]) -> dict[str, list[str]]:
    try:
        features = parse_json(metadata.get(b"huggingface", b"{}")).get("info", {}).get("features", {})
        return {name: [*map(str, about["names"])] for name, about in features.items() if about.get("names")}
    except (ValueError, AttributeError, TypeError):
        return {}


def _pyarrow() -> Any:
    import pyarrow  # slow to import
    from pyarrow import parquet

    return pyarrow, parquet
