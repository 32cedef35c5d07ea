"""A Darwin Core table of taxa: by parents or by the columns of ranks, with synonyms and common names."""

from __future__ import annotations

import pyarrow as pa

from fastlt.data_prep.discover.taxonomy.form import LINE, Taxonomy, number, odd_rows
from fastlt.data_prep.dumps.database import Database
from fastlt.data_prep.dumps.names import without_author
from fastlt.data_prep.dumps.snapshot import Snapshot
from fastlt.data_prep.dumps.text_tables import TextTable
from fastlt.messages import listed

_ACCEPTED = ("accepted", "valid", "accepted name", "provisionally accepted", "provisionally accepted name")
_OF_GBIFS_LISTS = {"taxonID": "taxonKey", "acceptedNameUsageID": "acceptedTaxonKey"}
_TERMS = (
    *("id", "taxonID", "parentNameUsageID", "acceptedNameUsageID", "scientificName", "scientificNameAuthorship"),
    *("canonicalName", "taxonRank", "taxonomicStatus", "vernacularName", *LINE),
)


def read_darwin_core(
    database: Database, table: TextTable, common: list[TextTable], snapshot: Snapshot, photos_column: str | None
) -> Taxonomy:
    """Makes the tables of a taxonomy.

    Args:
        database: with the table `named` and the macro `key_of`.
        table: of the taxa.
        common: tables of common names, if there are any.
        snapshot: knows the day.
        photos_column: the column of the number of photos.

    Raises:
        ValueError: a column is missing, or the table is damaged.
    """
    found = table.columns()
    called = {name: other for name, other in _OF_GBIFS_LISTS.items() if name not in found and other in found}
    has = {*found, *called}
    if "taxonRank" not in has or not {"scientificName", "canonicalName"} & has:
        missing = "scientificName" if "taxonRank" in has else "taxonRank"
        raise ValueError(f"{table.name} has no column {missing!r}, only {listed(found, 12)}.")
    has_parents, has_ranks = "parentNameUsageID" in has, {"genus", "family"}.issubset(has)
    if not (has_parents or has_ranks):
        raise ValueError(
            f"{table.name} does not say what taxa belong to: it has neither the column parentNameUsageID nor genus and "
            f"family, only {listed(found, 12)}."
        )
    called |= {"photos": photos_column} if photos_column else {}
    wanted = [name for name in _TERMS if name in has] + ["photos"] * bool(photos_column)
    cell = {name: f'source."{name}"' if name in wanted else "NULL::VARCHAR" for name in (*_TERMS, "photos")}
    database.run(
        f"CREATE TABLE given AS SELECT row_number() OVER () AS id, {cell['taxonID']} AS own, {cell['id']} AS core,"
        f" {cell['parentNameUsageID']} AS parent, {cell['acceptedNameUsageID']} AS accepted, {_name(cell)} AS name,"
        f" lower(coalesce({cell['taxonRank']}, '')) AS rank, lower({cell['taxonomicStatus']}) AS status,"
        f" {cell['vernacularName']} AS common, {number(cell['photos'])} AS photos,"
        f" [{', '.join(cell[rank] for rank in LINE)}]::VARCHAR[] AS line FROM source"
        " QUALIFY coalesce(own, core) IS NULL OR row_number() OVER (PARTITION BY coalesce(own, core)) = 1",
        source=table.source(wanted, called=called),
    )
    lines = odd_rows(table)
    _refer(database)
    lost, of = database.run(
        "SELECT count(*) FILTER (WHERE parent NOT IN (SELECT text FROM ref)), count(parent) FROM given"
    )[0]
    by_parents = of > 2 * lost
    if not (by_parents or has_ranks):
        raise ValueError(
            f"{table.name} does not say what taxa belong to: {lost:,} of {of:,} parents are not there, and it has no "
            "columns genus and family."
        )
    if by_parents:
        upper = "upper.id"
        lines += [f"{lost:,} taxa belong to one that is not there"] * bool(lost)
    else:
        upper = "given.upper"
        _place_by_ranks(database)
        _refer(database)
    database.run(
        "CREATE TABLE taxon AS SELECT given.id, coalesce(own, core, name) AS shown, name, key_of(name) AS key, rank,"
        f" coalesce(status IN (FROM accepted_ones), true) AND coalesce(meant.id, given.id) = given.id AS active,"
        f" {upper} AS parent, nullif(meant.id, given.id) AS accepted, photos"
        " FROM given LEFT JOIN ref AS meant ON meant.text = given.accepted"
        " LEFT JOIN ref AS upper ON upper.text = given.parent WHERE name != ''",
        accepted_ones=pa.table({"status": _ACCEPTED}),
    )
    for names in common:
        database.run(
            "INSERT INTO also SELECT DISTINCT category, ref.id FROM source JOIN ref ON ref.text = source.id"
            ' JOIN named ON named.key = key_of(source."vernacularName")',
            source=names.source(["id", "vernacularName"]),
        )
        lines += odd_rows(names)
    database.run("INSERT INTO also SELECT category, id FROM given JOIN named ON named.key = key_of(given.common)")
    database.run("DROP TABLE given")
    what = f"a Darwin Core taxonomy by {'parents' if by_parents else 'the columns of ranks'}"
    return Taxonomy(what, snapshot.day, True, "own" if photos_column else "", lines)


