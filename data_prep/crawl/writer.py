"""What became of candidates, written down: images into shards, duplicates found, states into the catalog."""

from __future__ import annotations

import array
import json
import sqlite3
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fastlt.data_prep.catalog import Catalog, ImageRow, SameBytes
from fastlt.data_prep.crawl import reasons
from fastlt.data_prep.crawl.prepared import Prepared
from fastlt.data_prep.crawl.shards import ShardWriter

if TYPE_CHECKING:
    from fastlt.data_prep.perceptual.index import HashIndex


@dataclass(frozen=True)
class Outcome:
    """The end of one candidate.

    Attributes:
        candidate: its id.
        prepared: the image, or None.
        original: the bytes as they were fetched, where they are to be kept.
        state, reason: without an image, why.
        twin: the image that it repeats, where that is known.
    """

    candidate: int
    prepared: Prepared | None = None
    original: bytes | None = None
    state: str = ""
    reason: str = ""
    twin: int | None = None

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
        self._index: HashIndex | None = None
        if radius is not None:
            from fastlt.data_prep.perceptual.index import HashIndex  # brings numba

            self._index = HashIndex(radius)
        self._ids = array.array("q")  # of the images in the index
        if self._index is not None:
            for rows in catalog.image_hashes():
                ids, hashes = np.array([tuple(row) for row in rows], np.int64).T
                self._ids.frombytes(ids.tobytes())
                self._index.add(np.ascontiguousarray(hashes))
        self._take_back()

    def _take_back(self) -> None:
        """Candidates that were dropped and are wanted again have images in shards; some may be duplicates by now."""
        states, taken = [], []
        for image, hash in map(tuple, self._catalog.images_of_waiting()):
            twin = self._near(hash)
            if twin is None:
                taken.append(image)
                self._remember(image, hash)
            states.append(
                ("fetched", "", None, image) if twin is None else ("dropped", reasons.NEAR_DUPLICATE, twin, image)
            )
        with self._catalog.transaction():
            self._catalog.set_outcomes(states)
            self._catalog.take_images_back(taken)

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
        rows = self._catalog.candidates([o.candidate for o in outcomes if o.prepared is not None])
        first_of: dict[bytes, int] = {}  # exact duplicates inside the batch
        images, replaced = [], []
        for outcome in outcomes:
            state, reason, twin = outcome.state, outcome.reason, outcome.twin
            if outcome.prepared is not None:
                same = self._catalog.image_of_bytes(outcome.prepared.sha256)
                twin, reason = self._twin(outcome.prepared, first_of, same)
                state = "dropped" if reason else "fetched"
                if not reason:
                    first_of[outcome.prepared.sha256] = outcome.candidate
                    images.append(self._add(outcome, outcome.prepared, rows[outcome.candidate]))
                    replaced += [same.id] if same else []
            found[state, reason] += 1
            states.append((state, reason, twin, outcome.candidate))
        if images:
            self._shards.sync()
        with self._catalog.transaction():
            if images:
                self._catalog.set_open_shard(self._shards.shard, self._shards.num_images, self._shards.num_bytes)
            self._catalog.forget_images(replaced)
            self._catalog.add_images(images)
            self._catalog.set_outcomes(states)
        return found

    def give_up(self, host: str, reason: str) -> int:
        """Fails every candidate of the host that has no outcome; returns how many."""
        with self._catalog.transaction():
            return self._catalog.give_up_host(host, reason)

    def finish(self) -> None:
        """Finishes the last shard: nothing more is coming."""
        self._shards.finish()

    def close(self) -> None:
        """Leaves the last shard open, for another run to go on with."""
        self._shards.close()

    def _twin(self, image: Prepared, first_of: dict[bytes, int], same: SameBytes | None) -> tuple[int | None, str]:
        """The image that this one is a duplicate of, if any, and why it is none to be kept, "" where it is one."""
        if image.sha256 in first_of:
            return first_of[image.sha256], reasons.DUPLICATE
        if same and not same.is_dropped:
            return same.id, reasons.DUPLICATE
        if same and same.is_removed:
            return None, reasons.REMOVED
        near = self._near(image.hash)
        return near, reasons.NEAR_DUPLICATE if near is not None else ""

    def _near(self, hash: int) -> int | None:
        """An image that looks the same."""
        if self._index is None:
            return None
        (at,) = self._index.nearest(np.array([hash]))
        return self._ids[at] if at >= 0 else None

    def _remember(self, candidate: int, hash: int) -> None:
        if self._index is not None:
            self._index.add(np.array([hash]))
            self._ids.append(candidate)

    def _add(self, outcome: Outcome, image: Prepared, row: sqlite3.Row) -> ImageRow:
        """Appends the image to the open shard; returns its row."""
        self._remember(outcome.candidate, image.hash)
        about = {"category": row["category_name"]}
        about |= {key: row[key] for key in ("title", "url", "page", "source", "license", "attribution")}
        about |= {"width": image.width, "height": image.height, "sha256": image.sha256.hex()}
        members = {"jpg": image.jpeg, "json": json.dumps(about, ensure_ascii=False).encode()}
        if outcome.original is not None:
            members["original"] = outcome.original
        offset = self._shards.add(f"{outcome.candidate:09d}", members)["jpg"]
        place = (self._shards.shard, offset, len(image.jpeg), image.width, image.height)
        return ImageRow(outcome.candidate, row["category"], *place, image.sha256, image.hash)
