"""Darwin Core archives, as GBIF gives them: a zip or a folder, where meta.xml says which file has which columns.

https://dwc.tdwg.org/text/ and https://techdocs.gbif.org/en/data-use/download-formats
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import BinaryIO
from xml.etree import ElementTree

from fastlt.data_prep.crawl.dumps.asked import ANY_NUMBER_OF_NAMES, AskedOfDump, Joined
from fastlt.data_prep.crawl.dumps.database import Database
from fastlt.data_prep.crawl.dumps.names import NOBODY
from fastlt.data_prep.crawl.dumps.snapshot import Snapshot
from fastlt.data_prep.crawl.dumps.text_tables import TextTable
from fastlt.messages import listed, one_line

_META = "meta.xml"
_MOST_META = 2**20  # bytes
_TEXT = "{http://rs.tdwg.org/dwc/text/}"
_OCCURRENCE, _MULTIMEDIA = "occurrence", "multimedia"
_RANKS = ("species", "genus", "subfamily", "family", "order", "class", "phylum", "kingdom")
_NAMES = ("acceptedScientificName", "scientificName", "verbatimScientificName")
_SIGNS = {r"\t": "\t", r"\n": "\n", r"\r": "\r", r"\\": "\\"}
Open = Callable[[str], BinaryIO]


def files_of(where: str) -> dict[str, Path]:
    """The archive, or the files in its folder.

    Raises:
        ValueError: there is none.
    """
    path = Path(where).expanduser()
    if path.is_file():
        return {"": path}
    if not (path / _META).is_file():
        raise ValueError(f"{path} is no Darwin Core archive: give the zip, or its folder with {_META}.")
    return {file.name: file for file in sorted(path.iterdir()) if file.is_file()}


def join(database: Database, files: dict[str, Path], asked: AskedOfDump) -> Joined:
    """Makes the table `hit`, of media; see `Joined`."""
    place = files[""] if "" in files else files[_META].parent
    with _opened(files) as opened:
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
            f" {_or_null(media, 'references')} AS page, source.id AS occurrence,"
            f" coalesce({_or_null(media, 'rightsHolder')}, {_or_null(media, 'creator')}) AS who,"
            f" CASE WHEN identifier IS NULL THEN 'media without a URL' WHEN coalesce({_or_null(media, 'type')},"
            f" 'StillImage') NOT IN ('StillImage', 'Image') OR coalesce({_or_null(media, 'format')}, 'image/jpeg')"
            " NOT ILIKE 'image/%' OR identifier ILIKE '%.gif' THEN 'files that are no still images' END AS reason"
            " FROM (SELECT * RENAME (id AS media_of) FROM source) AS source"
            " JOIN occurrence ON occurrence.id = media_of".replace("source.id", "media_of"),
            source=photos,
        )
    if not photos.rows:
        raise ValueError(f"{place} has no media: ask GBIF for occurrences with images, as a Darwin Core archive.")
    lines.append(f"read: {source.rows:,} occurrences and {photos.rows:,} media")
    odd = {table.name: table.odd_rows for table in (occurrences, media) if table.odd_rows}
    lines += [f"left out: {number:,} rows of {name} with another number of columns" for name, number in odd.items()]
    unknown = database.run(
        f"SELECT DISTINCT category FROM named WHERE category != {NOBODY}"
        " AND category NOT IN (SELECT category FROM occurrence)"
    )
    return Joined(snapshot.day, _DESCRIBED, frozenset(at for (at,) in unknown), lines)


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
    return rf"""regexp_extract(source."{column}", '^[\pL\x{{D7}}-]+(?: [\p{{Ll}}\x{{D7}}-]+)*')"""


@contextmanager
def _opened(files: dict[str, Path]) -> Iterator[Open]:
    """Opens the archive's files by name.

    Raises:
        ValueError: it is no archive; opening: it has no such file.
    """
    if "" not in files:

        def of_folder(name: str) -> BinaryIO:
            if name not in files:
                raise ValueError(f"{files[_META].parent} has no {one_line(name)}, which its {_META} names.")
            return files[name].open("rb")

        yield of_folder
        return
    path = files[""]
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError) as error:
        raise ValueError(f"{path} is no Darwin Core archive: {one_line(error)}.") from None

    def of_archive(name: str) -> BinaryIO:
        try:
            return archive.open(name)  # type: ignore[return-value]
        except KeyError:
            raise ValueError(f"{path} has no {one_line(name)}: it is no whole Darwin Core archive.") from None
        except (RuntimeError, NotImplementedError, zipfile.BadZipFile) as error:
            raise ValueError(f"{path} cannot be read: {one_line(error)}.") from None

    with archive:
        yield of_archive


def _tables(place: str, opened: Open) -> tuple[TextTable, TextTable]:
    """Occurrences and media, as meta.xml describes them."""
    with opened(_META) as stream:
        text = stream.read(_MOST_META + 1)
    if len(text) > _MOST_META or b"<!DOCTYPE" in text or b"<!ENTITY" in text:
        raise ValueError(f"the {_META} of {place} is none of a Darwin Core archive.")
    try:
        tables = dict(_described(place, ElementTree.fromstring(text), opened))
    except (ElementTree.ParseError, TypeError, AttributeError, LookupError) as error:
        raise ValueError(f"the {_META} of {place} cannot be read: {one_line(error)}.") from None
    if _OCCURRENCE not in tables:
        raise ValueError(f"{place} has no occurrences: give an archive of occurrences, not of a list of taxa.")
    if _MULTIMEDIA not in tables:
        raise ValueError(f"{place} has no media: ask GBIF for occurrences with images, as a Darwin Core archive.")
    return tables[_OCCURRENCE], tables[_MULTIMEDIA]


def _described(place: str, root: ElementTree.Element, opened: Open) -> Iterator[tuple[str, TextTable]]:
    for part in (*root.findall(f"{_TEXT}core"), *root.findall(f"{_TEXT}extension")):
        location = (part.findtext(f"{_TEXT}files/{_TEXT}location") or "").strip()
        identity = part.find(f"{_TEXT}id")
        identity = part.find(f"{_TEXT}coreid") if identity is None else identity
        kind = part.get("rowType", "").rpartition("/")[2].lower()
        if identity is None or kind not in (_OCCURRENCE, _MULTIMEDIA):
            continue
        fields = {
            field.get("term", "").rpartition("/")[2]: field.get("index") for field in part.findall(f"{_TEXT}field")
        }
        places = {name: int(index) for name, index in fields.items() if index is not None and index.isdecimal()}
        separator = _sign(part.get("fieldsTerminatedBy", ","))
        quote = _sign(part.get("fieldsEnclosedBy", '"'))
        if len(separator) != 1 or len(quote) > 1 or not (separator + quote).isascii():
            raise ValueError(
                f"the {_META} of {place} has columns of {one_line(location)} separated as nobody can read."
            )
        skip = _number(part.get("ignoreHeaderLines") or "0")
        yield (
            kind,
            TextTable(
                f"{location} of {place}",
                partial(opened, location),
                {"id": _number(identity.get("index", "0"))} | {name: at for name, at in places.items() if name != "id"},
                skip,
                separator,
                quote,
                part.get("encoding") or "UTF-8",
            ),
        )


def _sign(text: str) -> str:
    return _SIGNS.get(text, text)


def _number(text: str) -> int:
    if not text.isdecimal():
        raise LookupError(f"{one_line(text)!r} is no number")
    return int(text)


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
