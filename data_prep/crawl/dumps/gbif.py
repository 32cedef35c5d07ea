"""GBIF's occurrences with media, as Darwin Core archives."""

from __future__ import annotations

from pathlib import Path

from fastlt.data_prep.crawl.dumps.asked import AskedOfDump, Joined
from fastlt.data_prep.dumps import archive
from fastlt.data_prep.dumps.archive import META, Open, open_archive, tables_of
from fastlt.data_prep.dumps.database import Database
from fastlt.data_prep.dumps.names import ANY_NUMBER_OF_NAMES, NOBODY, without_author
from fastlt.data_prep.dumps.snapshot import Snapshot
from fastlt.data_prep.dumps.text_tables import TextTable
from fastlt.messages import listed

files_of = archive.files_of
_OCCURRENCE, _MULTIMEDIA = "occurrence", "multimedia"
_RANKS = ("species", "genus", "subfamily", "family", "order", "class", "phylum", "kingdom")
_NAMES = ("acceptedScientificName", "scientificName", "verbatimScientificName")


def join(database: Database, files: dict[str, Path], asked: AskedOfDump) -> Joined:
    """Makes the table `hit`, of media; see `Joined`."""
    place = files[""] if "" in files else files[META].parent
    with open_archive(files) as opened:
        occurrences, media = _tables(str(place), opened)
        columns = occurrences.columns()
        ranks = [name for name in (*_NAMES, *_RANKS) if name in columns]
        if not ranks:
            raise ValueError(f"{occurrences.name} has no name of a taxon, only {listed(columns, 12)}.")
        days = "lastInterpreted" if "lastInterpreted" in columns else ""
        snapshot = Snapshot(place, next(iter(files.values())), days)
        wanted = ["id", *ranks, *([days] if days else [])]
        source = occurrences.source(wanted, snapshot.look if days else None)
        photos = media.source(["id", *_found(media, "identifier", *_ABOUT)])
        lineage = [f"key_of({_bare(name)})" for name in ranks]
        joins = "".join(f" LEFT JOIN named AS n{i} ON n{i}.key = {key}" for i, key in enumerate(lineage))
        category = f"coalesce({', '.join(f'n{i}.category' for i in range(len(lineage)))})"
        kingdom = "coalesce(kingdom, '')" if "kingdom" in ranks else "''"
        below = f"(? = '' OR list_contains([{', '.join(lineage)}], key_of(?)))"
        database.run(
            f"CREATE TABLE occurrence AS SELECT source.id, {category} AS category, {kingdom} AS realm"
            f" FROM source{joins} WHERE {category} IS NOT NULL AND {category} != {NOBODY} AND {below}",
            [asked.ancestor, asked.ancestor],
            source=source,
        )
        lines = _settle_kingdoms(database)
        database.run(
            "CREATE TABLE hit AS SELECT category, identifier AS key, license, identifier AS url,"
            f" {_or_null(media, 'references')} AS page, media_of AS occurrence,"
            f" coalesce({_or_null(media, 'rightsHolder')}, {_or_null(media, 'creator')}) AS who,"
            f" CASE WHEN identifier IS NULL THEN 'media without a URL' WHEN coalesce({_or_null(media, 'type')},"
            f" 'StillImage') NOT IN ('StillImage', 'Image') OR coalesce({_or_null(media, 'format')}, 'image/jpeg')"
            " NOT ILIKE 'image/%' OR identifier ILIKE '%.gif' THEN 'files that are no still images' END AS reason"
            " FROM (SELECT * RENAME (id AS media_of) FROM source) AS source"
            " JOIN occurrence ON occurrence.id = media_of",
            source=photos,
        )
    if not photos.rows:
        raise ValueError(f"{place} has no media: ask GBIF for occurrences with images, as a Darwin Core archive.")
    ((hits,),) = database.run("SELECT count(*) FROM hit")
    lines.append(f"read: {source.rows:,} occurrences and {photos.rows:,} media, of which {hits:,} are of a category")
    odd = {table.name: table.odd_rows for table in (occurrences, media) if table.odd_rows}
    lines += [f"left out: {number:,} rows of {name} with another number of columns" for name, number in odd.items()]
    unknown = database.run(
        f"SELECT DISTINCT category FROM named WHERE category != {NOBODY}"
        " AND category NOT IN (SELECT category FROM occurrence)"
    )
    return Joined(snapshot.day, _DESCRIBED, frozenset(at for (at,) in unknown), lines)


def _tables(place: str, opened: Open) -> tuple[TextTable, TextTable]:
    """Occurrences and media."""
    tables = dict(tables_of(place, opened, (_OCCURRENCE, _MULTIMEDIA)))
    if _OCCURRENCE not in tables:
        raise ValueError(f"{place} has no occurrences: give an archive of occurrences, not of a list of taxa.")
    if _MULTIMEDIA not in tables:
        raise ValueError(f"{place} has no media: ask GBIF for occurrences with images, as a Darwin Core archive.")
    return tables[_OCCURRENCE], tables[_MULTIMEDIA]


_ABOUT = ("type", "format", "references", "license", "rightsHolder", "creator")
_DESCRIBED = """
SELECT category, url, coalesce(page, 'https://www.gbif.org/occurrence/' || occurrence) AS page, license, who, place, key
FROM drawn
"""


def _found(table: TextTable, needed: str, *others: str) -> list[str]:
    columns = table.columns()
    return [needed, *(name for name in others if name in columns)]


def _or_null(table: TextTable, column: str) -> str:
    """One of `_ABOUT`, which are words of ours."""
    return f'"{column}"' if column in table.columns() else "NULL"


def _bare(column: str) -> str:
    """A name of `_NAMES` without its author, or a rank as it is."""
    if column not in _NAMES:
        return f'source."{column}"'
    return without_author(f'source."{column}"')


def _settle_kingdoms(database: Database) -> list[str]:
    """Leaves one kingdom for each name of an animal and a plant: that of most other names; says which."""
    database.run(
        "CREATE TABLE realm AS SELECT category, realm, count(*) OVER (PARTITION BY category) AS number"
        " FROM occurrence GROUP BY category, realm"
    )
    database.run(
        "CREATE TABLE judged AS SELECT category, realm, (SELECT count(*) FROM realm AS clear WHERE clear.number = 1"
        " AND clear.realm = realm.realm) AS score FROM realm WHERE number > 1"
    )
    database.run(
        "CREATE TABLE chosen AS SELECT category, any_value(realm) AS realm FROM judged"
        " WHERE (category, score) IN (SELECT (category, max(score)) FROM judged GROUP BY category)"
        " GROUP BY category HAVING count(*) = 1"
    )
    database.run(
        "DELETE FROM occurrence WHERE category IN (SELECT category FROM judged)"
        " AND (category, realm) NOT IN (SELECT (category, realm) FROM chosen)"
    )
    said = database.run("SELECT title, realm FROM chosen JOIN title USING (category) ORDER BY 1")
    unclear = database.run(
        "SELECT DISTINCT title FROM judged JOIN title USING (category)"
        " WHERE category NOT IN (SELECT category FROM chosen)"
    )
    lines = []
    if said:
        names = listed([f"{name} ({realm})" for name, realm in said], ANY_NUMBER_OF_NAMES)
        lines.append(f"{len(said):,} names are of several kingdoms, of which that of most other names counts: {names}")
    if unclear:
        names = listed([name for (name,) in unclear], ANY_NUMBER_OF_NAMES)
        lines.append(
            f"{len(unclear):,} names are of several kingdoms, and none was taken; --dump-ancestor says which: {names}"
        )
    return lines
