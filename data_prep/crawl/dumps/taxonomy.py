"""Which taxon each name means, and to which category every taxon below belongs."""

from __future__ import annotations

from fastlt.data_prep.dumps.database import Database
from fastlt.data_prep.dumps.meanings import settle_meanings
from fastlt.data_prep.dumps.names import ANY_NUMBER_OF_NAMES, NOBODY
from fastlt.messages import listed


def settle(database: Database, ancestor: str) -> tuple[frozenset[int], list[str]]:
    """Makes the table `owner` (taxon, category) of the tables `taxon` and `named`: the nearest above it that is named.

    Args:
        database: has `taxon` and `named`.
        ancestor: a taxon to which all must belong, or "".

    Returns:
        The categories that no taxon is called like, and what there is to say.

    Raises:
        ValueError: there is no such ancestor.
    """
    database.run(
        "CREATE TABLE meant AS SELECT named.category, named.key, taxon.* EXCLUDE key, taxon.id::VARCHAR AS shown"
        " FROM named JOIN taxon USING (key)"
    )
    if ancestor:
        _keep_below(database, ancestor)
    known = {at for (at,) in database.run("SELECT DISTINCT category FROM meant")}
    lines = settle_meanings(database, "--dump-ancestor says which")
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
