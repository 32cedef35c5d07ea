"""Which taxon each name means, and to which category every taxon below belongs."""

from __future__ import annotations

from fastlt.data_prep.crawl.dumps.asked import ANY_NUMBER_OF_NAMES
from fastlt.data_prep.crawl.dumps.database import Database
from fastlt.data_prep.crawl.dumps.names import NOBODY
from fastlt.messages import listed


def settle(database: Database, ancestor: str) -> tuple[frozenset[int], list[str]]:
    """Makes the table `owner` (taxon, category) of the tables `taxon` and `named`: the nearest above it that is named.

    Of several taxa of one name, active ones come first; of a genus and a subgenus of it, the genus counts; else the
    taxon that has more of its ancestors in common with the other names. Where that is no more for one than for another,
    none is taken.

    Args:
        database: has `taxon` and `named`.
        ancestor: a taxon to which all must belong, or "".

    Returns:
        The categories that no taxon is called like, and what there is to say.

    Raises:
        ValueError: there is no such ancestor.
    """
    database.run(
        "CREATE TABLE meant AS SELECT named.category, named.key, taxon.* EXCLUDE key FROM named JOIN taxon USING (key)"
    )
    if ancestor:
        _keep_below(database, ancestor)
    known = {at for (at,) in database.run("SELECT DISTINCT category FROM meant")}
    database.run(
        "DELETE FROM meant WHERE NOT active AND (category, key) IN (SELECT (category, key) FROM meant WHERE active)"
    )
    # The synonym of a category that is inactive stays where no other name of it is active.
    database.run(
        f"DELETE FROM meant WHERE NOT active AND category != {NOBODY}"
        " AND category IN (SELECT category FROM meant WHERE active)"
    )
    database.run(
        f"DELETE FROM meant WHERE category != {NOBODY} AND EXISTS (SELECT 1 FROM meant AS other"
        " WHERE other.category = meant.category AND list_contains(meant.above, other.id))"
    )
    lines = _settle_homonyms(database)
    inactive = database.run(f"SELECT DISTINCT name FROM meant WHERE NOT active AND category != {NOBODY} ORDER BY 1")
    if inactive:
        names = listed([name for (name,) in inactive], ANY_NUMBER_OF_NAMES)
        lines.append(f"{len(inactive):,} taxa are inactive, and the dump does not say what took their place: {names}")
    database.run("CREATE TABLE head AS SELECT id, min(category) AS category FROM meant GROUP BY id")
    same = database.run(
        "SELECT DISTINCT name FROM meant JOIN head USING (id) WHERE meant.category != head.category"
        f" AND head.category != {NOBODY} ORDER BY 1"
    )
    if same:
        names = listed([name for (name,) in same], ANY_NUMBER_OF_NAMES)
        lines.append(f"{len(same):,} taxa are meant by several categories, of which the first has them: {names}")
    # A photo is of the most special name that holds for it; a target's name holds as any other.
    database.run(
        "CREATE TABLE owner AS SELECT taxon, arg_max(category, depth) AS category,"
        f" bool_or(category != {NOBODY}) AS is_wanted FROM ("
        " SELECT taxon.id AS taxon, unnest(list_append(above, taxon.id)) AS ancestor,"
        " generate_subscripts(list_append(above, taxon.id), 1) AS depth FROM taxon"
        ") JOIN head ON head.id = ancestor GROUP BY taxon"
    )
    targets = f"FROM owner WHERE category = {NOBODY}"
    if below := database.run(f"SELECT count(*) {targets} AND is_wanted")[0][0]:
        lines.append(f"{below:,} taxa below categories are targets, and left out")
    database.run(f"DELETE {targets}")
    wanted = {at for (at,) in database.run("SELECT DISTINCT category FROM named")}
    return frozenset(wanted - known - {NOBODY}), lines


def _keep_below(database: Database, ancestor: str) -> None:
    roots = database.run("SELECT id FROM taxon WHERE key = key_of(?)", [ancestor])
    if not roots:
        raise ValueError(f"--dump-ancestor {ancestor!r}: the dump has no taxon of that name.")
    ids = [root for (root,) in roots]
    database.run("DELETE FROM meant WHERE NOT list_has_any(list_append(above, id), ?)", [ids])


def _settle_homonyms(database: Database) -> list[str]:
    """Leaves one taxon for each name of an animal and a plant; says which."""
    database.run(
        "CREATE TABLE homonym AS SELECT category FROM meant"
        f" WHERE category != {NOBODY} GROUP BY 1 HAVING count(DISTINCT id) > 1"
    )
    # How many of the clear names lie below each ancestor: what is in common deeper down counts more often.
    database.run(
        "CREATE TABLE judged AS WITH weight AS (SELECT ancestor, count(*) AS number FROM ("
        " SELECT unnest(above) AS ancestor FROM meant WHERE category NOT IN (FROM homonym)) GROUP BY 1),"
        " one AS (SELECT category, id, name, unnest(list_append(above, id)) AS ancestor FROM meant"
        " WHERE category IN (FROM homonym))"
        " SELECT category, id, any_value(name) AS name, coalesce(sum(number), 0) AS score"
        " FROM one LEFT JOIN weight USING (ancestor) GROUP BY ALL"
    )
    database.run(
        "CREATE TABLE chosen AS SELECT category, arg_max(id, score) AS id, any_value(name) AS name FROM judged"
        " WHERE (category, score) IN (SELECT (category, max(score)) FROM judged GROUP BY category)"
        " GROUP BY category HAVING count(*) = 1"
    )
    database.run(
        "DELETE FROM meant WHERE category IN (FROM homonym)"
        " AND (category, id) NOT IN (SELECT (category, id) FROM chosen)"
    )
    chosen = database.run("SELECT name, id FROM chosen ORDER BY 1, 2")
    unclear = database.run(
        "SELECT any_value(name) FROM judged WHERE category NOT IN (SELECT category FROM chosen)"
        " GROUP BY category ORDER BY 1"
    )
    lines = []
    if chosen:
        names = listed([f"{name} (taxon {id})" for name, id in chosen], ANY_NUMBER_OF_NAMES)
        lines.append(
            f"{len(chosen):,} names mean several taxa, of which the one nearest to the other names counts: {names}"
        )
    if unclear:
        names = listed([name for (name,) in unclear], ANY_NUMBER_OF_NAMES)
        lines.append(
            f"{len(unclear):,} names mean several taxa, and none was taken; --dump-ancestor says which: {names}"
        )
    return lines
