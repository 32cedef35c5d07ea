"""Shards, the images in them, and how the filter judged these."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from fastlt.atomic import write_text
from fastlt.data_prep.catalog import schema
from fastlt.data_prep.catalog.database import Database
from fastlt.dataset.images import in_tar

# Images for an encoded data set, in its order. Parameters: whether those that were not filtered are taken too, and a
# JSON list of licenses that are not.
_TAKEN = (
    " FROM image_in_use AS image JOIN category ON category.id = image.category"
    " JOIN candidate ON candidate.id = image.id"
    " WHERE category.state = 'kept'"
    " AND CASE WHEN ? THEN image.id NOT IN (SELECT id FROM by_hand WHERE verdict = 'drop')"
    " ELSE image.id IN (SELECT id FROM image_taken) END"
    " AND license NOT IN (SELECT value FROM json_each(?)) ORDER BY category.name, image.id"
)


class ImageRow(NamedTuple):
    """An image in a shard; `id` is its candidate's."""

    id: int
    category: int
    shard: int
    offset: int
    num_bytes: int
    width: int
    height: int
    sha256: bytes
    hash: int


class SameBytes(NamedTuple):
    """An image that was made of certain bytes, and whether its candidate has been dropped since, or was removed.

    One that went for its license or category, and whose bytes are still to be overwritten, counts as there: its row
    says where they are.
    """

    id: int
    is_dropped: bool
    is_removed: bool