def _refer(database: Database) -> None:
    """Makes the table `ref` (text, id): what taxa are called by others. A taxon may have an id in its archive too."""
    database.run(
        "CREATE OR REPLACE TABLE ref AS SELECT text, min(id) AS id FROM (SELECT own AS text, id FROM given"
        " UNION ALL SELECT core AS text, id FROM given WHERE core IS DISTINCT FROM own)"
        " WHERE text IS NOT NULL GROUP BY 1"
    )


def _place_by_ranks(database: Database) -> None:
    """Gives taxa ids by all that they belong to, and `upper`, the id of what is next above; adds what has no row."""
    bare = "list_filter(line[:{0}], lambda part: part IS NOT NULL)"
    database.run(
        "CREATE OR REPLACE TABLE given AS SELECT given.* EXCLUDE (id, line), list_transform(line, lambda part:"
        " CASE WHEN part != name THEN part END) AS line FROM given"
    )
    database.run(
        "CREATE OR REPLACE TABLE given AS SELECT *,"
        f" {_place(f'list_append({bare.format(len(LINE))}, name)')} AS id,"
        f" CASE WHEN len({bare.format(len(LINE))}) > 0 THEN {_place(bare.format(len(LINE)))} END AS upper"
        " FROM given QUALIFY row_number() OVER (PARTITION BY id ORDER BY accepted IS NULL DESC, own, core) = 1"
    )
    for depth, rank in enumerate(LINE, 1):
        database.run(
            "INSERT INTO given BY NAME SELECT * FROM (SELECT DISTINCT"
            f" {_place(bare.format(depth))} AS id, line[{depth}] AS name, '{rank}' AS rank,"
            f" CASE WHEN len({bare.format(depth - 1)}) > 0 THEN {_place(bare.format(depth - 1))} END AS upper"
            f" FROM given WHERE line[{depth}] IS NOT NULL) WHERE id NOT IN (SELECT id FROM given)"
        )


def _place(path: str) -> str:
    """SQL for the id of a list of names, the highest first."""
    return f"(hash({path}) >> 1)::BIGINT"


def _name(cell: dict[str, str]) -> str:
    """SQL for the name of a taxon of Darwin Core without its author, subgenus and marks of ranks."""
    whole, author = cell["scientificName"], cell["scientificNameAuthorship"]
    is_there = f"ends_with({whole}, {author})"
    name = f"CASE WHEN {is_there} THEN left({whole}, length({whole}) - length({author})) ELSE {whole} END"
    name = rf"regexp_replace({name}, '^(\pL+) \(\pL+\) (\p{{Ll}})', '\1 \2')"
    name = rf"regexp_replace({name}, ' (subsp|ssp|var|f|fo)\. ', ' ')"
    return f"trim(coalesce({cell['canonicalName']}, CASE WHEN {is_there} THEN {name} ELSE {without_author(name)} END))"
