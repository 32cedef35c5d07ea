"""A DuckDB that joins more than memory holds, and opens no file: what it reads, pyarrow hands it batch by batch.

So no name of a file or column, and no word of a dump, is ever part of a query.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from fastlt.cores import available_cores
from fastlt.data_prep.dumps.folder import remove
from fastlt.messages import one_line

_MEMORY = "2GB"  # that its tables take; what is more lies in the folder
_ROWS = 10_000


class Source:
    """Rows of a file in batches, for one query.

    Args:
        schema: of the batches.
        batches: opens the file; raises ValueError where it cannot be read.
    """

    def __init__(self, schema: pa.Schema, batches: Callable[[], Iterator[pa.RecordBatch]]) -> None:
        self.schema, self._batches = schema, batches
        self.rows = 0
        self.error: Exception | None = None

    def reader(self) -> pa.RecordBatchReader:
        """What DuckDB reads from."""
        return pa.RecordBatchReader.from_batches(self.schema, self._counted())

    def _counted(self) -> Iterator[pa.RecordBatch]:
        try:
            for batch in self._batches():
                self.rows += batch.num_rows
                yield batch
        except Exception as error:  # DuckDB would wrap it in words of its own
            self.error = error
            raise


class Database:
    """Tables in memory, and in `folder` where they are larger; the folder goes at the end.

    Args:
        folder: of a catalog, which one process has at a time; what a killed one left there goes too.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        remove(folder)
        folder.mkdir(mode=0o700)
        settings: dict[str, str | bool | int | float | list[str]] = {
            "memory_limit": _MEMORY,
            "temp_directory": str(folder),
            "threads": min(available_cores(), 8),
            "preserve_insertion_order": False,
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
            "allow_community_extensions": False,
            "python_enable_replacements": False,
        }
        self._connection = duckdb.connect(":memory:", config=settings)
        self._connection.execute("SET enable_external_access = false")
        self._connection.execute("SET lock_configuration = true")

    def __enter__(self) -> Database:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()
        remove(self._folder)

    def run(self, query: str, values: Sequence[Any] = (), **sources: Source | pa.Table) -> list[tuple]:
        """All rows of a query, which knows the sources by their names.

        Raises:
            ValueError: a source cannot be read, or the disk has no room for what is larger than memory.
        """
        for name, source in sources.items():
            self._connection.register(name, source.reader() if isinstance(source, Source) else source)
        try:
            return self._connection.execute(query, list(values)).fetchall()
        except duckdb.Error as error:
            read = (source for source in sources.values() if isinstance(source, Source))
            if cause := next((source.error for source in read if source.error), None):
                raise cause from None
            raise ValueError(f"the dump cannot be joined: {one_line(error, 300)}.") from None
        finally:
            for name in sources:
                self._connection.unregister(name)

    def arrays(self, query: str) -> dict[str, np.ndarray]:
        """The columns of a query, whose numbers are none of them NULL."""
        try:
            return self._connection.execute(query).fetchnumpy()
        except duckdb.Error as error:
            raise ValueError(f"the dump cannot be joined: {one_line(error, 300)}.") from None

    def rows(self, query: str) -> Iterator[tuple]:
        """The rows of a query, piece by piece; no other query meanwhile."""
        try:
            found = self._connection.execute(query)
            while some := found.fetchmany(_ROWS):
                yield from some
        except duckdb.Error as error:
            raise ValueError(f"the dump cannot be joined: {one_line(error, 300)}.") from None
