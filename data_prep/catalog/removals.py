"""What was taken out on request: marked first, so that no stage takes it any more, and forgotten when its bytes are."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator

from fastlt.data_prep.catalog import schema
from fastlt.data_prep.catalog.database import Database

_IS_REMOVED = f"candidate.state = 'dropped' AND candidate.reason LIKE '{schema.REMOVED}%'"


class Removals(Database):
    """Of the tables `candidate` and `image`, what `fastlt remove` writes.

    A removed candidate stays, so that no crawl brings it again. Where the request was about the image itself, its row
    in `image` stays too, without bytes in a shard (num_bytes is 0): the same bytes from another URL are known by their
    sha256.
    """

    def told_of_candidates(self) -> Iterator[sqlite3.Row]:
        """All candidates by id, one at a time: id, url, page, attribution, license, category."""
        return iter(self._run("SELECT id, url, page, attribution, license, category FROM candidate ORDER BY id"))

    def same_pictures(self, candidates: Iterable[int]) -> list[int]:
        """These candidates, the images that they were dropped as duplicates of, and all other duplicates of both."""
        query = (
            "WITH given AS (SELECT value AS id FROM json_each(?)),"
            " shown AS (SELECT id FROM given UNION SELECT twin FROM given JOIN candidate USING (id) WHERE twin > 0)"
            " SELECT id FROM shown UNION SELECT id FROM candidate WHERE twin IN (SELECT id FROM shown)"
        )
        return [row[0] for row in self._run(query, [json.dumps([*candidates])])]

    def urls_of(self, candidates: Iterable[int]) -> set[str]:
        """Their URLs, but of those that were removed before."""
        query = f"SELECT url FROM candidate WHERE id IN (SELECT value FROM json_each(?)) AND NOT ({_IS_REMOVED})"
        return {row[0] for row in self._run(query, [json.dumps([*candidates])])}

    def num_images_of(self, candidates: Iterable[int]) -> int:
        """How many of these candidates have an image in a shard."""
        query = "SELECT count(*) FROM image WHERE num_bytes > 0 AND id IN (SELECT value FROM json_each(?))"
        return self._number(query, json.dumps([*candidates]))

    def mark_removed(self, candidates: Iterable[int], why: str = "") -> int:
        """Drops candidates for good, whatever became of them; returns how many were not dropped so before.

        Args:
            candidates: their ids.
            why: "license" or "category" where the request is about these and not about the images themselves, whose
                bytes may come again from elsewhere.
        """
        reason = f"{schema.REMOVED} ({why})" if why else schema.REMOVED
        return self._run(
            "UPDATE candidate SET state = 'dropped', reason = ?, twin = NULL"
            f" WHERE id IN (SELECT value FROM json_each(?)) AND NOT ({_IS_REMOVED} AND reason IN (?, ?))",
            [reason, json.dumps([*candidates]), reason, schema.REMOVED],
        ).rowcount

    def reject_on_request(self, categories: Iterable[int]) -> None:
        """Takes categories out for good, whatever people decided about them."""
        query = "UPDATE category SET state = 'rejected', reason = ? WHERE id IN (SELECT value FROM json_each(?))"
        self._run(query, [schema.REMOVED, json.dumps([*categories])])

    def images_to_erase(self) -> list[sqlite3.Row]:
        """Images of removed candidates whose bytes are still in shards: id, shard, shard_state, offset, sha256."""
        return self._run(
            "SELECT image.id, shard, shard.state AS shard_state, offset, sha256 FROM image"
            f" JOIN candidate ON candidate.id = image.id JOIN shard ON shard.id = shard WHERE {_IS_REMOVED}"
            " AND image.num_bytes > 0 ORDER BY shard, offset"
        ).fetchall()

    def forget_erased(self, images: Iterable[int]) -> None:
        """The bytes of these images are gone."""
        found = json.dumps([*images])
        erased = "id IN (SELECT value FROM json_each(?))"
        whole = f"SELECT id FROM candidate WHERE {_IS_REMOVED} AND reason = ?"
        with self.transaction():
            self._run(
                f"UPDATE image SET num_bytes = 0, state = 'dropped', reason = ? WHERE {erased} AND id IN ({whole})",
                [schema.REMOVED, found, schema.REMOVED],
            )
            self._run(f"DELETE FROM image WHERE {erased} AND id NOT IN ({whole})", [found, schema.REMOVED])

    def removed_urls(self) -> Iterator[str]:
        """The URLs of all that was ever removed."""
        return (row[0] for row in self._run(f"SELECT url FROM candidate WHERE {_IS_REMOVED}"))
