"""iNaturalist's open data: taxa, observations, photos and observers, tab-separated, unquoted, packed by gzip.

https://github.com/inaturalist/inaturalist-open-data
"""

from __future__ import annotations

import re
from pathlib import Path

import pyarrow as pa

from fastlt.data_prep.crawl.dumps.asked import AskedOfDump, Joined
from fastlt.data_prep.crawl.dumps.taxonomy import settle
from fastlt.data_prep.dumps.database import Database
from fastlt.data_prep.dumps.inaturalist_taxa import COLUMNS, TAXA, table_of
from fastlt.data_prep.dumps.snapshot import Snapshot
from fastlt.data_prep.dumps.text_tables import TextTable

NAME = "inaturalist"
TABLES = ("taxa", "observations", "photos", "observers")
_EXCLUDED = "photos that --exclude names"
_PHOTO = re.compile(r"/photos/(\d+)/[^/]*$")
BUCKET = "https://inaturalist-open-data.s3.amazonaws.com"


def files_of(where: str) -> dict[str, Path]:
    """{table: its file} of a dump's folder.

    Raises:
        ValueError: a file is missing.
    """
    folder = Path(where).expanduser()
    if not folder.is_dir():
        raise ValueError(
            f"{folder} is no folder: give the one with {', '.join(f'{name}.csv.gz' for name in TABLES)} "
            f"(s3://inaturalist-open-data, or an archive of its metadata/ unpacked)."
        )
    files = {}
    for table in TABLES:
        names = [folder / f"{table}.csv.gz", folder / f"{table}.csv"]
        file = next((name for name in names if name.is_file()), None)
        if file is None:
            raise ValueError(f"{folder} has no {table}.csv.gz: it is no folder of iNaturalist's open data.")
        files[table] = file
    return files


def number_of_photo(url: str) -> str:
    """What the bucket, and every mirror of it, calls the photo at this URL, or ""."""
    match = _PHOTO.search(url)
    return match[1] if match else ""


def join(database: Database, files: dict[str, Path], asked: AskedOfDump) -> Joined:
    """Makes the table `hit`, of photos; see `Joined`."""
    tables = {name: table_of(file) for name, file in files.items()}
    for table, wanted in _COLUMNS.items():
        tables[table].source(wanted)  # mistakes show before hours of reading
    taxa_left_out = _read_taxa(database, tables["taxa"])
    unknown, lines = settle(database, asked.ancestor)
    lines += taxa_left_out
    file = files["observations"]
    snapshot = Snapshot(file.absolute().parent, file, "observed_on")
    observations = tables["observations"].source(_COLUMNS["observations"], snapshot.look)
    database.run(
        "CREATE TABLE observation AS SELECT try_cast(observation_uuid AS UUID) AS id, category, quality_grade AS grade"
        " FROM source JOIN owner ON owner.taxon = try_cast(taxon_id AS BIGINT)",
        source=observations,
    )
    if not observations.rows:
        raise ValueError(f"{files['observations']} has no observation: fetch it again.")
    ((odd,),) = database.run("DELETE FROM observation WHERE id IS NULL")
    lines += [f"left out: {odd:,} observations of {files['observations']} whose id is no UUID"] * (odd > 0)
    photos = tables["photos"].source(_COLUMNS["photos"])
    endings = pa.table({"ending": ["jpg", "jpeg", "jpe", "png", "webp"]})
    excluded = pa.table({"id": pa.array(sorted(asked.excluded), pa.string())})
    grades = pa.table({"grade": pa.array(asked.grades, pa.string())})
    database.run(
        "CREATE TABLE hit AS SELECT category, photo_id AS key, license, lower(extension) AS ending,"
        " observation.id AS observation, try_cast(observer_id AS BIGINT) AS observer,"
        " CASE WHEN photo_id IN (FROM excluded) OR lower(photo_uuid) IN (FROM excluded)"
        f" OR lower(observation_uuid) IN (FROM excluded) THEN '{_EXCLUDED}'"
        " WHEN ? AND coalesce(grade, '') NOT IN (FROM grades)"
        " THEN 'photos of observations that are not of research grade'"
        " WHEN NOT regexp_full_match(coalesce(photo_id, ''), '[0-9]+') THEN 'photos whose number is none'"
        " WHEN coalesce(lower(extension), '') NOT IN (FROM endings)"
        " THEN 'files that are no still images' END AS reason"
        " FROM source JOIN observation ON observation.id = try_cast(observation_uuid AS UUID)",
        [bool(asked.grades)],
        source=photos,
        excluded=excluded,
        endings=endings,
        grades=grades,
    )
    # A photo of an observation that is left out may be another's too.
    database.run(
        "UPDATE hit SET reason = ? WHERE reason IS NULL AND key IN (SELECT key FROM hit WHERE reason = ?)",
        [_EXCLUDED, _EXCLUDED],
    )
    if not photos.rows:
        raise ValueError(f"{files['photos']} has no photo: fetch it again.")
    observers = tables["observers"].source(_COLUMNS["observers"])
    database.run(
        "CREATE TABLE observer AS SELECT try_cast(observer_id AS BIGINT) AS id, any_value(coalesce(name, login)) AS who"
        " FROM source WHERE try_cast(observer_id AS BIGINT) IN (SELECT observer FROM hit WHERE reason IS NULL)"
        " GROUP BY 1",
        source=observers,
    )
    if not observers.rows:
        raise ValueError(f"{files['observers']} has no observer, and licenses want them named: fetch it again.")
    database.run("CREATE TABLE place AS SELECT ? AS url", [asked.endpoint.rstrip("/") or BUCKET])
    ((hits,),) = database.run("SELECT count(*) FROM hit")
    lines.append(
        f"read: {observations.rows:,} observations and {photos.rows:,} photos, of which {hits:,} are of a category"
    )
    ((matched,),) = database.run("SELECT count(*) FROM observation")
    if matched and not hits:
        lines.append(
            f"none of these photos is of one of the {matched:,} observations of categories: are both of one dump?"
        )
    ((nameless,),) = database.run(
        "SELECT count(*) FROM hit WHERE reason IS NULL AND NOT EXISTS"
        " (SELECT 1 FROM observer WHERE observer.id = hit.observer AND who IS NOT NULL)"
    )
    lines += [f"{nameless:,} photos are of observers without a name in {files['observers']}"] * (nameless > 0)
    excluded_here = {key for (key,) in database.run("SELECT DISTINCT key FROM hit WHERE reason = ?", [_EXCLUDED])}
    if asked.excluded and not excluded_here:
        lines.append(f"no photo of a category is one of the {len(asked.excluded):,} that --exclude names")
    odd = {table.name: table.odd_rows for table in tables.values() if table.odd_rows}
    lines += [f"left out: {number:,} rows of {name} with another number of columns" for name, number in odd.items()]
    numbers = {id for id in asked.excluded if id.isdigit()}
    return Joined(snapshot.day, _DESCRIBED, unknown, lines, frozenset(excluded_here | numbers))


