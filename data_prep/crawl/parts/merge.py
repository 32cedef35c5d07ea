"""`fastlt merge`: what became of the candidates of all parts, written into the whole catalog as a crawl writes it.

Nothing is copied twice: killed at any instant, the same command goes on with what has no outcome in the whole.
"""

from __future__ import annotations

import shutil
import tarfile
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from sqlite3 import Row

from fastlt.data_prep.catalog import Catalog
from fastlt.data_prep.crawl import reasons
from fastlt.data_prep.crawl.options import CrawlOptions, SearchOptions
from fastlt.data_prep.crawl.parts import lease
from fastlt.data_prep.crawl.parts.part import of_another, owned_part, parts_folder, parts_of, unfinished
from fastlt.data_prep.crawl.policy import as_remembered
from fastlt.data_prep.crawl.prepared import Prepared
from fastlt.data_prep.crawl.shards import ShardWriter
from fastlt.data_prep.crawl.writer import ImageWriter, Outcome

_BATCH = 256
_JOINED = "parts joined"  # a setting of the whole while they are removed


def merge(path: Path, take_unfinished: bool = False) -> tuple[Counter[tuple[str, str]], list[str]]:
    """Joins the parts of a catalog into it, and removes them.

    Of images with the same bytes, or that look the same, the first stays: parts come in order, and so do their
    candidates. A URL that leads to a host of another part stays without an outcome.

    Args:
        path: the whole catalog.
        take_unfinished: join what there is, though parts are missing or not done.

    Returns:
        How often each (state, reason) occurred, and what is left to do, in sentences.

    Raises:
        ValueError: there are no parts, somebody works on one, or there is something left to do.
    """
    with Catalog(path) as whole, whole.lock("merge"):
        found = parts_of(path)
        if not found:
            raise ValueError(f"{path} is in no parts: `fastlt crawl {path} --part 1/4` makes the first of four.")
        left = [] if whole.setting(_JOINED) else unfinished(path)  # some may be gone already
        if left and not take_unfinished:
            raise ValueError(
                f"{'; '.join(left)}: run `fastlt crawl {path} --part K/N` for these, or join what there is with "
                "--unfinished."
            )
        counts: Counter[tuple[str, str]] = Counter()
        shards = as_remembered(whole, SearchOptions(), CrawlOptions(), ())[1].shards
        writer = ImageWriter(whole, shards.images_per_shard, None if shards.duplicates < 0 else shards.duplicates)
        try:
            for part in found.values():
                with owned_part(part, CrawlOptions.lease) as (opened, _):
                    ShardWriter(opened, shards.images_per_shard).finish()  # of a crawl that was killed
                    for batch in _outcomes(opened, whole):
                        counts += writer.commit(batch)
                    with whole.transaction():
                        whole.copy_used(tuple(row) for row in opened.all_used())
            writer.finish()
            whole.remember(_JOINED, "all of them")
        finally:
            writer.close()
        if waiting := whole.num_waiting():
            why = "such as those that lead to another part's host"
            left.append(f"{waiting:,} URLs without an outcome, {why}: `fastlt crawl {path}`")
        for part in found.values():
            with lease.held(part, CrawlOptions.lease):
                _remove(part)
        whole.remember(_JOINED, "")
        with suppress(OSError):  # something else lies in it
            parts_folder(path).rmdir()
    return counts, left


def _outcomes(part: Catalog, whole: Catalog) -> Iterator[list[Outcome]]:
    """The outcomes of a part that the whole does not have, in order: images first, then what may repeat one."""
    for are_images in (True, False):
        last = 0
        while rows := part.ended(last, _BATCH):
            last = rows[-1]["id"]
            in_whole = whole.candidates([row["id"] for row in rows])
            if any(row["id"] in in_whole and row["url"] != in_whole[row["id"]]["url"] for row in rows):
                raise ValueError(of_another(part.path, whole.path))
            wanted = [
                row
                for row in rows
                if (row["state"] == "fetched") == are_images
                and row["id"] in in_whole
                and in_whole[row["id"]]["state"] == "new"
                and row["reason"] != reasons.ANOTHER_PART
            ]
            if wanted:
                yield [_image(part, row) if are_images else _without_image(whole, row) for row in wanted]


def _image(part: Catalog, row: Row) -> Outcome:
    shard = part.shard_path(row["shard"])
    try:
        members = _members(shard, row["offset"])
    except (tarfile.TarError, FileNotFoundError):
        members = {}
    if len(members.get("jpg", b"")) != row["num_bytes"]:
        raise ValueError(
            f"{shard} is missing or damaged: it has no image at byte {row['offset']:,}. Restore it, or remove "
            f"{part.path} and {part.shards_folder}, and run that part again, which fetches all of it anew."
        )
    image = Prepared(members["jpg"], row["width"], row["height"], row["sha256"], row["hash"])
    return Outcome(row["id"], image, members.get("original"))


def _without_image(whole: Catalog, row: Row) -> Outcome:
    twin = row["twin"]
    if twin is not None:  # may be a duplicate itself, of an image of another part
        twin = whole.candidate(twin)["twin"] or twin
    return Outcome(row["id"], state=row["state"], reason=row["reason"], twin=twin)


def _members(shard: Path, offset: int) -> dict[str, bytes]:
    """{extension: content} of the sample whose first file begins there."""
    found: dict[str, bytes] = {}
    with shard.open("rb") as file:
        file.seek(offset - tarfile.BLOCKSIZE)
        with tarfile.open(fileobj=file, mode="r:") as tar:
            key = ""
            for member in tar:
                begins, _, extension = member.name.partition(".")
                if key not in ("", begins):
                    break
                content = tar.extractfile(member)
                key, found[extension] = begins, content.read() if content else b""
    return found


def _remove(part: Path) -> None:
    with Catalog(part) as opened:
        folder = opened.shards_folder
    shutil.rmtree(folder, ignore_errors=True)
    for file in (part, part.with_name(f"{part.name}.lock")):
        file.unlink(missing_ok=True)
    lease.remove(part)
