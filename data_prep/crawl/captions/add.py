"""`fastlt crawl --captions`: URLs whose captions name a category become its candidates, and what did not is counted."""

from __future__ import annotations

import hashlib
import json
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np

from fastlt.cores import available_cores
from fastlt.data_prep.catalog import Candidate, Catalog
from fastlt.data_prep.crawl.addresses import place_of
from fastlt.data_prep.crawl.captions.draw import Captioned, Draw
from fastlt.data_prep.crawl.captions.files import AskedOfCaptions, Captions, files_of, open_captions, readable
from fastlt.data_prep.crawl.captions.matcher import Found, TitleMatcher
from fastlt.licenses import normalize
from fastlt.messages import listed
from fastlt.options import OptionError

SOURCE = "captions"
_ANY = -np.inf


def add_captioned(catalog: Catalog, pattern: str, asked: AskedOfCaptions, per_category: int) -> list[str]:
    """Enters the best captioned URLs of each kept category, up to `per_category` candidates with those it has.

    The same files with the same categories are not read again. All of it is entered at once, or nothing.

    Args:
        catalog: with its categories.
        pattern: a file, a folder, or a pattern of files.
        asked: columns that people named.
        per_category: candidates sought for each category.

    Returns:
        What was read, taken and left out, in lines.

    Raises:
        ValueError: there are no such files, or one of them cannot be read as such.
    """
    files = files_of(pattern)
    synonyms = catalog.synonyms()
    names = {row["id"]: [row["title"], *synonyms.get(row["id"], [])] for row in catalog.categories(kept=True)}
    if not names:
        raise OptionError(f"{catalog.path} has no category that captions could name: run `fastlt discover` first.")
    others = catalog.names_of_targets()
    key, stamp = f"captions {Path(pattern).absolute()}", _stamp(files, asked, names, others, per_category)
    if catalog.setting(key) == stamp:
        return [f"{pattern}: not changed since its captions were read"]
    reading = _Reading(TitleMatcher(names, others), per_category)
    for file in files:
        reading.read(file, asked)
    with catalog.transaction():
        counts = reading.enter(catalog, per_category)
        catalog.remember(key, stamp)
    none = [title for at, (title, *_) in names.items() if at not in reading.named]
    lines = [f"{pattern}: {reading.rows:,} rows of {len(files):,} files; {listed(sorted(reading.columns), 3)}"]
    lines += [f"{counts.total():,} new URLs of {sum(n > 0 for n in counts.values()):,} categories"]
    lines += [f"left out: {number:,} {why}" for why, number in reading.left_out().items() if number]
    lines += [f"{reading.several:,} captions name several categories, of which the first counts"] * (
        reading.several > 0
    )
    if none:
        lines.append(f"no caption names {len(none):,} of {len(names):,} categories: {listed(none, 5)}")
    return lines


def searched(matcher: TitleMatcher, batches: Iterable[Captions]) -> Iterator[tuple[Captions, Found]]:
    """Batches in order, searched by all cores: neither Arrow nor the automaton holds Python's lock."""
    workers = available_cores()
    with ThreadPoolExecutor(workers) as threads:
        waiting: deque[tuple[Captions, Future[Found]]] = deque()
        for batch in batches:
            waiting.append((batch, threads.submit(matcher.find, batch.captions)))
            if len(waiting) > workers:  # a batch may be large
                oldest, found = waiting.popleft()
                yield oldest, found.result()
        for oldest, found in waiting:
            yield oldest, found.result()


def _stamp(
    files: list[Path], asked: AskedOfCaptions, names: dict[int, list[str]], others: list[str], per_category: int
) -> str:
    """Changes with whatever has a part in what is found."""
    stats = [(str(file.absolute()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    about = json.dumps([stats, asked, sorted(names.items()), sorted(others), per_category])
    return hashlib.sha256(about.encode()).hexdigest()


class _Reading:
    """Files of captions that are read, with what there is to say of them."""

    def __init__(self, matcher: TitleMatcher, per_category: int) -> None:
        self._matcher, self.draw = matcher, Draw(per_category)
        self.rows = self.several = 0
        self.columns: set[str] = set()
        self.named: set[int] = set()
        self._left_out: Counter[str] = Counter()

    def read(self, file: Path, asked: AskedOfCaptions) -> None:
        columns, batches = open_captions(file, asked)
        self.columns.add(str(columns))
        with readable(file):
            for batch, found in searched(self._matcher, batches):
                self._take(batch, found)

    def _take(self, batch: Captions, found: Found) -> None:
        self.rows += len(batch.captions) + batch.left_out.total()
        self._left_out += batch.left_out
        rows, categories, several = found
        self.several += several
        self._left_out["rows whose caption names no category"] += len(batch.captions) - len(rows)
        urls = batch.urls.take(rows).to_pylist()
        licenses = batch.licenses.take(rows).to_pylist() if batch.licenses is not None else [None] * len(rows)
        alike = batch.similarities[rows] if batch.similarities is not None else np.full(len(rows), _ANY)
        self.named.update(categories.tolist())
        alike = np.where(np.isnan(alike), _ANY, alike).tolist()
        for category, url, license, similarity in zip(categories.tolist(), urls, licenses, alike, strict=True):
            self.draw.offer(category, similarity, Captioned(url, license))

    def enter(self, catalog: Catalog, per_category: int) -> Counter[int]:
        """Makes the best candidates until each category has as many; returns {category: how many are new}."""
        have = before = catalog.candidates_by_category()
        drawn = {category: iter(found) for category, found in self.draw.drawn()}
        left = {category: self._candidates(category, found) for category, found in drawn.items()}
        while some := [
            candidate
            for category, candidates in left.items()
            for candidate in islice(candidates, max(0, per_category - have.get(category, 0)))
        ]:
            some.sort(key=lambda candidate: candidate.url)  # as they lie in the catalog's index of URLs
            added = catalog.add_candidates(some)
            self._left_out["URLs that the catalog has already"] += len(some) - added
            have = catalog.candidates_by_category()
        self.draw.over += sum(1 for found in drawn.values() for _ in found)
        return Counter({category: have.get(category, 0) - before.get(category, 0) for category in drawn})

    def _candidates(self, category: int, found: Iterator[Captioned]) -> Iterator[Candidate]:
        for captioned in found:
            if place := place_of(captioned.url):
                said = str(captioned.license) if captioned.license else None
                yield Candidate(category, *place, SOURCE, None, said and (normalize(said) or said))
            else:
                self._left_out["URLs that are none"] += 1

    def left_out(self) -> dict[str, int]:
        """Everything that was read and not taken, by the reason."""
        self._left_out["URLs that came before for the category"] = self.draw.repeated
        self._left_out["URLs above the number sought for a category"] = self.draw.over
        return dict(self._left_out)
