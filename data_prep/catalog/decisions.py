"""What people decided about images, categories and pairs: kept with its time, undone, and stronger than the stages."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from fastlt.data_prep.catalog import schema
from fastlt.data_prep.catalog.candidates import Candidates
from fastlt.data_prep.catalog.classes import Classes
from fastlt.data_prep.catalog.images import Images
from fastlt.data_prep.names import all_keys, clean_title, normalized, plain_names
from fastlt.data_prep.verdicts import is_banned
from fastlt.foreign import parse_json, require_class_name
from fastlt.messages import one_line

VERDICTS = {
    "image": ("keep", "drop"),
    "category": ("accept", "reject", "add"),
    "title": ("rename",),
    "pair": ("keep", "drop"),
}
"""What can be decided of each kind."""
BY_HAND = "rejected by hand"
_LONGEST_TITLE = 100


class Decision(NamedTuple):
    """What a person decided; see the table `decision`. Without `made` it is of now."""

    kind: str
    what: str
    verdict: str
    target_name: str = ""
    title: str = ""
    made: str = ""


class UnknownError(ValueError):
    """A decision about what the catalog does not have."""


class RefusedError(ValueError):
    """A decision that nothing can follow."""


class Decided(NamedTuple):
    """What became of decisions.

    Attributes:
        batch: its number; 0 when nothing was decided.
        done: how many were followed.
        unknown: (decision, why) of those about what the catalog does not have.
        refused: (decision, why).
    """

    batch: int
    done: int
    unknown: list[tuple[Decision, str]]
    refused: list[tuple[Decision, str]]


class Decisions(Classes, Candidates, Images):
    """The table `decision`, and what follows from it in others."""

    def decide(self, decisions: Sequence[Decision], newer_only: bool = False) -> Decided:
        """Follows decisions and writes them down, in one transaction.

        Of images only the decision is kept: what filter says of an image stays beside it. Categories and pairs change.

        Args:
            decisions: in their order.
            newer_only: leave those alone about which the catalog has one as new.
        """
        done, unknown, refused = 0, [], []
        with self.transaction():
            batch = self._number("SELECT ifnull(max(batch), 0) + 1 FROM decision")
            for decision in decisions:
                if newer_only and decision.made <= self._last_made(decision):
                    continue
                try:
                    decision, before = self._follow(decision)
                except UnknownError as error:
                    unknown.append((decision, str(error)))
                    continue
                except RefusedError as error:
                    refused.append((decision, str(error)))
                    continue
                done += 1
                kind, what, verdict, target, title, made = decision
                row = [batch, kind, what, target, verdict, title, json.dumps(before), made or _now()]
                self._run(
                    "INSERT INTO decision (batch, kind, what, target_name, verdict, title, before, made)"
                    " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                    row,
                )
        return Decided(batch if done else 0, done, unknown, refused)

    def last_batch(self) -> tuple[int, list[Decision]]:
        """What was decided last, (0, []) for nothing."""
        query = (
            "SELECT kind, what, verdict, target_name, title, made, batch FROM decision"
            " WHERE batch = (SELECT max(batch) FROM decision) ORDER BY id"
        )
        rows = self._run(query).fetchall()
        return (rows[0]["batch"] if rows else 0), [Decision(*tuple(row)[:6]) for row in rows]

    def undo(self, batch: int) -> list[Decision]:
        """Takes the last batch back; what it decided, or [] where another one is the last by now."""
        with self.transaction():
            last, undone = self.last_batch()
            if not batch or batch != last:
                return []
            query = "SELECT * FROM decision WHERE batch = ? ORDER BY id DESC"
            for row in self._run(query, [batch]).fetchall():
                self._take_back_decision(row, self._before(row["before"]))
            self._run("DELETE FROM decision WHERE batch = ?", [batch])
        return undone

    def decisions(self) -> list[Decision]:
        """The last one about each thing: additions first, which others may be about, then in their order."""
        query = (
            "SELECT kind, what, verdict, target_name, title, made FROM decided ORDER BY verdict != 'add', decided.id"
        )
        return [Decision(*row) for row in self._run(query)]

    def num_decisions(self) -> dict[str, int]:
        """{kind: things about which people decided}."""
        return dict(self._run("SELECT kind, count(*) FROM decided GROUP BY kind").fetchall())

    def images_shown(self, ids: Iterable[int]) -> dict[int, sqlite3.Row]:
        """Images in use by id, with what people see of them: the columns of `image`, of candidate and category, and
        what was decided as `verdict`."""
        query = (
            "SELECT image.*, candidate.url, page, license, attribution, category.title,"
            " category.state AS category_state,"
            " (SELECT verdict FROM decision WHERE kind = 'image' AND what = candidate.url ORDER BY decision.id DESC"
            " LIMIT 1) AS verdict, target.title AS nearest_title"
            " FROM json_each(?) AS asked CROSS JOIN image ON image.id = asked.value"  # not by all that are in use
            " CROSS JOIN candidate ON candidate.id = image.id JOIN category ON category.id = image.category"
            " LEFT JOIN target ON target.id = nearest WHERE candidate.state = 'fetched'"
        )
        return {row["id"]: row for row in self._run(query, [json.dumps([*ids])])}

    def why_not_in_use(self, image: int) -> str:
        """The URL of an image that is not in use, and why."""
        row = self._run("SELECT url, reason FROM candidate WHERE id = ?", [image]).fetchone()
        return f"{row['url']} ({row['reason'] or 'not fetched'})" if row else f"image {image}"

    def _last_made(self, decision: Decision) -> str:
        query = "SELECT made FROM decided WHERE kind = ? AND what = ? AND target_name = ?"
        row = self._run(query, [decision.kind, decision.what, decision.target_name]).fetchone()
        return row["made"] if row else ""

    def _follow(self, decision: Decision) -> tuple[Decision, dict | None]:
        """Does what was decided; the decision as it is written down, and what was before."""
        if decision.verdict not in VERDICTS.get(decision.kind, ()):
            raise RefusedError(f"{decision.verdict!r} is nothing to be decided of {decision.kind!r}")
        if decision.target_name and decision.kind != "pair":  # or there would be two last decisions about one thing
            raise RefusedError("a target class belongs to pairs alone")
        if decision.kind == "image":
            self._require_followable(decision)
            return decision, None
        if decision.verdict == "add":
            return self._add(decision)
        row = self._run("SELECT * FROM category WHERE name = ?", [decision.what]).fetchone()
        if row is None:
            raise UnknownError("there is no such category")
        if row["reason"] == schema.REMOVED:
            raise RefusedError("it was removed on request")
        if decision.kind == "pair":
            return decision, self._set_pair(row["id"], decision)
        if decision.kind == "title":
            title = self._title(decision.title)
            self._rename(row["id"], title)
            return decision._replace(title=title), {"title": row["title"]}
        if decision.verdict == "reject":
            self._set_state(row["id"], "rejected", BY_HAND)
        else:
            self._title(row["title"])
            self._set_state(row["id"], "kept", "")
            decision = self._as_added(decision)
        return decision, {"state": row["state"], "reason": row["reason"]}

    def _require_followable(self, decision: Decision) -> None:
        query = (
            "SELECT candidate.state, candidate.reason AS gone, image.reason FROM candidate LEFT JOIN image USING (id)"
            " WHERE url = ?"
        )
        row = self._run(query, [decision.what]).fetchone()
        if row is None:
            raise UnknownError("there is no image of that URL")
        if decision.verdict == "keep" and row["state"] == "dropped":
            raise RefusedError(f"the crawl dropped it: {row['gone']}")
        if decision.verdict == "keep" and is_banned(row["reason"] or ""):
            raise RefusedError(f"it stays out: {row['reason']}")

    def _add(self, decision: Decision) -> tuple[Decision, dict | None]:
        """A category of that title, there already or not."""
        title = self._title(decision.title)
        name = self.name_of_title(title)
        row = self._run("SELECT * FROM category WHERE name = ?", [name]).fetchone()
        if row and row["reason"] == schema.REMOVED:
            raise RefusedError("it was removed on request")
        self._set_state(self.add_category(name, title), "kept", "")
        before = {"state": row["state"], "reason": row["reason"]} if row else None
        return decision._replace(what=name, title=title), before

    def _as_added(self, accepted: Decision) -> Decision:
        """What accepts a category: adds it once more, if a person had added it, for a catalog that lacks it."""
        query = "SELECT title FROM decision WHERE kind = 'category' AND what = ? AND verdict = 'add' ORDER BY id DESC"
        row = self._run(query, [accepted.what]).fetchone()
        return accepted._replace(verdict="add", title=row["title"]) if row else accepted

    def _title(self, said: str) -> str:
        """What was said as a title.

        Raises:
            RefusedError: it is none, or a target class is called so.
        """
        title = clean_title(said)
        try:
            require_class_name(title)
        except ValueError as error:
            raise RefusedError(str(error)) from None
        if not normalized(title) or len(title) > _LONGEST_TITLE:
            raise RefusedError(f"{one_line(said)!r} is no title: write some letters, {_LONGEST_TITLE} at most")
        keys, targets = all_keys(title), self.targets()
        plain = plain_names([target["name"] for target in targets])
        for target, name in zip(targets, plain, strict=True):
            if keys & (all_keys(target["title"]) | all_keys(target["name"]) | all_keys(name)):
                raise RefusedError(f"{title!r} is the target class {target['title']!r}")
        return title

    def name_of_title(self, said: str) -> str:
        """The name that a category of that title gets."""
        return normalized(clean_title(said))

    def _rename(self, category: int, title: str) -> None:
        """Gives a category another title, under which image sources are to be asked."""
        self._run("UPDATE category SET title = ? WHERE id = ?", [title, category])
        self._run("DELETE FROM search WHERE category = ?", [category])

    def _set_pair(self, category: int, decision: Decision) -> dict:
        row = self._run("SELECT id FROM target WHERE name = ?", [decision.target_name]).fetchone()
        if row is None:
            raise UnknownError("there is no such target class")
        pair = [row["id"], category]
        found = self._run("SELECT origin FROM neighbor WHERE target = ? AND category = ?", pair).fetchone()
        if decision.verdict == "keep":
            self._write_pair(pair, "given")
        else:
            self._run("DELETE FROM neighbor WHERE target = ? AND category = ?", pair)
        return {"origin": found["origin"] if found else ""}

    def _write_pair(self, pair: list[int], origin: str) -> None:
        query = "INSERT INTO neighbor VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET origin = excluded.origin"
        self._run(query, [*pair, origin])

    def _take_back_decision(self, row: sqlite3.Row, before: dict | None) -> None:
        category = self._run("SELECT id FROM category WHERE name = ?", [row["what"]]).fetchone()
        if row["kind"] == "image" or category is None:
            return
        if row["kind"] == "title":
            self._rename(category["id"], (before or {}).get("title", row["what"]))
        elif row["kind"] == "pair":
            target = self._run("SELECT id FROM target WHERE name = ?", [row["target_name"]]).fetchone()
            if target and (origin := (before or {}).get("origin")):
                self._write_pair([target["id"], category["id"]], origin)
            elif target:
                query = "DELETE FROM neighbor WHERE target = ? AND category = ?"
                self._run(query, [target["id"], category["id"]])
        elif before is None and not self._is_used(category["id"]):
            self._run("DELETE FROM category WHERE id = ?", [category["id"]])
        else:
            was = before or {"state": "rejected", "reason": BY_HAND}
            self._set_state(category["id"], was.get("state", "kept"), was.get("reason", ""))

    def _set_state(self, category: int, state: str, reason: str) -> None:
        """Sets what a person decided of a category, but not of one that was removed on request since."""
        query = "UPDATE category SET state = ?, reason = ? WHERE id = ? AND reason != ?"
        self._run(query, [state, reason, category, schema.REMOVED])

    def _is_used(self, category: int) -> bool:
        tables = ("neighbor", "search", "candidate", "image")
        return any(
            self._run(f"SELECT 1 FROM {table} WHERE category = ? LIMIT 1", [category]).fetchone() for table in tables
        )

    def _before(self, text: str) -> dict | None:
        try:
            found = parse_json(text)
        except ValueError:
            found = None
        is_ours = isinstance(found, dict) and all(isinstance(value, str) for value in found.values())
        return found if is_ours else None


def _now() -> str:
    """UTC, to the microsecond, so that texts compare as times do."""
    return datetime.now(UTC).isoformat(timespec="microseconds")
