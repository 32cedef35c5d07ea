"""`fastlt discover --taxonomy`: neighbors from taxonomies, and which categories none of them knows."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastlt.atomic import write_text
from fastlt.data_prep.catalog import Catalog
from fastlt.data_prep.discover.names_in_use import NamesInUse, enter_targets
from fastlt.data_prep.discover.options import DiscoverOptions, TaxonomyOptions
from fastlt.data_prep.discover.taxonomy.files import read
from fastlt.data_prep.discover.taxonomy.form import Taxonomy
from fastlt.data_prep.discover.taxonomy.siblings import Sibling, Siblings
from fastlt.data_prep.dumps.database import Database
from fastlt.data_prep.dumps.folder import folder_of
from fastlt.data_prep.dumps.names import ANY_NUMBER_OF_NAMES, enter_all_names
from fastlt.data_prep.inputs.class_lists import TargetClass
from fastlt.data_prep.names import clean_title, same_name_key
from fastlt.messages import listed, one_line

_SHORT = "the taxonomy"
"""How the reasons begin for which a taxonomy leaves a target short."""
_NOT_THERE = f"{_SHORT} has no such name"
_UNCLEAR = f"{_SHORT} has several taxa of that name"
_NO_MORE = f"{_SHORT} has no more siblings that may be taken"


@dataclass(frozen=True)
class Added:
    """What taxonomies gave.

    Attributes:
        lines: what was read, found and left out.
        marks: which categories are marked.
        empty: target classes that want categories and have none.
        wanting: how many target classes want any.
    """

    lines: list[str]
    marks: list[str]
    empty: tuple[str, ...]
    wanting: int


def add_siblings(
    catalog: Catalog, classes: Sequence[TargetClass], asked: TaxonomyOptions, options: DiscoverOptions
) -> Added:
    """Gives target classes siblings for neighbors until they have as many as wanted, and marks unknown categories.

    What a target has already counts, whoever named it. Nothing is taken away, and what is there is not added again. A
    category that means a taxon already is taken instead of a new one of that name.

    Args:
        catalog: an open catalog, locked while this runs.
        classes: all target classes; those that the catalog does not know are added.
        asked: which taxonomies, one after the other.
        options: how many are wanted.

    Raises:
        ValueError: classes that the catalog has and the list lacks; a file is no taxonomy, or is damaged: it gave
            nothing, and those before it gave what they have.
    """
    with catalog.lock("discover"):
        enter_targets(catalog, classes)
        run = _Run(catalog, asked, options)
        for file in asked.taxonomy:
            run.look_into(file)
        return run.end()


class _Run:
    def __init__(self, catalog: Catalog, asked: TaxonomyOptions, options: DiscoverOptions) -> None:
        self._catalog, self._asked, self._options = catalog, asked, options
        self._names = NamesInUse(catalog)
        self._names.reject_what_became_a_target()
        self._known: set[int] = set()  # categories
        self._same: dict[int, str] = {}  # {category: the target that it is}
        self._why: dict[str, str] = {}  # {target: why it has no more}
        self._read: list[str] = []
        self._lines: list[str] = []

    def look_into(self, file: Path) -> None:
        """Adds the siblings that one taxonomy has."""
        file = file.expanduser()
        setting = f"taxonomy {file.absolute()}"
        targets, categories = self._names.targets, self._catalog.categories()
        first = len(targets)
        called = {number: list(names) for number, names in enumerate(self._names.of_targets)}
        called |= {first + at: [row["title"], row["name"]] for at, row in enumerate(categories)}
        lacking = {number: self._lacking(target) for number, target in enumerate(targets)}
        with Database(folder_of(self._catalog.path)) as database:
            enter_all_names(database, called)
            taxonomy = read(database, file, self._asked.photos_column)
            found = Siblings(database, taxonomy, first, self._asked.min_photos)
            siblings = found.of({number: lack for number, lack in lacking.items() if lack > 0})
            taxa = found.taxa()
        this = f"{one_line(file.absolute().name)} of {taxonomy.day}"
        self._read.append(this)
        self._known |= {row["id"] for at, row in enumerate(categories) if first + at in found.known}
        for category, number in found.same_as_target.items():
            said = f"means the target class {targets[number]['title']!r}, says {this}"
            self._same.setdefault(categories[category - first]["id"], said)
        shared: Counter[str] = Counter()
        pairs: list[tuple[int, int]] = []
        with self._catalog.transaction():
            for number, target in enumerate(targets):
                of_target = [
                    sibling._replace(category=sibling.category and categories[sibling.category - first]["id"])
                    for sibling in siblings.get(number, ())
                ]
                taken = self._take(target, of_target, lacking[number])
                shared.update(sibling.within for sibling in taken)
                pairs += [(target["id"], sibling.category) for sibling in taken if sibling.category is not None]
                if taken:
                    self._remember(target, taxa[number], taken, file, taxonomy.day)
                is_known, is_clear = number in found.known, number in taxa
                why = _NO_MORE if is_clear else _UNCLEAR if is_known else _NOT_THERE
                if self._why.get(target["name"], _NOT_THERE) != _NO_MORE:
                    self._why[target["name"]] = why
            self._catalog.add_neighbors(pairs)
            before = self._catalog.json_setting(setting).get("neighbor pairs")
            number = shared.total() + (before if isinstance(before, int) else 0)
            about = {"what": taxonomy.what, "day": taxonomy.day, "neighbor pairs": number}
            self._catalog.remember(setting, json.dumps(about))
        self._tell(file, taxonomy, [*taxonomy.lines, *found.lines], shared)
        unknown = [target["title"] for number, target in enumerate(targets) if number not in found.known]
        if unknown:
            self._lines.append(
                f"{len(unknown):,} of {first:,} target classes are not in it: {listed(unknown, ANY_NUMBER_OF_NAMES)}"
            )

    def _tell(self, file: Path, taxonomy: Taxonomy, lines: list[str], shared: Counter[str]) -> None:
        self._lines += [f"{file}: {taxonomy.what}, of {taxonomy.day}", *lines]
        of = ", ".join(f"{number:,} of the same {within}" for within, number in shared.most_common())
        self._lines.append(f"{shared.total():,} neighbor pairs are new{f': {of}' * bool(of)}")

    def _lacking(self, target: sqlite3.Row) -> int:
        kept = sum(row["state"] == "kept" for row in self._catalog.neighbors_of(target["id"]))
        return self._options.wanted(target["count"]) - kept

    def _take(self, target: sqlite3.Row, siblings: Sequence[Sibling], lacking: int) -> list[Sibling]:
        """As many siblings as are lacking, with their categories, which are made where there are none."""
        have = {row["id"] for row in self._catalog.neighbors_of(target["id"])}
        taken = []
        for sibling in siblings:
            if lacking <= 0:
                break
            title = clean_title(sibling.name)[:100]
            key = same_name_key(title)
            if not key or self._names.why_not(title):
                continue
            category = sibling.category or self._names.category(key, title, "")
            self._known.add(category)
            if category not in have and self._catalog.category(category)["state"] == "kept":
                have.add(category)
                taken.append(sibling._replace(category=category))
                lacking -= 1
        return taken

    def _remember(
        self, target: sqlite3.Row, taxon: tuple[str, str], taken: Sequence[Sibling], file: Path, day: str
    ) -> None:
        """Where neighbors come from stands beside their target."""
        where = {"file": str(file.absolute()), "day": day, "of": taxon[0]}
        now = [{**sibling._asdict(), **where} for sibling in taken]
        about = json.dumps({"siblings": [*self._siblings_of(target), *now]}, ensure_ascii=False)
        self._catalog.remember(f"taxonomy of {target['name']}", about)

    def _siblings_of(self, target: sqlite3.Row) -> list[dict[str, Any]]:
        """What taxonomies gave a target so far."""
        found = self._catalog.json_setting(f"taxonomy of {target['name']}").get("siblings", [])
        if not isinstance(found, list) or not all(_is_told(sibling) for sibling in found):
            raise ValueError(
                f"{self._catalog.path} cannot be used as a catalog: where neighbors of {target['name']!r} come from is "
                "damaged."
            )
        return found

    def end(self) -> Added:
        """Marks categories, and says how far the target classes are."""
        marks = self._mark()
        neighbors, short = self._catalog.neighbors(), []
        wanting = [target for target in self._catalog.targets() if self._options.wanted(target["count"])]
        for target in self._catalog.targets():
            lacking = self._lacking(target) > 0
            if lacking:
                short.append(target["title"])
            self._set_state(target, lacking)
        empty = [target["name"] for target in wanting if target["name"] not in neighbors]
        if short:
            names = listed(short, ANY_NUMBER_OF_NAMES)
            self._lines.append(f"{len(short):,} target classes have fewer categories than wanted: {names}")
        return Added(self._lines, marks, tuple(empty), len(wanting))

    def _set_state(self, target: sqlite3.Row, is_short: bool) -> None:
        """Whom a language model was asked about, and who lacks categories still, stays as that has left it."""
        of_taxonomy = target["reason"].startswith(_SHORT) or not self._catalog.setting(f"discover {target['name']}")
        state, reason = ("short", self._why[target["name"]]) if is_short else ("done", "")
        if (of_taxonomy or not is_short) and (state, reason) != (target["state"], target["reason"]):
            self._catalog.set_target_state(target["id"], state, reason)

    def _mark(self) -> list[str]:
        """Marks kept categories that none of the taxonomies knows, and those that are a target by another name."""
        for target in self._catalog.targets():
            siblings = self._siblings_of(target)
            self._known |= {sibling["category"] for sibling in siblings}
        kept = self._catalog.categories(kept=True)
        unknown = [row for row in kept if row["id"] not in self._known]
        nowhere = f"its name is not in {' nor in '.join(self._read)}"
        self._catalog.mark_categories({row["id"]: nowhere for row in unknown} | self._same)
        lines = []
        if same := [row["title"] for row in kept if row["id"] in self._same]:
            names = listed(same, ANY_NUMBER_OF_NAMES)
            lines.append(f"{len(same):,} categories mean a target class, and are marked in the catalog: {names}")
        file = self._catalog.path.with_name(f"{self._catalog.path.stem}_not_in_taxonomy.txt")
        file.unlink(missing_ok=True)
        if unknown:
            write_text(file, "".join(f"{row['title']}\n" for row in unknown))
            names = listed([row["title"] for row in unknown], ANY_NUMBER_OF_NAMES)
            lines.append(
                f"{len(unknown):,} of {len(kept):,} categories have a name that no taxonomy here has; they stay, are "
                f"marked in the catalog, and are all in {file}: {names}"
            )
        return lines


def _is_told(sibling: object) -> bool:
    return isinstance(sibling, dict) and isinstance(sibling.get("category"), int)
