"""Siblings of target classes in a taxonomy: of the same rank, first in the genus, then in the family.

Siblings are active taxa that are no target, nor above or below one, by whatever name, and that alone have their name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from fastlt.data_prep.discover.taxonomy.form import Taxonomy
from fastlt.data_prep.discover.taxonomy.tree import Tree
from fastlt.data_prep.dumps.database import Database
from fastlt.data_prep.dumps.meanings import settle_meanings
from fastlt.data_prep.dumps.names import ANY_NUMBER_OF_NAMES
from fastlt.messages import listed

_WITHIN = {  # where siblings of a rank are looked for: the two ranks above it that most taxa have
    **dict.fromkeys(("subspecies", "variety", "form"), ("species", "genus")),
    "genus": ("family", "order"),
    "family": ("order", "class"),
    "order": ("class", "phylum"),
    "class": ("phylum", "kingdom"),
    "phylum": ("kingdom", "kingdom"),
}
_OF_OTHERS = ("genus", "family")
_UNRANKED = ("group", "group above")  # of a taxonomy without ranks
_MORE = 32  # siblings that are looked at beyond those wanted: some may be rejected categories


class Sibling(NamedTuple):
    """A sibling.

    Attributes:
        taxon: its id as people know it.
        name: of it.
        within: what it has in common with the target: "genus", "family".
        photos: how many there are of it, None where that is unknown.
        category: the category that means it already, or None.
    """

    taxon: str
    name: str
    within: str
    photos: int | None
    category: int | None


class _Group(NamedTuple):
    """Candidates of one rank by what they belong to, and there the best first: `places`, (K,), and `of`, (K,)."""

    places: np.ndarray
    of: np.ndarray

    def within(self, group: int) -> np.ndarray:
        start, end = np.searchsorted(self.of, [group, group + 1])
        return self.places[start:end]


class Siblings:
    """What a taxonomy says of target classes and of other categories.

    Args:
        database: with the tables of `taxonomy` and `named`.
        taxonomy: as it was read.
        num_targets: the categories of `named` below this number are target classes, the others auxiliary ones.
        min_photos: of a sibling, where photos are counted.

    Attributes:
        known: numbers of targets and categories of whose names the taxonomy has one.
        same_as_target: {number of a category: number of a target of the same taxon}.
        lines: what else there is to say.
    """

    def __init__(self, database: Database, taxonomy: Taxonomy, num_targets: int, min_photos: int) -> None:
        self._database, self._taxonomy, self._num_targets = database, taxonomy, num_targets
        database.run(
            "CREATE TABLE ranks AS SELECT rank, row_number() OVER (ORDER BY rank) - 1 AS code"
            " FROM (SELECT DISTINCT rank FROM taxon)"
        )
        self._ranks = [rank for (rank,) in database.run("SELECT rank FROM ranks ORDER BY code")]
        columns = database.arrays(
            "SELECT id, coalesce(parent, -1) AS parent, active, code, coalesce(photos, -1) AS photos,"
            " md5_number_lower(name) AS place FROM taxon JOIN ranks USING (rank) ORDER BY id"
        )
        self._ids, self._code, self._active = columns["id"], columns["code"], columns["active"].astype(bool)
        self._tree = Tree(self._ids, columns["parent"])
        self._photos = columns["photos"]
        if taxonomy.counted == "below":
            self._photos = self._tree.sums(np.maximum(self._photos, 0))
        self.lines: list[str] = []
        self._tell_of_the_tree()
        self.known, self._place = self._settle()
        targets = {place: number for number, place in sorted(self._place.items(), reverse=True) if number < num_targets}
        others = {number: place for number, place in sorted(self._place.items(), reverse=True) if number >= num_targets}
        self._target_places = np.array(sorted(targets), np.int64)
        self._categories = {place: number for number, place in others.items()}
        self.same_as_target = {number: targets[place] for number, place in others.items() if place in targets}
        self._tell_of_names()
        self._find_candidates(columns["place"], min_photos)

    def taxa(self) -> dict[int, tuple[str, str]]:
        """{number of a target: (id as people know it, name) of the taxon that it means}, where one is clear."""
        names = self._names(self._target_places)
        return {number: names[place] for number, place in self._place.items() if number < self._num_targets}

    def _names(self, places: np.ndarray) -> dict[int, tuple[str, str]]:
        """{place: (id as people know it, name)}."""
        wanted = pa.table({"id": self._ids[places], "place": places})
        found = self._database.run("SELECT place, shown, name FROM wanted JOIN taxon USING (id)", wanted=wanted)
        return {place: (shown, name) for place, shown, name in found}

    def _listed(self, places: np.ndarray) -> str:
        names = sorted(name for _, name in self._names(places[: 20 * ANY_NUMBER_OF_NAMES]).values())
        more = f" and {len(places) - ANY_NUMBER_OF_NAMES:,} more" if len(places) > ANY_NUMBER_OF_NAMES else ""
        return listed(names[:ANY_NUMBER_OF_NAMES]) + more

    def _tell_of_the_tree(self) -> None:
        num_active, unknown = np.count_nonzero(self._active), np.count_nonzero(self._active & (self._photos < 0))
        told = f"whose photos are counted, but of {unknown:,}" if unknown else "whose photos are counted"
        if not self._taxonomy.counted:
            told = "whose photos are not counted: siblings may have few or none"
        self.lines.append(f"{len(self._tree):,} taxa, of them {num_active:,} active ones, {told}")
        if len(ring := self._tree.ring):
            self.lines.append(
                f"{len(ring):,} taxa lie above themselves, and are taken to belong to nothing: {self._listed(ring)}"
            )
        if self._tree.orphans:
            self.lines.append(f"{self._tree.orphans:,} taxa belong to one that the file does not have")

    def _tell_of_names(self) -> None:
        inactive = self._target_places[~self._active[self._target_places]]
        if len(inactive):
            self.lines.append(
                f"{len(inactive):,} target classes are called by names that are inactive, and the file does not say "
                f"what took their place, so that no sibling with the same last word is taken: {self._listed(inactive)}"
            )

    def _settle(self) -> tuple[frozenset[int], dict[int, int]]:
        """Which numbers are known, and {number: place of the taxon that it means}."""
        database = self._database
        database.run(
            "CREATE TABLE called AS SELECT DISTINCT category, named.key, coalesce(accepted, id) AS id,"
            " active OR accepted IS NOT NULL AS active, accepted IS NULL AND active AS is_own"
            " FROM named JOIN taxon USING (key)"
        )
        # An accepted name comes before the same one as a synonym, and both before a common name.
        database.run("DELETE FROM called WHERE NOT is_own AND category IN (SELECT category FROM called WHERE is_own)")
        database.run(
            "INSERT INTO called SELECT DISTINCT also.category, '', coalesce(accepted, id), true, false"
            " FROM also JOIN taxon USING (id) WHERE category NOT IN (SELECT category FROM called)"
        )
        known = frozenset(number for (number,) in database.run("SELECT DISTINCT category FROM called"))
        ids = database.arrays("SELECT DISTINCT called.id FROM called JOIN taxon USING (id) ORDER BY 1")["id"]
        above = [self._ids[self._tree.above(place)] for place in np.searchsorted(self._ids, ids)]
        lines = pa.table({"id": ids, "above": pa.array(above, pa.list_(pa.int64()))})
        database.run(
            "CREATE TABLE meant AS SELECT called.* EXCLUDE is_own, name, shown, above"
            " FROM called JOIN taxon USING (id) JOIN lines USING (id)",
            lines=lines,
        )
        self.lines += settle_meanings(database, "another name of it in the class list says which")
        found = database.run("SELECT DISTINCT category, id FROM meant")
        places = np.searchsorted(self._ids, np.array([id for _, id in found], np.int64))
        return known, {number: int(place) for (number, _), place in zip(found, places, strict=True)}

    def _find_candidates(self, order: np.ndarray, min_photos: int) -> None:
        """Makes {code of a rank: [(rank they share, what each taxon has of it, candidates)]} for ranks of targets."""
        n, places = len(self._tree), self._target_places
        fits = self._active & ~self._are_targets()
        fits[self._tree.ring] = False
        have_few = (self._photos >= 0) & (self._photos < min_photos)
        doubles = self._marked(
            "SELECT id FROM taxon WHERE active AND (key, rank) IN"
            " (SELECT (key, rank) FROM taxon WHERE active GROUP BY key, rank HAVING count(*) > 1)"
        )
        self._groups: dict[int, list[tuple[str, np.ndarray, _Group]]] = {}
        few, twice = np.zeros(n, bool), np.zeros(n, bool)
        for code in np.unique(self._code[places]).tolist():
            self._groups[code] = []
            kinds = self._within(self._ranks[code])
            fits[self._may_be_inactive_targets(code, kinds[-1][1], fits)] = False
            for within, upper in kinds:
                has_target = np.zeros(n + 1, bool)
                has_target[upper[places[self._code[places] == code]]] = True
                has_target[n] = False
                may = fits & (self._code == code) & has_target[upper]
                few |= may & have_few
                twice |= may & doubles & ~have_few
                best = np.flatnonzero(may & ~have_few & ~doubles)
                best = best[np.lexsort((order[best], -self._photos[best], upper[best]))]
                self._groups[code].append((within, upper, _Group(best, upper[best])))
        if few.any():
            number = np.count_nonzero(few)
            self.lines.append(f"left out: {number:,} siblings with fewer than {min_photos:,} photos")
        if twice.any():
            number, names = np.count_nonzero(twice), self._listed(np.flatnonzero(twice))
            self.lines.append(f"left out: {number:,} siblings with a name that another taxon has too: {names}")

    def _may_be_inactive_targets(self, code: int, upper: np.ndarray, fits: np.ndarray) -> list[int]:
        """Places of what may have taken the place of an inactive target, perhaps in another genus of the family.

        Args:
            code: of a rank.
            upper: (N,) places of the family of each taxon.
            fits: (N,) what may be a sibling.
        """
        inactive = self._target_places[~self._active[self._target_places] & (self._code[self._target_places] == code)]
        gone = {(upper[at], _last_word(name)) for at, (_, name) in self._names(inactive).items()}
        has_one = np.zeros(len(self._tree) + 1, bool)
        has_one[upper[inactive]] = True
        has_one[-1] = False
        others = self._names(np.flatnonzero(fits & (self._code == code) & has_one[upper]))
        return [at for at, (_, name) in others.items() if (upper[at], _last_word(name)) in gone]

    def _within(self, rank: str) -> list[tuple[str, np.ndarray]]:
        """What siblings of a rank share, the nearest first, and (N,) the place of it for each taxon."""
        if not self._taxonomy.ranked:
            up = self._tree.up[:-1]
            return list(zip(_UNRANKED, (up, self._tree.up[up]), strict=True))
        found = []
        for within in _WITHIN.get(rank, _OF_OTHERS):
            is_it = np.isin(self._code, [code for code, rank in enumerate(self._ranks) if rank == within])
            found.append((within, self._tree.nearest(is_it)))
        return found

    def _are_targets(self) -> np.ndarray:
        """(N,) whether taxa are targets, lie above or below one, or are called like one."""
        found = np.zeros(len(self._tree), bool)
        found[self._target_places] = True
        found |= self._tree.nearest(found) < len(self._tree)
        for place in self._target_places.tolist():
            found[self._tree.above(place)] = True
        is_named = f"SELECT id, accepted FROM named JOIN taxon USING (key) WHERE category < {self._num_targets}"
        return found | self._marked(f"SELECT id FROM ({is_named}) UNION ALL SELECT accepted AS id FROM ({is_named})")

    def _marked(self, query: str) -> np.ndarray:
        """(N,) whether a query gives the id of a taxon."""
        found = np.zeros(len(self._tree), bool)
        ids = self._database.arrays(f"SELECT DISTINCT id FROM ({query}) JOIN taxon USING (id)")["id"]
        found[np.searchsorted(self._ids, ids)] = True
        return found

    def of(self, wanted: Mapping[int, int]) -> dict[int, list[Sibling]]:
        """The siblings of targets, the best first: more than are wanted, as some may be of no use.

        Among those of one genus, the ones with most photos come first; where photos are not counted, an order that the
        names alone decide.

        Args:
            wanted: {number of a target: how many}.
        """
        places = {number: self._places_of(number, most) for number, most in wanted.items() if number in self._place}
        every = np.array(sorted({place for found in places.values() for place, _ in found}), np.int64)
        names = self._names(every)
        return {
            number: [Sibling(*names[at], within, self._counted(at), self._categories.get(at)) for at, within in found]
            for number, found in places.items()
        }

    def _counted(self, place: int) -> int | None:
        return None if self._photos[place] < 0 else int(self._photos[place])

    def _places_of(self, number: int, most: int) -> list[tuple[int, str]]:
        place = self._place[number]
        found: dict[int, str] = {}
        for within, upper, group in self._groups[int(self._code[place])]:
            if upper[place] < len(self._tree):
                for other in group.within(int(upper[place]))[: most + _MORE + len(found)].tolist():
                    found.setdefault(other, within)
        return list(found.items())


def _last_word(name: str) -> str:
    """A name's last word without its ending, which follows the genus: concolor, canina and caninus are canin."""
    return re.sub(r"(?:us|um|a|is|e|er)$", "", name.split()[-1].casefold())