_COLUMNS = {
    "taxa": [*COLUMNS],
    "observations": ["observation_uuid", "taxon_id", "quality_grade", "observed_on"],
    "photos": ["photo_uuid", "photo_id", "observation_uuid", "observer_id", "extension", "license"],
    "observers": ["observer_id", "login", "name"],
}
_DESCRIBED = """
SELECT category, place.url || '/photos/' || key || '/medium.' || ending, 'https://www.inaturalist.org/photos/' || key,
    license, who, place, key
FROM (SELECT * RENAME (place AS hash) FROM drawn) AS drawn CROSS JOIN place LEFT JOIN observer ON observer.id = observer
"""


def _read_taxa(database: Database, table: TextTable) -> list[str]:
    """Makes the table `taxon`: id, key of its name, name, whether it is active, and `above`: ids from the root to it.

    Returns:
        What of the file is left out, in lines.

    Raises:
        ValueError: a taxon is its own ancestor.
    """
    source = table.source(_COLUMNS["taxa"])
    database.run(
        f"CREATE TABLE taxon AS SELECT id, key_of(name) AS key, name, active, above FROM ({TAXA})", source=source
    )
    ((number,),) = database.run("SELECT count(*) FROM taxon")
    if not number:
        raise ValueError(f"{table.name} has no taxon: fetch it again.")
    wrong = database.run("SELECT id, name FROM taxon WHERE list_contains(above, id) ORDER BY 1 LIMIT 1")
    wrong = wrong or database.run(
        "WITH link AS (SELECT id, unnest(above) AS ancestor FROM taxon)"
        " SELECT id, name FROM taxon WHERE id IN (SELECT one.id FROM link AS one JOIN link AS other"
        " ON one.ancestor = other.id AND other.ancestor = one.id) ORDER BY 1 LIMIT 1"
    )
    if wrong:
        raise ValueError(f"{table.name} is damaged: taxon {wrong[0][0]} ({wrong[0][1]}) is its own ancestor.")
    odd = source.rows - number
    return [f"left out: {odd:,} taxa of {table.name} whose id is no number"] * (odd > 0)
