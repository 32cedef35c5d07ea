"""What becomes of a name: it is a target class, a category that is there, or a new one."""

from __future__ import annotations

import json
from collections.abc import Sequence

from fastlt.data_prep.catalog import Catalog
from fastlt.data_prep.discover.answers import MAX_WORDS
from fastlt.data_prep.inputs.class_lists import TargetClass
from fastlt.data_prep.names import all_keys, normalized, plain_names, same_name_key


def enter_targets(catalog: Catalog, classes: Sequence[TargetClass]) -> None:
    """Adds the classes that the catalog does not know.

    Raises:
        ValueError: it has one that the list lacks.
    """
    names = {target.name for target in classes}
    with catalog.transaction():
        unknown = [target["name"] for target in catalog.targets() if target["name"] not in names]
        if unknown:
            raise ValueError(
                f"{catalog.path} has target class {unknown[0]!r}, which the class list lacks: "
                "give the whole list, or use another catalog for other classes."
            )
        catalog.enter_targets((t.name, t.title, json.dumps(t.synonyms, ensure_ascii=False), t.count) for t in classes)


class NamesInUse:
    """The target classes of a catalog and its categories, by their names.

    Attributes:
        targets: rows of the target classes.
        of_targets: their titles, names and synonyms.
    """

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self.targets = catalog.targets()
        self._target_of_key: dict[str, str] = {}
        plain = plain_names([target["name"] for target in self.targets])
        self.of_targets = [
            dict.fromkeys((target["title"], target["name"], name, *json.loads(target["synonyms"])))
            for target, name in zip(self.targets, plain, strict=True)
        ]
        for target, names in zip(self.targets, self.of_targets, strict=True):
            for key in (key for name in names for key in all_keys(name)):
                self._target_of_key.setdefault(key, target["title"])
        self._category_of_key: dict[str, int] = {}
        for row in catalog.categories():
            for name in (row["title"], row["name"]):
                self._category_of_key.setdefault(same_name_key(name), row["id"])

    def category(self, key: str, title: str, why_not: str) -> int:
        """The category of that name, made if there is none; a rejected one stays so, by whomever it was rejected."""
        if key not in self._category_of_key:
            category = self._catalog.add_category(normalized(title), title)
            self._category_of_key[key] = category
            if why_not:
                self._catalog.reject_category(category, why_not)
        return self._category_of_key[key]

    def owner(self, key: str) -> int | None:
        """The category of that name, kept or rejected."""
        return self._category_of_key.get(key)

    def why_not(self, said: str) -> str:
        """Why what was said cannot be a category, or ""."""
        for key in sorted(all_keys(said)):
            if key in self._target_of_key:
                return f"is the target class {self._target_of_key[key]!r}"
        return f"is not a name: more than {MAX_WORDS} words" if len(said.split()) > MAX_WORDS else ""

    def reject_what_became_a_target(self) -> None:
        """Categories that an earlier run found and that the class list has now."""
        with self._catalog.transaction():
            for row in self._catalog.categories(kept=True):
                why_not = self.why_not(row["title"])
                if why_not:
                    self._catalog.reject_category(row["id"], why_not)
