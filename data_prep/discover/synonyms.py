"""Other names of the categories, asked of the model once, by which `fastlt crawl --captions` knows them too."""

from __future__ import annotations

import asyncio
import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tqdm import tqdm

from fastlt.data_prep.catalog import Catalog
from fastlt.data_prep.discover.answers import MAX_WORDS, Categories
from fastlt.data_prep.discover.llm import EndpointError, Llm, UnansweredError, UnreadableError
from fastlt.data_prep.discover.names_in_use import NamesInUse
from fastlt.data_prep.discover.options import EndpointOptions
from fastlt.data_prep.discover.prompt import Message, Prompt
from fastlt.data_prep.names import clean_title, same_name_key

MOST = 6  # names of a category
_PROMPT = Path(__file__).with_name("synonyms.md")


def read_prompt() -> Prompt:
    """What is asked for a category."""
    return Prompt.read(_PROMPT, needed=("title", "number"))


def chat_about(prompt: Prompt, category: sqlite3.Row) -> list[Message]:
    """The chat about a category."""
    return prompt.messages(title=category["title"], number=MOST)


def add_synonyms(catalog: Catalog, endpoint: EndpointOptions) -> list[str]:
    """Writes the other names of each kept category that are of it alone; what was asked before is not asked again.

    Returns:
        What was asked, found and left out, in lines.

    Raises:
        ValueError: categories were not asked about, as the endpoint fails or the tokens are used up; what the others
            are called is in the catalog.
    """
    with catalog.lock("discover"):
        return asyncio.run(_Asking(catalog, endpoint).run())


class _Asking:
    def __init__(self, catalog: Catalog, endpoint: EndpointOptions) -> None:
        self._catalog, self._endpoint = catalog, endpoint
        self._prompt = read_prompt()
        self._llm = Llm(catalog, endpoint)
        self._categories = catalog.categories(kept=True)
        self._said: dict[int, list[str]] = {}
        self._failures: list[str] = []

    async def run(self) -> list[str]:
        left = iter(self._categories)
        try:
            with tqdm(total=len(self._categories), desc="synonyms", unit="category", disable=None) as bar:
                await asyncio.gather(*(self._work(left, bar) for _ in range(self._endpoint.concurrency)))
        finally:
            await self._llm.close()
        synonyms, left_out = _of_one_alone(NamesInUse(self._catalog), self._said)
        self._catalog.set_synonyms(synonyms)
        if missing := len(self._categories) - len(self._said):
            raise ValueError(
                f"{self._llm.stopped or self._failures[0]}. {missing:,} of {len(self._categories):,} categories were "
                f"not asked about; other names of the rest are in {self._catalog.path}, and the same command "
                "continues from there."
            )
        number, of = sum(map(len, synonyms.values())), sum(map(bool, synonyms.values()))
        lines = [
            f"{number:,} other names of {of:,} categories; {self._llm.asked:,} questions asked, {self._llm.reused:,} "
            f"answered from the catalog; {self._llm.tokens:,} tokens in all"
        ]
        lines += [f"left out: {number:,} other names {why}" for why, number in left_out.items()]
        return lines + [f"warning: {self._llm.unusable_told}"] * bool(self._llm.unusable_told)

    async def _work(self, left: Iterator[sqlite3.Row], bar: tqdm) -> None:
        for category in left:
            try:
                answer = await self._llm.ask(chat_about(self._prompt, category), Categories)
                self._said[category["id"]] = answer.categories
            except EndpointError:
                continue  # what is answered in the catalog counts all the same
            except UnansweredError as error:
                self._failures.append(f"category {category['title']!r} got no answer ({error})")
            except UnreadableError:  # which is counted, and asked again by the next run
                self._said[category["id"]] = []
            bar.update()


def _of_one_alone(names: NamesInUse, said: Mapping[int, Sequence[str]]) -> tuple[dict[int, list[str]], Counter[str]]:
    """({category: its other names}, how many are none, by reason): a name that two would have is left out of both."""
    left_out: Counter[str] = Counter()
    found: dict[int, dict[str, str]] = {}
    for category, titles in said.items():
        mine = found.setdefault(category, {})
        for said_title in titles:
            title = clean_title(said_title)[:100]
            key = same_name_key(title)
            owner = names.owner(key)
            if not key or owner == category or key in mine:
                continue
            if why_not := names.why_not(said_title):
                is_target = why_not.startswith("is the target class")
                left_out["that are target classes" if is_target else f"of more than {MAX_WORDS} words"] += 1
            elif owner is not None:
                left_out["that are other categories"] += 1
            elif len(mine) < MOST:
                mine[key] = title
    shared = {key for key, times in Counter(key for mine in found.values() for key in mine).items() if times > 1}
    if shared:
        left_out["of several categories"] = sum(key in shared for mine in found.values() for key in mine)
    return {at: [title for key, title in mine.items() if key not in shared] for at, mine in found.items()}, left_out
