"""`fastlt remove`: takes images out, wherever they are, so that they do not come back.

The catalog comes first: from one transaction on, no stage takes the images. Then their bytes are overwritten, in shards
and in the embeddings of filter, and then the catalog says that they are gone. Killed anywhere, any later call of the
command finds what is marked and not yet gone.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import file_digest
from itertools import groupby
from pathlib import Path

from fastlt.atomic import write_text
from fastlt.data_prep.catalog import Catalog
from fastlt.data_prep.crawl.parts.part import parts_of
from fastlt.data_prep.filter.embedding_store import erase_rows, image_keys
from fastlt.data_prep.remove.holes import erase_samples
from fastlt.data_prep.remove.wanted import Found, Wanted, find
from fastlt.dataset.attribution import FILE, cell, read_credits
from fastlt.dataset.encoded import EncodedDataset
from fastlt.dataset.shortened import finish_swap, shorten
from fastlt.messages import listed


def remove(catalog: Catalog, wanted: Wanted, encoded: Sequence[Path], dry_run: bool) -> tuple[list[str], list[str]]:
    """Removes what is wanted, and what was wanted before and not finished.

    Args:
        catalog: held by `lock`.
        wanted: see there.
        encoded: encoded data sets, out of which all goes that was ever removed from this catalog.
        dry_run: only say it.

    Returns:
        What was removed where, and what is left to do, in sentences.

    Raises:
        ValueError: nothing is meant, the catalog is in parts, or a file is not as it should be.
    """
    if parts_of(catalog.path):
        raise ValueError(f"{catalog.path} is in parts, which have images of their own: `fastlt merge` it first.")
    for folder in encoded:
        if not dry_run:
            finish_swap(folder)
        EncodedDataset.open(folder)  # a wrong name shows before anything is removed
    found = find(catalog, wanted)
    said, left = [*_told(found)], [f"{option} means nothing in {catalog.path}" for option in found.unmet]
    if dry_run:
        return [*said, *_dry(catalog, found, encoded)], left
    with catalog.transaction():
        number = catalog.mark_removed(catalog.same_pictures(found.images))
        number += catalog.mark_removed(found.of_license, "license")
        number += catalog.mark_removed(found.of_category, "category")
        catalog.reject_on_request(found.categories)
    rejected = f", {len(found.categories):,} categories rejected" if found.categories else ""
    said.append(f"{catalog.path}: {number:,} URLs dropped, which are not fetched again{rejected}")
    said += _erase(catalog)
    removed = {cell(url) for url in catalog.removed_urls()} if encoded else set()
    for folder in encoded:
        if not _has_credits(folder):
            left.append(_again(folder, catalog.path))
            continue
        said.append(shorten(folder, lambda credit: credit.url in removed))
    drawn = [catalog.path.with_name(f"{catalog.path.stem}_{name}") for name in ("sheet.html", "filter.csv")]
    erased = max((mark.stat().st_mtime for mark in catalog.erased_marks()), default=0.0)
    if drawn := [path for path in drawn if path.exists() and path.stat().st_mtime <= erased]:
        left.append(f"{' and '.join(map(str, drawn))} may show what was removed: `fastlt filter` writes them anew")
    return said, left


def _told(found: Found) -> list[str]:
    if not found.attributions:
        return []
    named = [f"{text} ({number:,})" for text, number in found.attributions.most_common()]
    return [f"--author means the attributions {listed(named)}"]


def _dry(catalog: Catalog, found: Found, encoded: Sequence[Path]) -> list[str]:
    """What would be done."""
    ids = {*catalog.same_pictures(found.images), *found.of_license, *found.of_category}
    urls, images = catalog.urls_of(ids), catalog.num_images_of(ids)
    said = [f"{catalog.path}: {len(urls):,} URLs would be dropped, with {images:,} images in shards"]
    said += [f"  {url}" for url in sorted(urls)[:20]] + ["  ..."] * (len(urls) > 20)
    urls = {cell(url) for url in (*urls, *catalog.removed_urls())}
    for folder in encoded:
        number = sum(credit.url in urls for credit in read_credits(folder))
        said.append(
            f"{folder}: {number:,} images would be removed" if _has_credits(folder) else _again(folder, catalog.path)
        )
    return said


def _erase(catalog: Catalog) -> list[str]:
    """Overwrites the bytes of all images that are marked, and then forgets these."""
    rows = catalog.images_to_erase()
    shards = []
    for (shard, state), images in groupby(rows, lambda row: (row["shard"], row["shard_state"])):
        finished, unfinished = catalog.shard_path(shard), catalog.open_shard_path(shard)
        path = unfinished if state == "open" and unfinished.exists() else finished
        write_text(catalog.erased_mark(shard), "")
        erase_samples(path, [row["offset"] for row in images])
        if state == "done":
            catalog.write_shard_statistics(shard)
            with path.open("rb") as file:
                write_text(catalog.erased_mark(shard), file_digest(file, "sha256").hexdigest())
        shards.append(path.name)
    if not rows:
        return []
    folder = catalog.path.with_name(f"{catalog.path.stem}_embeddings")
    stores = erase_rows(folder, image_keys(row["sha256"] for row in rows))
    catalog.forget_erased([row["id"] for row in rows])
    said = [f"{catalog.shards_folder}: {len(rows):,} images overwritten, in {listed(shards)}"]
    return said + [f"{store}: {what}" for store, what in stores.items()]


def _has_credits(folder: Path) -> bool:
    return (folder / FILE).is_file()


def _again(folder: Path, catalog: Path) -> str:
    return (
        f"{folder} does not say where its images come from (it has no {FILE}): encode again from {catalog}, "
        "and delete this one"
    )
