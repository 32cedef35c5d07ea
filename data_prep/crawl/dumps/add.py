"""`fastlt crawl --dump`: at most so many photos of each category, drawn by a hash, and why the rest was left out."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Collection
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow as pa

from fastlt.atomic import write_text
from fastlt.data_prep.catalog import Candidate, Catalog
from fastlt.data_prep.crawl.addresses import host_of, parse_url
from fastlt.data_prep.crawl.dumps import gbif, inaturalist, parquet
from fastlt.data_prep.crawl.dumps.asked import AskedOfDump, Joined
from fastlt.data_prep.crawl.policy import ANY_LICENSE, urls_are
from fastlt.data_prep.crawl.sources.inaturalist import as_inaturalist_has_it
from fastlt.data_prep.dumps.database import Database
from fastlt.data_prep.dumps.folder import folder_of
from fastlt.data_prep.dumps.names import ANY_NUMBER_OF_NAMES, enter_names
from fastlt.licenses import allowed, family, normalize
from fastlt.messages import listed
from fastlt.options import OptionError

KINDS: dict[str, Any] = {"inaturalist": inaturalist, "gbif": gbif, "parquet": parquet}
_KNOWN = "URLs that the catalog has already"
_OVER = "photos above the number sought for a category"
_REPEATED = "rows of photos that another row has"


def add_dump(
    catalog: Catalog,
    kind: str,
    where: str,
    asked: AskedOfDump,
    licenses: Collection[str],
    per_category: int,
) -> list[str]:
    """Enters photos of each kept category until it has `per_category` candidates, those with the lowest hashes first.

    The same dump with the same categories is not read again. All of it is entered at once, or nothing.

    Args:
        catalog: with its categories.
        kind: one of `KINDS`.
        where: the dump.
        asked: how it is read.
        licenses: families that are allowed, or "any"; none: every one of Creative Commons, of Parquet any.
        per_category: candidates sought for each category.

    Returns:
        What was read, taken and left out, in lines.

    Raises:
        ValueError: it is no such dump, or is damaged.
    """
    dump = KINDS[kind]
    is_any = set(licenses) == {ANY_LICENSE} or (not licenses and kind == "parquet")
    families = None if is_any else allowed(licenses or None)
    files = dump.files_of(where)
    categories = {row["id"]: row["title"] for row in catalog.categories(kept=True)}
    if not categories:
        raise OptionError(f"{catalog.path} has no category that a dump could know: run `fastlt discover` first.")
    others = catalog.names_of_targets()
    setting = f"dump {kind} {Path(where).absolute()}"
    stamp = _stamp(files, asked, categories, others, families, per_category)
    if catalog.json_setting(setting).get("stamp") == stamp:
        return [f"{where}: not changed since it was joined"]
    titles = {row["id"]: [row["title"], row["name"]] for row in catalog.categories(kept=True)}
    with Database(folder_of(catalog.path)) as database:
        enter_names(database, titles, others)
        joined = dump.join(database, files, asked)
        left_out = _draw(database, joined, families, per_category)
        drawn = {category for (category,) in database.run("SELECT DISTINCT category FROM drawn")}
        with catalog.transaction():
            joined.lines.extend(_leave_out(catalog, joined.excluded) if kind == inaturalist.NAME else ())
            counts = _enter(catalog, database, joined, kind, per_category, left_out)
            about = {
                "snapshot": joined.snapshot,
                "photos": counts.total(),
                "left out": dict(left_out),
                "categories it does not know": len(joined.unknown),
                "stamp": stamp,
            }
            catalog.remember(setting, json.dumps(about))
    lines = [f"{where}: {kind}'s dump{f' of {joined.snapshot}' * bool(joined.snapshot)}", *joined.lines]
    lines += [f"{counts.total():,} new URLs of {len(counts):,} categories"]
    lines += [f"left out: {number:,} {why}" for why, number in left_out.most_common() if number]
    without = [title for at, title in categories.items() if at not in drawn and at not in joined.unknown]
    if without:
        lines.append(f"no photo that may be taken of {_of_categories(without)}")
    if unknown := [title for at, title in categories.items() if at in joined.unknown]:
        names = catalog.path.with_name(f"{catalog.path.stem}_not_in_dump.txt")
        write_text(names, "".join(f"{title}\n" for title in unknown))
        lines.append(f"the dump does not know {_of_categories(unknown)}; all of them are in {names}")
    return lines


def _of_categories(titles: list[str]) -> str:
    what = "category" if len(titles) == 1 else "categories"
    return f"{len(titles):,} {what}: {listed(titles, ANY_NUMBER_OF_NAMES)}"


def _stamp(
    files: dict[str, Path],
    asked: AskedOfDump,
    categories: dict[int, str],
    others: list[str],
    families: Collection[str] | None,
    per_category: int,
) -> str:
    """Changes with whatever has a part in what is found."""
    stats = [(str(file.absolute()), file.stat().st_size, file.stat().st_mtime_ns) for file in files.values()]
    said = asked._replace(excluded=frozenset())._asdict() | {"excluded": sorted(asked.excluded)}
    kept = sorted(families) if families is not None else None
    about = json.dumps([stats, said, sorted(categories.items()), sorted(others), kept, per_category], default=list)
    return hashlib.sha256(about.encode()).hexdigest()


def _draw(database: Database, joined: Joined, families: Collection[str] | None, most: int) -> Counter[str]:
    """Makes the table `drawn`; returns how many photos of categories were left out, by reason."""
    said = [license for (license,) in database.run("SELECT DISTINCT license FROM hit WHERE reason IS NULL")]
    meant = [normalize(license) if license else "" for license in said]
    refused = [families is not None and family(license) not in families for license in meant]
    licenses = pa.table(
        {
            "said": pa.array(said, pa.string()),
            "meant": pa.array([new or old for old, new in zip(said, meant, strict=True)], pa.string()),
            "refused": pa.array(refused, pa.bool_()),
        }
    )
    database.run("CREATE TABLE license AS SELECT * FROM given", given=licenses)
    database.run(
        "CREATE TABLE fit AS SELECT hit.* EXCLUDE (reason, license), license.meant AS license,"
        " coalesce(reason, CASE WHEN refused THEN 'photos whose license is not allowed' END) AS reason"
        " FROM hit LEFT JOIN license ON hit.license IS NOT DISTINCT FROM license.said"
    )
    left_out = Counter(dict(database.run("SELECT reason, count(*) FROM fit WHERE reason IS NOT NULL GROUP BY 1")))
    # A photo that stands there twice, as of two observations, is one; which row counts does not depend on the order.
    database.run(
        "CREATE TABLE ranked AS SELECT *, md5_number(key) AS place FROM fit WHERE reason IS NULL"
        f" QUALIFY dense_rank() OVER (PARTITION BY category ORDER BY place, key) <= {int(most)}"
    )
    database.run(
        "CREATE TABLE drawn AS FROM ranked QUALIFY row_number() OVER (PARTITION BY key ORDER BY category, ranked) = 1"
    )
    tables = ("fit", "ranked", "drawn")
    fit, ranked, drawn = (database.run(f"SELECT count(*) FROM {table}")[0][0] for table in tables)
    left_out[_OVER] = fit - left_out.total() - ranked
    left_out[_REPEATED] = ranked - drawn
    return left_out


def _leave_out(catalog: Catalog, excluded: Collection[str]) -> list[str]:
    """Drops photos that came to the catalog before a list named them, and takes back what no list names any more."""
    rows = catalog.urls_of_source(inaturalist.NAME) if excluded else ()
    back, dropped = catalog.set_excluded([at for at, url in rows if inaturalist.number_of_photo(url) in excluded])
    lines = [f"{urls_are(back)} taken again that --exclude left out"] if back else []
    return lines + ([f"{urls_are(dropped)} left out from now on: --exclude"] if dropped else [])


def _enter(
    catalog: Catalog, database: Database, joined: Joined, kind: str, per_category: int, left_out: Counter[str]
) -> Counter[int]:
    """Makes candidates of what was drawn until a category has enough; returns {category: how many are new}."""
    counts: Counter[int] = Counter()
    have = catalog.candidates_by_category()
    rows = database.rows(f"{joined.described} ORDER BY category, place, key")
    for category, photos in groupby(rows, key=lambda row: row[0]):
        wanted = per_category - have.get(category, 0)
        for _, address, page, license, attribution in (row[:5] for row in photos):
            url = parse_url(as_inaturalist_has_it(address or ""))
            if url is None:
                left_out["URLs that are none"] += 1
            elif counts[category] >= wanted:
                known = catalog.candidate_of_url(str(url)) is not None
                left_out[_KNOWN if known else _OVER] += 1
            else:
                candidate = Candidate(category, str(url), host_of(url), kind, page, license, attribution)
                added = catalog.add_candidates([candidate])
                counts[category] += added
                left_out[_KNOWN] += not added
    return +counts
