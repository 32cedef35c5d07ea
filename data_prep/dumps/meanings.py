"""Which of several taxa of one name a category means."""

from __future__ import annotations

from fastlt.data_prep.dumps.database import Database
from fastlt.data_prep.dumps.names import ANY_NUMBER_OF_NAMES, NOBODY
from fastlt.messages import listed


def settle_meanings(database: Database, otherwise: str) -> list[str]:
    """Leaves one taxon for each category in the table `meant`; none where nothing says which.

    Of several taxa of one name, active ones come first; of a genus and a subgenus of it, the genus counts; else the
    taxon that has more of its ancestors in common with the other names. Where that is no more for one than for another,
    none is taken.

    Args:
        database: has `meant`: category, key (of its name), id, name, `shown` (its id as people know it), active, and
            `above`, the ids of what it belongs to.
        otherwise: what people can do where nothing says which.

    Returns:
        What there is to say.
    """
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
    return _settle_homonyms(database, otherwise)


def _settle_homonyms(database: Database, otherwise: str) -> list[str]:
    """Leaves one taxon for each name of an animal and a plant; says which."""
    database.run(
        "CREATE TABLE homonym AS SELECT category FROM meant"
        f" WHERE category != {NOBODY} GROUP BY 1 HAVING count(DISTINCT id) > 1"
    )
    # How many of the clear names lie below each ancestor: what is in common deeper down counts more often.
    database.run(
        "CREATE TABLE judged AS WITH weight AS (SELECT ancestor, count(*) AS number FROM ("
        " SELECT unnest(above) AS ancestor FROM meant WHERE category NOT IN (FROM homonym)) GROUP BY 1),"
        " one AS (SELECT category, id, name, shown, unnest(list_append(above, id)) AS ancestor FROM meant"
        " WHERE category IN (FROM homonym))"
        " SELECT category, id, any_value(name) AS name, any_value(shown) AS shown, coalesce(sum(number), 0) AS score"
        " FROM one LEFT JOIN weight USING (ancestor) GROUP BY ALL"
    )
    database.run(
        "CREATE TABLE chosen AS SELECT category, arg_max(id, score) AS id, any_value(name) AS name,"
        " any_value(shown) AS shown FROM judged"
        " WHERE (category, score) IN (SELECT (category, max(score)) FROM judged GROUP BY category)"
        " GROUP BY category HAVING count(*) = 1"
    )
    database.run(
        "DELETE FROM meant WHERE category IN (FROM homonym)"
        " AND (category, id) NOT IN (SELECT (category, id) FROM chosen)"
    )
    chosen = database.run("SELECT name, shown FROM chosen ORDER BY 1, 2")
    unclear = database.run(
        "SELECT any_value(name) FROM judged WHERE category NOT IN (SELECT category FROM chosen)"
        " GROUP BY category ORDER BY 1"
    )
    lines = []
    if chosen:
        names = listed([f"{name} (taxon {shown})" for name, shown in chosen], ANY_NUMBER_OF_NAMES)
        lines.append(
            f"{len(chosen):,} names mean several taxa, of which the one nearest to the other names counts: {names}"
        )
    if unclear:
        names = listed([name for (name,) in unclear], ANY_NUMBER_OF_NAMES)
        lines.append(f"{len(unclear):,} names mean several taxa, and none was taken; {otherwise}: {names}")
    return lines
