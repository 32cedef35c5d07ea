"""Discovers auxiliary categories: a language model names what looks like each target class and is none of them."""

from __future__ import annotations

import asyncio
import hashlib
import json
import sqlite3
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastlt.data_prep.catalog import Catalog, set_states
from fastlt.data_prep.class_names import TargetClass, all_keys, clean_title, normalized, same_name_key
from fastlt.data_prep.discover_prompt import DEFAULT_PROMPT, Prompt
from fastlt.data_prep.llm import Endpoint, EndpointError, Llm, UnansweredError, UnreadableError
from pydantic import BaseModel, ConfigDict, model_validator
from tqdm import tqdm

from fastlt.label_space import FEW_SHOT_BELOW, MANY_SHOT_ABOVE

LONGEST_NAME = 8  # words; more is a sentence


@dataclass(frozen=True)
class DiscoverOptions:
    """What is asked for.

    Attributes:
        categories: wanted for many-shot (> 100 images), medium-shot and few-shot (< 20) target classes.
        rounds: how often a class is asked about while it lacks categories.
        prompt: the prompt file.

    Raises:
        ValueError: a number below 0 or none above, fewer categories for fewer images, or no round.
    """

    categories: tuple[int, int, int] = (3, 5, 8)
    rounds: int = 4
    prompt: Path = DEFAULT_PROMPT

    def __post_init__(self) -> None:
        many, medium, few = self.categories
        if not 0 <= many <= medium <= few or few == 0:
            raise ValueError(
                f"--categories {many},{medium},{few} is for classes with many, medium and few images, "
                "and must not fall from left to right: 3,5,8 is one."
            )
        if self.rounds < 1:
            raise ValueError(f"--rounds is {self.rounds}, which must be 1 or more.")

    @staticmethod
    def parse_categories(text: str) -> tuple[int, int, int]:
        """Reads "3,5,8", or "5" for all alike.

        Raises:
            ValueError: it is neither.
        """
        numbers = [int(part) for part in text.split(",") if part.strip().isdecimal()]
        if len(numbers) != text.count(",") + 1 or len(numbers) not in (1, 3):
            raise ValueError(f"--categories {text} is neither one whole number nor three, such as 3,5,8.")
        many, medium, few = numbers * (3 // len(numbers))
        return many, medium, few

    def wanted(self, count: int) -> int:
        """Categories for a class with so many training images."""
        many, medium, few = self.categories
        return many if count > MANY_SHOT_ABOVE else few if count < FEW_SHOT_BELOW else medium


@dataclass(frozen=True)
class Discovered:
    """What a run found.

    Attributes:
        asked, reused: answers of the endpoint and of the catalog.
        tokens: cost of all answers in the catalog.
        empty: target classes without any category.
    """

    asked: int
    reused: int
    tokens: int
    empty: tuple[str, ...]

    def sentence(self, path: Path, status: dict[str, Any]) -> str:
        """The run in a few lines; `status` is the catalog's."""
        targets, categories = (
            {state: n if isinstance(n, int) else sum(n.values()) for state, n in status[table].items()}
            for table in ("target", "category")
        )
        short = f" ({targets['short']:,} short of what was wanted)" if "short" in targets else ""
        rejected = f" ({categories['rejected']:,} more rejected)" if "rejected" in categories else ""
        return (
            f"{path}: {sum(targets.values()):,} target classes{short}, {categories.get('kept', 0):,} auxiliary "
            f"categories{rejected}, {status['neighbor']:,} neighbor pairs\n"
            f"{self.asked:,} questions asked, {self.reused:,} answered from the catalog; {self.tokens:,} tokens in all"
        )


class Categories(BaseModel):
    """The answer's shape."""

    model_config = ConfigDict(json_schema_extra={"additionalProperties": False})  # as strict schemas must say
    categories: list[str]

    @model_validator(mode="before")
    @classmethod
    def _as_models_without_schema_say(cls, value: object) -> object:
        """A bare list, or objects with a name, will do."""
        names = value.get("categories") if isinstance(value, dict) else value
        if not isinstance(names, list):
            return value
        return {"categories": [name.get("name") if isinstance(name, dict) else name for name in names]}


def discover(
    catalog: Catalog, classes: Sequence[TargetClass], endpoint: Endpoint, options: DiscoverOptions | None = None
) -> Discovered:
    """Writes categories and neighbor pairs for the classes into the catalog, and goes on where a killed run was.

    A class is asked about until it has as many categories as wanted, a round brings no new name, or the rounds are
    used up; in the last two cases its state is `short`, and it is left in peace until model, prompt or options change.

    Args:
        catalog: an open catalog, locked while this runs.
        classes: all target classes; those that the catalog does not know are added.
        endpoint: whom to ask.
        options: see `DiscoverOptions`.

    Raises:
        ValueError: a broken prompt, classes that the catalog has and the list lacks; or, with everything found so far
            in the catalog, an endpoint that fails, a spending limit, or no category for any class.
    """
    options = options or DiscoverOptions()
    prompt = Prompt.read(options.prompt)
    with catalog.lock("discover"):
        _enter_targets(catalog, classes)
        return asyncio.run(_Discovery(catalog, endpoint, options, prompt).run())


def _enter_targets(catalog: Catalog, classes: Sequence[TargetClass]) -> None:
    names = {target.name for target in classes}
    with catalog.transaction() as sql:
        unknown = [name for (name,) in sql.execute("SELECT name FROM target ORDER BY id") if name not in names]
        if unknown:
            raise ValueError(
                f"{catalog.path} has target class {unknown[0]!r}, which the class list lacks: "
                "give the whole list, or use another catalog for other classes."
            )
        sql.executemany(
            "INSERT INTO target (name, title, synonyms, count) VALUES (?, ?, ?, ?) ON CONFLICT (name) DO UPDATE"
            " SET title = excluded.title, synonyms = excluded.synonyms, count = excluded.count",
            [(t.name, t.title, json.dumps(t.synonyms, ensure_ascii=False), t.count) for t in classes],
        )


@dataclass
class _Progress:
    """How far a target class is, kept beside it in the catalog so that a second run asks the same questions.

    Attributes:
        settings: digest of what the rounds were asked with.
        rounds: rounds that were answered.
        refused: titles that were named for the class and not taken.
    """

    settings: str
    rounds: int
    refused: list[str]


class _Discovery:
    def __init__(self, catalog: Catalog, endpoint: Endpoint, options: DiscoverOptions, prompt: Prompt) -> None:
        self._catalog = catalog
        self._endpoint = endpoint
        self._options = options
        self._prompt = prompt
        self._llm = Llm(catalog, endpoint)
        self._finished = 0
        self._first_failure = ""
        query = "SELECT id, name, title, synonyms, count, state FROM target ORDER BY id"
        self._targets: list[sqlite3.Row] = catalog.connection.execute(query).fetchall()
        self._target_of_key: dict[str, str] = {}
        for target in self._targets:
            for title in (target["title"], target["name"], *json.loads(target["synonyms"])):
                for key in all_keys(title):
                    self._target_of_key.setdefault(key, target["title"])
        self._all_titles = ", ".join(target["title"] for target in self._targets)
        self._category_of_key: dict[str, int] = {}
        for row in catalog.connection.execute("SELECT id, name, title FROM category ORDER BY id"):
            self._category_of_key.setdefault(same_name_key(row["title"]), row["id"])
            self._category_of_key.setdefault(same_name_key(row["name"]), row["id"])

    async def run(self) -> Discovered:
        self._reject_what_became_a_target()
        left = iter(self._targets)
        try:
            with tqdm(total=len(self._targets), desc="discover", unit="class", disable=None) as bar:
                await asyncio.gather(*(self._work(left, bar) for _ in range(self._endpoint.concurrency)))
        finally:
            await self._llm.close()
        return self._summary()

    async def _work(self, left: Iterator[sqlite3.Row], bar: tqdm) -> None:
        for target in left:
            try:
                await self._complete(target)
            except EndpointError:
                return  # the summary tells; what other workers are being answered is still kept
            except UnansweredError as error:
                self._first_failure = self._first_failure or f"class {target['name']!r} got no answer ({error})"
                self._set_state(target, "open", str(error))
            else:
                self._finished += 1
            bar.update()

    async def _complete(self, target: sqlite3.Row) -> None:
        wanted = self._options.wanted(target["count"])
        settings = self._settings(wanted)
        progress = self._progress(target)
        names = self._named(target)
        kept = sum(state == "kept" for _, state in names)
        if progress.settings == settings and target["state"] == ("short" if kept < wanted else "done"):
            return
        if progress.settings != settings or target["state"] != "open":
            progress.settings, progress.rounds = settings, 0
        while kept < wanted:
            if progress.rounds >= self._options.rounds:
                return self._set_state(target, "short", f"limit of {self._options.rounds} rounds", progress)
            known = [title for title, _ in names] + progress.refused
            messages = self._prompt.messages(
                title=target["title"],
                synonyms=", ".join(json.loads(target["synonyms"])) or "none",
                number=wanted - kept,
                known=", ".join(known) or "none",
                targets=self._all_titles,
            )
            try:
                answer = await self._llm.ask(messages, Categories)
            except UnreadableError as error:
                return self._set_state(target, "short", str(error), progress)
            progress.rounds += 1
            with self._catalog.transaction():
                self._take(target, answer.categories, wanted - kept, known, progress)
                names = self._named(target)
                kept = sum(state == "kept" for _, state in names)
                if len(names) + len(progress.refused) == len(known):
                    return self._set_state(target, "short", "a round brought nothing new", progress)
                self._set_state(target, "open", "", progress)
        self._set_state(target, "done", "", progress)

    def _take(
        self, target: sqlite3.Row, titles: list[str], lacking: int, known: list[str], progress: _Progress
    ) -> None:
        """Takes up to `lacking` of the titles for neighbors; the others that are no categories become `refused`."""
        seen = {same_name_key(title) for title in known}
        for said in titles:
            title = clean_title(said)[:100]
            key = same_name_key(title)
            if not key or key in seen or lacking == 0:
                continue
            seen.add(key)
            category = self._category(key, title, self._why_not(said))
            row = self._sql("SELECT state FROM category WHERE id = ?", category).fetchone()
            if row["state"] == "kept":
                self._sql("INSERT OR IGNORE INTO neighbor VALUES (?, ?)", target["id"], category)
                lacking -= 1
            else:
                progress.refused.append(title)

    def _category(self, key: str, title: str, why_not: str) -> int:
        """The category of that name, made if there is none; a rejected one stays so, by whomever it was rejected."""
        if key not in self._category_of_key:
            category = self._catalog.add_category(normalized(title), title)
            self._category_of_key[key] = category
            if why_not:
                set_states(self._catalog.connection, "category", [("rejected", why_not, category)])
        return self._category_of_key[key]

    def _why_not(self, said: str) -> str:
        for key in sorted(all_keys(said)):
            if key in self._target_of_key:
                return f"is the target class {self._target_of_key[key]!r}"
        return f"is no name: more than {LONGEST_NAME} words" if len(said.split()) > LONGEST_NAME else ""

    def _reject_what_became_a_target(self) -> None:
        """Categories that an earlier run found and that the class list has now."""
        with self._catalog.transaction() as sql:
            for row in sql.execute("SELECT id, title FROM category WHERE state = 'kept'").fetchall():
                why_not = self._why_not(row["title"])
                if why_not:
                    set_states(sql, "category", [("rejected", why_not, row["id"])])

    def _named(self, target: sqlite3.Row) -> list[tuple[str, str]]:
        """(title, state) of the target's neighbors, in an order that stays."""
        query = (
            "SELECT title, state FROM neighbor JOIN category ON category.id = category WHERE target = ? ORDER BY title"
        )
        return [tuple(row) for row in self._sql(query, target["id"])]

    def _settings(self, wanted: int) -> str:
        asked = [self._endpoint.model, self._prompt.sections, self._options.rounds, wanted]
        return hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:16]

    def _progress(self, target: sqlite3.Row) -> _Progress:
        kept = self._catalog.setting(f"discover {target['name']}")
        return _Progress(**json.loads(kept)) if kept else _Progress("", 0, [])

    def _set_state(self, target: sqlite3.Row, state: str, reason: str, progress: _Progress | None = None) -> None:
        set_states(self._catalog.connection, "target", [(state, reason, target["id"])])
        if progress:
            self._catalog.remember(f"discover {target['name']}", json.dumps(vars(progress), ensure_ascii=False))

    def _sql(self, query: str, *values: object) -> sqlite3.Cursor:
        return self._catalog.connection.execute(query, values)

    def _summary(self) -> Discovered:
        wanting = [target for target in self._targets if self._options.wanted(target["count"])]
        neighbors = self._catalog.neighbors()
        empty = tuple(target["name"] for target in wanting if target["name"] not in neighbors)
        left = len(self._targets) - self._finished
        if left:
            raise ValueError(
                f"{self._llm.stopped or self._first_failure}. {left:,} of {len(self._targets):,} target classes are "
                f"not finished; what was found is in {self._catalog.path}, and the same command goes on from there."
            )
        if len(empty) == len(wanting):
            raise ValueError(
                f"no target class has any category after {self._llm.asked + self._llm.reused:,} answers: see "
                f"`fastlt status {self._catalog.path}` for the reasons, and try another model or prompt."
            )
        if empty:
            named = ", ".join(empty[:10]) + (", ..." if len(empty) > 10 else "")
            tqdm.write(
                f"fastlt: warning: {len(empty):,} of {len(wanting):,} target classes have NO category: {named}",
                file=sys.stderr,
            )
        return Discovered(self._llm.asked, self._llm.reused, self._llm.tokens, empty)
