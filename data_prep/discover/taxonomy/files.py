"""Reads a taxonomy into one table, in whichever of its forms it comes."""

from __future__ import annotations

from pathlib import Path

from fastlt.data_prep.discover.taxonomy.darwin_core import read_darwin_core
from fastlt.data_prep.discover.taxonomy.form import FORMS, Taxonomy, number, odd_rows
from fastlt.data_prep.discover.taxonomy.lineages import read_json
from fastlt.data_prep.dumps import archive
from fastlt.data_prep.dumps.database import Database
from fastlt.data_prep.dumps.inaturalist_taxa import COLUMNS, TAXA, table_of
from fastlt.data_prep.dumps.snapshot import Snapshot
from fastlt.data_prep.dumps.text_tables import TextTable
from fastlt.messages import listed

_TAXON, _VERNACULAR = "taxon", "vernacularname"


def read(database: Database, file: Path, photos_column: str | None) -> Taxonomy:
    """Makes the tables of a taxonomy.

    Args:
        database: with the table `named` and the macro `key_of`.
        file: a file or folder.
        photos_column: the column, or the field in JSON, that has the number of photos or observations.

    Raises:
        ValueError: there is no such file, it is no taxonomy, lacks a column, is damaged, or has no taxon.
    """
    database.run("CREATE TABLE also (category BIGINT, id BIGINT)")
    found = _form(database, file, photos_column)
    if not database.run("SELECT count(*) FROM taxon")[0][0]:
        raise ValueError(f"{file} has no taxon: fetch it again.")
    return found


def _form(database: Database, file: Path, photos_column: str | None) -> Taxonomy:
    if file.is_dir():
        taxa = next((file / name for name in ("taxa.csv.gz", "taxa.csv") if (file / name).is_file()), None)
        if (file / archive.META).is_file():
            return _archive(database, file, photos_column)
        if taxa is None:
            raise ValueError(f"{file} has neither taxa.csv.gz nor {archive.META}: {FORMS}.")
        names = (file / f"observations.csv{ending}" for ending in (".gz", ""))
        return _inaturalist(database, taxa, next((name for name in names if name.is_file()), None), photos_column)
    if file.exists() and not file.is_file():
        raise ValueError(f"the taxonomy {file} is no file.")
    try:
        with file.open("rb") as stream:
            start = stream.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()
    except OSError as error:
        raise ValueError(f"the taxonomy {file} cannot be read: {error.strerror}.") from None
    if start[:2] == b"PK":
        return _archive(database, file, photos_column)
    if start[:1] in (b"{", b"[") or file.suffix.lower() == ".json":
        return read_json(database, file, photos_column)
    table = table_of(file)
    columns = table.columns()
    if {"taxon_id", "ancestry"} & {*columns}:
        return _inaturalist(database, file, None, photos_column)
    comma = len(columns) == 1 and "," in columns[0]
    columns = [name.strip().rpartition(":")[2] for name in (columns[0].split(",") if comma else columns)]
    if not {"scientificName", "canonicalName"} & {*columns}:
        raise ValueError(f"{file} is no taxonomy; its columns are {listed(columns, 12)}: {FORMS}.")
    places = {name: place for place, name in enumerate(columns)}
    separator, quote = (",", '"') if comma else ("\t", "")
    table = TextTable(str(file), table.open, places, separator=separator, quote=quote)
    return read_darwin_core(database, table, [], Snapshot(file, file), photos_column)


def _inaturalist(database: Database, file: Path, observations: Path | None, photos_column: str | None) -> Taxonomy:
    table = table_of(file)
    called = {"photos": photos_column} if photos_column else {}
    source = table.source([*COLUMNS, "rank", *called], called=called)
    lines, counted, photos = [], "own" if photos_column else "", number("photos") if photos_column else "NULL"
    if observations and not photos_column:
        counted, photos = "below", "coalesce(number, 0)"
        seen = table_of(observations).source(["taxon_id", "quality_grade"])
        print(f"counting {observations}, which may take an hour; `--taxonomy {file}` does without", flush=True)
        database.run(
            "CREATE TABLE counted AS SELECT try_cast(taxon_id AS BIGINT) AS id, count(*) AS number FROM source"
            " WHERE quality_grade = 'research' GROUP BY 1",
            source=seen,
        )
        lines.append(f"read: {seen.rows:,} observations, of which those of research grade are counted")
    joined = "LEFT JOIN counted USING (id)" if counted == "below" else ""
    database.run(
        "CREATE TABLE taxon AS SELECT id, id::VARCHAR AS shown, name, key_of(name) AS key,"
        " lower(coalesce(rank, '')) AS rank, active, list_extract(above, -1) AS parent, NULL::BIGINT AS accepted,"
        f" ({photos})::BIGINT AS photos FROM ({TAXA}) {joined} WHERE name IS NOT NULL"
        " QUALIFY row_number() OVER (PARTITION BY id ORDER BY active DESC, name) = 1",
        source=source,
    )
    day = Snapshot(file.absolute().parent, file).day
    return Taxonomy("iNaturalist's taxa", day, True, counted, [*lines, *odd_rows(table)])


def _archive(database: Database, file: Path, photos_column: str | None) -> Taxonomy:
    files = archive.files_of(str(file))
    with archive.open_archive(files) as opened:
        tables = archive.tables_of(str(file), opened, (_TAXON, _VERNACULAR))
        taxa = [table for kind, table in tables if kind == _TAXON]
        if not taxa:
            raise ValueError(f"{file} has no table of taxa: give an archive of a checklist, not of occurrences.")
        common = [table for kind, table in tables if kind == _VERNACULAR and "vernacularName" in table.columns()]
        snapshot = Snapshot(file, next(iter(files.values())))
        return read_darwin_core(database, taxa[0], common, snapshot, photos_column)