class Images(Database):
    """The tables `shard` and `image`; a view has the images in use."""

    @property
    def shards_folder(self) -> Path:
        """Where crawl puts shards: beside the catalog, so that both move together."""
        return self.path.with_name(f"{self.path.stem}_shards")

    def shard_path(self, shard: int) -> Path:
        """The file of a finished shard."""
        return self.shards_folder / f"{shard:05d}.tar"

    def open_shard_path(self, shard: int) -> Path:
        """The file of a shard that is not finished."""
        return self.shards_folder / f".{shard:05d}.tar.partial"

    def erased_mark(self, shard: int) -> Path:
        """A file that is there where images of a shard were overwritten, so that it is not what it once was.

        It has the sha256 of the shard since, once that is finished.
        """
        return self.shards_folder / f"{shard:05d}_erased"

    def erased_marks(self) -> Iterator[Path]:
        """All of these files; each was written when its shard was last overwritten."""
        return self.shards_folder.glob("*_erased")

    def shards(self, state: str) -> list[sqlite3.Row]:
        """The shards of a state, "open" or "done", by id."""
        return self._run("SELECT * FROM shard WHERE state = ? ORDER BY id", [state]).fetchall()

    def next_shard(self) -> int:
        """The number of a new shard."""
        return self._number("SELECT ifnull(max(id), -1) + 1 FROM shard")

    def set_open_shard(self, shard: int, num_images: int, num_bytes: int) -> None:
        """How far an open shard is valid."""
        self._run("INSERT OR REPLACE INTO shard VALUES (?, 'open', ?, ?)", [shard, num_images, num_bytes])

    def finish_shard(self, shard: int) -> None:
        """A shard is whole and has its name."""
        self._run("UPDATE shard SET state = 'done' WHERE id = ?", [shard])

    def shard_counts(self, shard: int) -> dict[str, dict[str, int]]:
        """Images of a shard by `licenses`, `sources` and `categories`, most frequent first."""
        found = {}
        for name, column in (("licenses", "license"), ("sources", "source"), ("categories", "category.name")):
            query = (
                f"SELECT {column}, count(*) FROM image JOIN candidate USING (id) JOIN category"
                " ON category.id = image.category WHERE shard = ?"
                f" AND candidate.reason NOT LIKE '{schema.REMOVED}%' GROUP BY 1 ORDER BY 2 DESC"
            )
            found[name] = dict(self._run(query, [shard]).fetchall())
        return found

    def write_shard_statistics(self, shard: int) -> None:
        """Writes what a shard holds into a file beside it."""
        (row,) = self._run("SELECT num_bytes FROM shard WHERE id = ?", [shard])
        counts = self.shard_counts(shard)
        statistics = {"images": sum(counts["licenses"].values()), "bytes": row["num_bytes"]} | counts
        write_text(self.shards_folder / f"{shard:05d}_stats.json", json.dumps(statistics, indent=1))

    def add_images(self, rows: Iterable[ImageRow]) -> None:
        """Adds images that lie in shards."""
        self.connection.executemany(
            "INSERT INTO image (id, category, shard, offset, num_bytes, width, height, sha256, hash)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            rows,
        )

    def image_of_bytes(self, sha256: bytes) -> SameBytes | None:
        """The image that was made of these bytes."""
        query = (
            f"SELECT id, candidate.state != 'fetched' AND candidate.reason NOT LIKE '{schema.REMOVED} (%',"
            " candidate.reason = ? FROM image JOIN candidate USING (id) WHERE sha256 = ?"
        )
        row = self._run(query, [schema.REMOVED, sha256]).fetchone()
        return SameBytes(row[0], bool(row[1]), bool(row[2])) if row else None

    def forget_images(self, images: Iterable[int]) -> None:
        """Others are to take the place of these images, whose candidates were dropped."""
        self.connection.executemany("DELETE FROM image WHERE id = ?", ((image,) for image in images))

    def image_hashes(self) -> Iterator[list[sqlite3.Row]]:
        """(id, hash) of all images in use by id, some at a time."""
        found = self._run("SELECT id, hash FROM image_in_use ORDER BY id")
        while rows := found.fetchmany(100_000):
            yield rows

    def images_of_waiting(self) -> list[sqlite3.Row]:
        """(id, hash) of the images of candidates that were taken back, by id: they lie in shards already."""
        query = "SELECT id, hash FROM image JOIN candidate USING (id) WHERE candidate.state = 'new' ORDER BY id"
        return self._run(query).fetchall()

    def take_images_back(self, images: Iterable[int]) -> None:
        """Images of candidates that were taken back are to be filtered as new ones are."""
        self.connection.executemany(
            "UPDATE image SET state = 'new', reason = '', similarity = NULL, nearest = NULL,"
            " category = (SELECT category FROM candidate WHERE candidate.id = image.id) WHERE id = ?",
            ((image,) for image in images),
        )

    def has_images(self) -> bool:
        """Whether any image is in use."""
        return self._run("SELECT 1 FROM image_in_use LIMIT 1").fetchone() is not None

    def images(self) -> sqlite3.Cursor:
        """All images in use by id, each with the state of its shard as `shard_state`."""
        return self._run(
            "SELECT image.*, shard.state AS shard_state FROM image_in_use AS image JOIN shard ON shard.id = shard"
            " ORDER BY image.id"
        )

    def judge_images(self, rows: Iterable[tuple[str, str, float | None, int | None, int]]) -> None:
        """Writes (state, reason, similarity, nearest target, id) of images."""
        self.connection.executemany(
            "UPDATE image SET state = ?, reason = ?, similarity = ?, nearest = ? WHERE id = ?", rows
        )

    def images_by_hand(self) -> dict[int, str]:
        """{image: "keep" or "drop"} of those that people decided about, whether or not the image is in use."""
        return dict(self._run("SELECT id, verdict FROM by_hand").fetchall())

    def place_of_image(self, image: int) -> tuple[Path, int, int] | None:
        """(file, offset, bytes) of an image in use, in a finished shard or one that is written; None if it is gone."""
        query = "SELECT shard, offset, num_bytes FROM image_in_use WHERE id = ?"
        row = self._run(query, [image]).fetchone()
        if row is None:
            return None
        done = self.shard_path(row["shard"])
        return done if done.exists() else done.with_name(f".{done.name}.partial"), row["offset"], row["num_bytes"]

    def image_columns(self) -> Iterator[tuple[tuple[Any, ...], ...]]:
        """Columns (id, category, state, reason, similarity, nearest) of all images by id, some rows at a time.

        Their kinds are not looked at, which would take longer than reading them.
        """
        cursor = self.connection.cursor()
        cursor.row_factory = None
        found = cursor.execute("SELECT id, category, state, reason, similarity, nearest FROM image ORDER BY id")
        while rows := found.fetchmany(1_000):  # more at once take longer
            yield tuple(zip(*rows, strict=True))

    def images_not_in_use(self) -> list[int]:
        """Images whose candidates were dropped since."""
        query = (  # SQLite would look each image's candidate up
            "SELECT image.id FROM candidate INDEXED BY candidate_outcome CROSS JOIN image ON image.id = candidate.id"
            " WHERE candidate.state IN ('new', 'dropped', 'failed')"
        )
        return [row[0] for row in self._run(query)]

    def kept_images(self, unfiltered: bool = False, refused: Iterable[str] = ()) -> dict[str, list[str]]:
        """{category: [image, ...]} of the images that filter or a person kept, as `read_image` takes them; no empty
        lists.

        Args:
            unfiltered: take every image that was crawled and that no person dropped.
            refused: licenses, as candidates have them, that are not taken.

        Raises:
            ValueError: no image, or none that was filtered, or a crawl that did not end.
        """
        counts = dict(self._run("SELECT state, count(*) FROM image_in_use GROUP BY 1").fetchall())
        if not counts:
            raise ValueError(f"{self.path} has no images: run `fastlt crawl` first.")
        if not unfiltered and counts.get("new"):
            raise ValueError(
                f"{counts['new']:,} images of {self.path} were not filtered: run `fastlt filter`,"
                " or take all of them with --unfiltered."
            )
        if self.shards("open"):
            raise ValueError(f"a crawl of {self.path} was interrupted: run `fastlt crawl` again to finish it.")
        classes: dict[str, list[str]] = {}
        refused = [*refused]
        query = f"SELECT category.name, shard, offset, num_bytes{_TAKEN}"
        for row in self._run(query, [unfiltered, json.dumps(refused)]):
            classes.setdefault(row["name"], []).append(self._place(row))
        if not classes and refused:
            raise ValueError(f"no image of {self.path} has a license that is allowed: see --licenses.")
        if not classes:
            raise ValueError(f"no image of {self.path} was kept: run `fastlt filter` with other thresholds.")
        return classes

    def licenses_of_kept(self, unfiltered: bool = False) -> dict[str, int]:
        """{license: images} of what `kept_images` takes; "" for none."""
        query = f"SELECT license, count(*) AS number FROM (SELECT license{_TAKEN}) GROUP BY 1"
        return {row["license"]: row["number"] for row in self._run(query, [unfiltered, "[]"])}

    def credits(self, unfiltered: bool = False, refused: Iterable[str] = ()) -> Iterator[tuple[str, sqlite3.Row]]:
        """(image, what is known of where it comes from) of what `kept_images` takes, in its order, one at a time."""
        about = "category.name, shard, offset, num_bytes, url, page, attribution, license, source"
        for row in self._run(f"SELECT {about}{_TAKEN}", [unfiltered, json.dumps([*refused])]):
            yield self._place(row), row

    def _place(self, row: sqlite3.Row) -> str:
        return in_tar(self.shard_path(row["shard"]).absolute(), row["offset"], row["num_bytes"])
