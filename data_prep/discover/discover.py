"""Discovers auxiliary categories: a language model names what looks like each target class and is none of them."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from fastlt.data_prep.catalog import Catalog
from fastlt.data_prep.discover.answers import Categories
from fastlt.data_prep.discover.llm import EndpointError, Llm, UnansweredError, UnreadableError
from fastlt.data_prep.discover.names_in_use import NamesInUse, enter_targets
from fastlt.data_prep.discover.options import DiscoverOptions, EndpointOptions
from fastlt.data_prep.discover.progress import Progress, named, settings_of
from fastlt.data_prep.discover.prompt import Prompt
from fastlt.data_prep.inputs.class_lists import TargetClass
from fastlt.data_prep.names import clean_title, same_name_key
from fastlt.messages import listed


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
        return (
            f"{in_short(path, status)}\n"
            f"{self.asked:,} questions asked, {self.reused:,} answered from the catalog; {self.tokens:,} tokens in all"
        )


def in_short(path: Path, status: dict[str, Any]) -> str:
    """What a catalog has now, in a line; `status` is its own."""
    targets, categories = (
        {state: sum(reasons.values()) for state, reasons in status[table].items()} for table in ("target", "category")
    )
    short = f" ({targets['short']:,} short of what was wanted)" if "short" in targets else ""
    rejected = f" ({categories['rejected']:,} more rejected)" if "rejected" in categories else ""
    return (
        f"{path}: {sum(targets.values()):,} target classes{short}, {categories.get('kept', 0):,} auxiliary "
        f"categories{rejected}, {status['neighbor']:,} neighbor pairs"
    )


def discover(
    catalog: Catalog, classes: Sequence[TargetClass], endpoint: EndpointOptions, options: DiscoverOptions | None = None
) -> Discovered:
    """Writes categories and neighbor pairs for the classes into the catalog, and goes on where a killed run was.

    A class is asked about until it has as many categories as wanted, a round brings no new name, or the rounds are
    used up; in the last two cases its state is `short`, and it is left in peace until model, prompt or options change.
    A class whose answers cannot be read is `short` too, and is asked about again by the next run.

    Args:
        catalog: an open catalog, locked while this runs.
        classes: all target classes; those that the catalog does not know are added.
        endpoint: whom to ask.
        options: for how much.

    Raises:
        ValueError: a broken prompt, classes that the catalog has and the list lacks; or, with everything found so far
            in the catalog, an endpoint that fails, a spending limit, or no category for any class.
    """
    options = options or DiscoverOptions()
    prompt = Prompt.read(options.prompt)
    with catalog.lock("discover"):
        enter_targets(catalog, classes)
        return asyncio.run(_Discovery(catalog, endpoint, options, prompt).run())


class _Discovery:
    def __init__(self, catalog: Catalog, endpoint: EndpointOptions, options: DiscoverOptions, prompt: Prompt) -> None:
        self._catalog = catalog
        self._endpoint = endpoint
        self._options = options
        self._prompt = prompt
        self._llm = Llm(catalog, endpoint)
        self._finished = 0
        self._first_failure = ""
        self._names = NamesInUse(catalog)
        self._targets = self._names.targets
        self._all_titles = ", ".join(target["title"] for target in self._targets)

    async def run(self) -> Discovered:
        self._names.reject_what_became_a_target()
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
        settings = settings_of(self._endpoint.model, self._prompt, self._options.rounds, wanted)
        progress = Progress.of(self._catalog, target)
        names = named(self._catalog, target)
        kept = sum(state == "kept" for _, state in names)
        if progress.settles(target, settings, kept, wanted):
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
                names = named(self._catalog, target)
                kept = sum(state == "kept" for _, state in names)
                if len(names) + len(progress.refused) == len(known):
                    return self._set_state(target, "short", "a round brought nothing new", progress)
                self._set_state(target, "open", "", progress)
        self._set_state(target, "done", "", progress)

    def _take(self, target: sqlite3.Row, titles: list[str], lacking: int, known: list[str], progress: Progress) -> None:
        """Takes up to `lacking` of the titles for neighbors; the others that are no categories become `refused`."""
        seen = {same_name_key(title) for title in known}
        for said in titles:
            title = clean_title(said)[:100]
            key = same_name_key(title)
            if not key or key in seen or lacking == 0:
                continue
            seen.add(key)
            category = self._names.category(key, title, self._names.why_not(said))
            if self._catalog.category(category)["state"] == "kept":
                self._catalog.add_neighbor(target["id"], category)
                lacking -= 1
            else:
                progress.refused.append(title)

    def _set_state(self, target: sqlite3.Row, state: str, reason: str, progress: Progress | None = None) -> None:
        self._catalog.set_target_state(target["id"], state, reason)
        if progress:
            progress.keep(self._catalog, target)

    def _summary(self) -> Discovered:
        wanting = [target for target in self._targets if self._options.wanted(target["count"])]
        neighbors = self._catalog.neighbors()
        empty = tuple(target["name"] for target in wanting if target["name"] not in neighbors)
        unusable = self._llm.unusable_told
        also = f" {unusable}." if unusable else ""
        left = len(self._targets) - self._finished
        if left:
            raise ValueError(
                f"{self._llm.stopped or self._first_failure}. {left:,} of {len(self._targets):,} target classes are "
                f"not finished; what was found is in {self._catalog.path}, and the same command continues from there."
                f"{also}"
            )
        if len(empty) == len(wanting):
            raise ValueError(
                f"no target class has any category after {self._llm.asked + self._llm.reused:,} answers: see "
                f"`fastlt status {self._catalog.path}` for the reasons, and try another model or prompt.{also}"
            )
        if unusable:
            tqdm.write(f"fastlt: warning: {unusable}", file=sys.stderr)
        if empty:
            tqdm.write(
                f"fastlt: warning: {len(empty):,} of {len(wanting):,} target classes have NO category: {listed(empty)}",
                file=sys.stderr,
            )
        return Discovered(self._llm.asked, self._llm.reused, self._llm.tokens, empty)
