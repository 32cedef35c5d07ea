"""What a catalog gives to training: the places of auxiliary images in shards, and the neighbor pairs."""

from __future__ import annotations

from pathlib import Path

from fastlt.data_prep.catalog import Catalog

from fastlt.images import in_tar


def kept_images(path: Path, unfiltered: bool = False) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """({category: [image, ...]}, {target: [category, ...]}) of the images that filter kept; both without empty lists.

    Args:
        path: the catalog.
        unfiltered: take every image that was crawled.

    Raises:
        ValueError: no image, or none that was filtered.
    """
    with Catalog(path) as catalog:
        one = catalog.connection.execute
        counts = dict(one("SELECT state, count(*) FROM image GROUP BY state").fetchall())
        if not counts:
            raise ValueError(f"{path} has no images: run `fastlt crawl` first.")
        if not unfiltered and counts.get("new"):
            raise ValueError(
                f"{counts['new']:,} images of {path} were not filtered: run `fastlt filter`,"
                " or take all of them with --unfiltered."
            )
        if one("SELECT 1 FROM shard WHERE state = 'open'").fetchone():
            raise ValueError(f"a crawl of {path} did not end: run `fastlt crawl` again, which goes on from there.")
        classes: dict[str, list[str]] = {}
        query = (
            "SELECT category.name, shard, offset, num_bytes FROM image JOIN category ON category.id = image.category"
            " WHERE category.state = 'kept' AND (? OR image.state = 'kept') ORDER BY category.name, image.id"
        )
        for row in one(query, [unfiltered]):
            place = in_tar(catalog.shard_path(row["shard"]).absolute(), row["offset"], row["num_bytes"])
            classes.setdefault(row["name"], []).append(place)
        if not classes:
            raise ValueError(f"no image of {path} was kept: run `fastlt filter` with other thresholds.")
        neighbors = {target: [c for c in names if c in classes] for target, names in catalog.neighbors().items()}
    return classes, {target: names for target, names in neighbors.items() if names}
