"""What became of candidates, written down: images into shards, duplicates found, states into the catalog."""

from __future__ import annotations

import array
import json
import sqlite3
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from fastlt.data_prep.catalog import Catalog
from fastlt.data_prep.perceptual import HashIndex
from fastlt.data_prep.pixels import Prepared
from fastlt.data_prep.shards import ShardWriter


@dataclass(frozen=True)
class Outcome:
    """The end of one candidate.

    Attributes:
        candidate: its id.
        prepared: the image, or None.
        original: the bytes as they were fetched, where they are to be kept.
        state, reason: without an image, why.
    """

    candidate: int
    prepared: Prepared | None = None
    original: bytes | None = None
    state: str = ""
    reason: str = ""

    @property
    def num_bytes(self) -> int:
        """What it holds in memory."""
        return len(self.original or b"") + (len(self.prepared.jpeg) if self.prepared else 0)


class ImageWriter:
    """Commits batches of outcomes; one thread at a time.

    Args:
        catalog: a connection of its own.
        images_per_shard: after which a shard is finished.
        radius: Hamming distance of perceptual hashes up to which two images are the same; None compares bytes only.
    """

    def __init__(self, catalog: Catalog, images_per_shard: int, radius: int | None) -> None:
        self._catalog = catalog
        self._shards = ShardWriter(catalog, images_per_shard)
        self._index = None if radius is None else HashIndex(radius)
        self._ids = array.array("q")  # of the images in the index
        if self._index is not None:
            known = catalog.connection.execute("SELECT id, hash FROM image ORDER BY id")
            while rows := known.fetchmany(100_000):
                ids, hashes = np.array([tuple(row) for row in rows], np.int64).T
                self._ids.frombytes(ids.tobytes())
                self._index.add(np.ascontiguousarray(hashes))

    def commit(self, outcomes: Sequence[Outcome]) -> Counter[tuple[str, str]]:
        """Makes the outcomes last; returns how often each (state, reason) occurred."""
        found: Counter[tuple[str, str]] = Counter()
        while outcomes:
            room = self._shards.room
            found += self._commit(outcomes[:room])  # all or none of them
            outcomes = outcomes[room:]
            if not self._shards.room:
                self._shards.finish()
        return found

    def _commit(self, outcomes: Sequence[Outcome]) -> Counter[tuple[str, str]]:
        found: Counter[tuple[str, str]] = Counter()
        states: list[tuple[str, str, int | None, int]] = []
        rows = self._describe(outcomes)
        first_of: dict[bytes, int] = {}  # exact duplicates inside the batch
        images = []
        for outcome in outcomes:
            state, reason, twin = outcome.state, outcome.reason, None
            if outcome.prepared is not None:
                twin, reason = self._twin(outcome.prepared, first_of)
                state = "fetched" if twin is None else "dropped"
                if twin is None:
                    first_of[outcome.prepared.sha256] = outcome.candidate
                    images.append(self._add(outcome, outcome.prepared, rows[outcome.candidate]))
            found[state, reason] += 1
            states.append((state, reason, twin, outcome.candidate))
        if images:
            self._shards.sync()
        with self._catalog.transaction() as sql:
            if images:
                shard = (self._shards.shard, self._shards.num_images, self._shards.num_bytes)
                sql.execute("INSERT OR REPLACE INTO shard VALUES (?, 'open', ?, ?)", shard)
            sql.executemany(
                "INSERT INTO image (id, category, shard, offset, num_bytes, width, height, sha256, hash)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                images,
            )
            sql.executemany("UPDATE candidate SET state = ?, reason = ?, twin = ? WHERE id = ?", states)
        return found

    def give_up(self, host: str, reason: str) -> int:
        """Fails every candidate of the host that has no outcome; returns how many."""
        with self._catalog.transaction() as sql:
            return sql.execute(
                "UPDATE candidate SET state = 'failed', reason = ? WHERE state = 'new' AND host = ?", [reason, host]
            ).rowcount

    def finish(self) -> None:
        """Finishes the last shard: nothing more is coming."""
        self._shards.finish()

    def close(self) -> None:
        """Leaves the last shard open, for another run to go on with."""
        self._shards.close()

    def _describe(self, outcomes: Sequence[Outcome]) -> dict[int, sqlite3.Row]:
        """What travels with each image: where it is from, its license, its category."""
        ids = [outcome.candidate for outcome in outcomes if outcome.prepared is not None]
        query = (
            "SELECT candidate.id, category.id AS category_id, category.name AS category, category.title, url, page,"
            " source, license, attribution FROM candidate JOIN category ON category.id = category"
            f" WHERE candidate.id IN ({', '.join('?' * len(ids))})"
        )
        return {row["id"]: row for row in self._catalog.connection.execute(query, ids)}

    def _twin(self, image: Prepared, first_of: dict[bytes, int]) -> tuple[int | None, str]:
        """The image that this one is a duplicate of, if any, and what that is called."""
        if image.sha256 in first_of:
            return first_of[image.sha256], "duplicate"
        same = self._catalog.connection.execute("SELECT id FROM image WHERE sha256 = ?", [image.sha256]).fetchone()
        if same is not None:
            return same["id"], "duplicate"
        if self._index is not None:
            (at,) = self._index.nearest(np.array([image.hash]))
            if at >= 0:
                return self._ids[at], "near-duplicate"
        return None, ""

    def _add(self, outcome: Outcome, image: Prepared, row: sqlite3.Row) -> tuple[object, ...]:
        """Appends the image to the open shard; returns its row."""
        if self._index is not None:
            self._index.add(np.array([image.hash]))
            self._ids.append(outcome.candidate)
        about = {key: row[key] for key in ("category", "title", "url", "page", "source", "license", "attribution")}
        about |= {"width": image.width, "height": image.height, "sha256": image.sha256.hex()}
        members = {"jpg": image.jpeg, "json": json.dumps(about, ensure_ascii=False).encode()}
        if outcome.original is not None:
            members["original"] = outcome.original
        offset = self._shards.add(f"{outcome.candidate:09d}", members)["jpg"]
        place = (self._shards.shard, offset, len(image.jpeg), image.width, image.height)
        return (outcome.candidate, row["category_id"], *place, image.sha256, image.hash)
