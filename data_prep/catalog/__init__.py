"""The catalog: one SQLite file that knows every class, candidate and image, where it came from and what became of it.

Its tables (`schema.py`) are the contract between the stages. Every table is read and written through the methods of
its module, in short transactions; killed at any instant, a stage goes on from what the file says. Readers are never in
the way (WAL).
"""

from __future__ import annotations

from typing import Any

from fastlt.data_prep.catalog.answers import Answers
from fastlt.data_prep.catalog.candidates import Candidate
from fastlt.data_prep.catalog.database import held_catalog, require_catalog
from fastlt.data_prep.catalog.decisions import Decision, Decisions
from fastlt.data_prep.catalog.images import ImageRow, SameBytes
from fastlt.data_prep.catalog.lists import Lists
from fastlt.data_prep.catalog.removals import Removals
from fastlt.data_prep.catalog.searches import Searches
from fastlt.data_prep.catalog.usage import Usage

__all__ = ["Candidate", "Catalog", "Decision", "ImageRow", "SameBytes", "held_catalog", "require_catalog"]


class Catalog(Decisions, Answers, Searches, Lists, Usage, Removals):
    """An open catalog: all of its tables, and what concerns several of them."""

    def retry_failed(self) -> None:
        """Opens what failed again, candidates and searches."""
        with self.transaction():
            self._run("UPDATE candidate SET state = 'new', reason = '' WHERE state = 'failed'")
            self._run("UPDATE search SET state = 'open', reason = '' WHERE state = 'failed'")

    def empty_categories(self) -> list[str]:
        """Titles of kept categories without any image."""
        with_images = {row[0] for row in self._run("SELECT DISTINCT category FROM image_in_use")}
        return [row["title"] for row in self.categories(kept=True) if row["id"] not in with_images]

    def status(self) -> dict[str, Any]:
        """Counts of every stage: {table: {state: {reason, "" for none: number}}}, and of pairs, answers and shards;
        where people decided, of what they decided about, and of the images that encode takes."""
        found: dict[str, Any] = {}
        for table in ("target", "category", "search", "candidate", "image"):
            states: dict[str, Any] = {}
            rows = "image_in_use" if table == "image" else table
            grouped = f"SELECT state, reason, count(*) FROM {rows} GROUP BY state, reason ORDER BY state, 3 DESC"
            for state, reason, number in self._run(grouped):
                states.setdefault(state, {})[reason] = number
            found[table] = states
        pairs = "SELECT count(*) FROM neighbor JOIN category ON category.id = category WHERE state = 'kept'"
        found["neighbor"] = self._number(pairs)
        costs = self.answer_costs()
        found["answer"] = {name: costs[name] for name in ("answers", "prompt_tokens", "completion_tokens")}
        found["answer"]["unusable"] = self.unusable_answers()
        found["shard"] = dict(self._run("SELECT state, count(*) FROM shard GROUP BY state").fetchall())
        if decisions := self.num_decisions():
            found["decision"] = decisions
            taken = "SELECT count(*) FROM image_taken JOIN category ON category.id = category"
            found["taken"] = self._number(f"{taken} WHERE category.state = 'kept'")
        return found
