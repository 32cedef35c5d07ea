"""Parquet files of names and URLs: TreeOfLife, CapyWiki, Open Images and the like, by the columns that are named."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import parquet

from fastlt.data_prep.crawl.captions.files import files_of as files_of_pattern
from fastlt.data_prep.crawl.captions.files import require_text
from fastlt.data_prep.crawl.dumps.asked import AskedOfDump, Joined
from fastlt.data_prep.crawl.lists.columns import NONE
from fastlt.data_prep.dumps.database import Database, Source
from fastlt.data_prep.dumps.names import NOBODY
from fastlt.data_prep.dumps.snapshot import Snapshot
from fastlt.messages import listed, one_line

_ROWS = 8192
_LONGEST = 2**15  # bytes of a cell


def files_of(where: str) -> dict[str, Path]:
    """The files, a folder's, or those that a pattern finds.

    Raises:
        ValueError: there is none.
    """
    return {str(file): file for file in files_of_pattern(where)}


def join(database: Database, files: dict[str, Path], asked: AskedOfDump) -> Joined:
    """Makes the table `hit`, of rows whose name is one of a category; see `Joined`."""
    names = {what: column for what, column in asked.columns.items() if column not in (None, NONE)}
    for file in files.values():
        _require_columns(file, names)
    schema = pa.schema([(what, pa.string()) for what in names])
    source = Source(schema, lambda: (batch for file in files.values() for batch in _batches(file, names, schema)))
    told = {what: f"source.{what}" if what in names else "NULL::VARCHAR" for what in ("license", "page", "attribution")}
    database.run(
        f"CREATE TABLE hit AS SELECT category, url AS key, {told['license']} AS license, url, {told['page']} AS page,"
        f" {told['attribution']} AS who, CASE WHEN url IS NULL THEN 'rows without a URL' END AS reason"
        f" FROM source JOIN named ON named.key = key_of(source.name) WHERE category != {NOBODY}",
        source=source,
    )
    ((hits,),) = database.run("SELECT count(*) FROM hit")
    unknown = database.run(
        f"SELECT DISTINCT category FROM named WHERE category != {NOBODY} AND category NOT IN (SELECT category FROM hit)"
    )
    newest = max(files.values(), key=lambda file: file.stat().st_mtime)
    lines = [f"read: {source.rows:,} rows of {len(files):,} files, of which {hits:,} name a category"]
    return Joined(Snapshot(newest, newest).day, _DESCRIBED, frozenset(at for (at,) in unknown), lines)


_DESCRIBED = "SELECT category, url, page, license, who, place, key FROM drawn"


def _require_columns(file: Path, names: dict[str, str]) -> None:
    try:
        found = parquet.read_schema(file)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} cannot be read as Parquet: {one_line(error)}.") from None
    for what, column in names.items():
        if column not in found.names:
            raise ValueError(
                f"{file} has no column {one_line(column)!r} for --{what}-column, only {listed(found.names, 12)}."
            )
        require_text(file, found, column)


def _batches(file: Path, names: dict[str, str], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    columns = list(dict.fromkeys(names.values()))
    try:
        # As dictionaries: a text that stands in many rows is there once.
        with parquet.ParquetFile(file, read_dictionary=columns, buffer_size=2**20, pre_buffer=False) as opened:
            for batch in opened.iter_batches(_ROWS, columns=columns):
                cells = [_plain(file, column, batch.column(column)) for column in names.values()]
                yield pa.RecordBatch.from_arrays(cells, schema=schema)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} cannot be read: {one_line(error)}.") from None


def _plain(file: Path, column: str, cells: pa.Array) -> pa.Array:
    texts = cells.dictionary if isinstance(cells, pa.DictionaryArray) else cells
    if len(texts) and (pc.max(pc.binary_length(texts)).as_py() or 0) > _LONGEST:
        raise ValueError(f"column {one_line(column)!r} of {file} has a text of more than {_LONGEST:,} bytes.")
    cells = cells.dictionary_decode() if isinstance(cells, pa.DictionaryArray) else cells
    return cells.cast(pa.string())
