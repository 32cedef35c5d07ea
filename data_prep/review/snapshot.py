"""What is known of all images, as columns in memory: a million are counted, sorted and paged in milliseconds.

N is the number of images that were in use when the columns were read. What a page shows of an image is read anew.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

import numpy as np

from fastlt.data_prep.catalog import Catalog
from fastlt.data_prep.verdicts import JUDGED, KEPT, LIKE_ANOTHER, TOO_FAR, TOO_NEAR, by_thresholds, is_banned

MILLION = 1_000_000
"""Similarities are kept as whole millionths, as filter rounds them."""
STEP = 2_000
"""Millionths between two places of a slider."""
NONE = -(2**31)
"""The similarity of an image that has none."""
_HANDS = {"keep": 1, "drop": 2}


@dataclass(frozen=True)
class Asked:
    """Which images, and in which order.

    Attributes:
        show: "all", "taken", "left" (out), "hand" (decided by people), or a reason.
        category: id of the images' category; 0 for any.
        order: "id", "near" (most alike first) or "far".
        after: the last image of the page before, as (similarity in millionths, id).
    """

    show: str = "all"
    category: int = 0
    order: str = "id"
    after: tuple[int, int] | None = None


class Snapshot:
    """The columns.

    Attributes:
        ids, categories, nearest: int64, int32 and int32 [N]; 0 is nearest to none.
        similarity: int32 [N], see `MILLION`.
        reasons: of `reason`, with "kept" for "" of those that filter has seen, and "not filtered" for others.
        reason: position in `reasons`, int32 [N].
        hand: 1 where a person keeps the image, 2 where one drops it, uint8 [N].
    """

    def __init__(self, catalog: Catalog) -> None:
        codes: defaultdict[tuple[str, str], int] = defaultdict(count().__next__)
        try:
            parts = [_columns(part, codes) for part in catalog.image_columns()]
        except (TypeError, ValueError, OverflowError):
            parts = None
        if parts is None or not all(isinstance(text, str) for pair in codes for text in pair):
            raise ValueError(
                f"{catalog.path} cannot be used as a catalog: some of its images say what no fastlt writes."
            )
        kinds = (np.int64, np.int32, np.int32, np.int32, np.int32)
        columns: list[np.ndarray] = [np.concatenate(part) for part in zip(*parts, strict=True)]
        columns = columns or [np.empty(0, kind) for kind in kinds]
        gone = catalog.images_not_in_use()
        if gone:
            used = ~np.isin(columns[0], gone)
            columns = [column[used] for column in columns]
        self.ids, self.categories, self.nearest, self.similarity, code = columns
        named = {pair: pair[1] or (KEPT if pair[0] == KEPT else "not filtered") for pair in codes}
        self.reasons = list(dict.fromkeys(named.values()))
        self.reason = np.array([self.reasons.index(named[pair]) for pair in codes], np.int32)[code]
        self.hand = np.zeros(len(self.ids), np.uint8)
        for image, verdict in catalog.images_by_hand().items():
            self.set_hand(image, verdict)
        self._by_category = np.argsort(self.categories, kind="stable").astype(np.int32)
        ordered = self.categories[self._by_category]
        is_first = np.diff(ordered, prepend=ordered[:1] - 1) != 0
        self._filled, self._category = ordered[is_first], np.empty(len(ordered), np.int32)  # categories, and position
        self._category[self._by_category] = np.cumsum(is_first) - 1
        self._by_similarity = np.lexsort((self.ids, self.similarity)).astype(np.int32)

    def set_hand(self, image: int, verdict: str) -> None:
        """What a person decided about an image, "" for nothing."""
        at = int(np.searchsorted(self.ids, image))
        if at < len(self.ids) and self.ids[at] == image:
            self.hand[at] = _HANDS.get(verdict, 0)

    def taken(self, rejected: set[int]) -> np.ndarray:
        """Which images encode takes, bool [N], when these categories are rejected."""
        kept = np.array([reason == KEPT for reason in self.reasons], bool)[self.reason]
        return self._with_hands(kept) & self._in_kept_category(rejected)

    def _with_hands(self, kept: np.ndarray) -> np.ndarray:
        banned = np.array([is_banned(reason) for reason in self.reasons], bool)[self.reason]
        return np.where(self.hand == 0, kept, (self.hand == 1) & ~banned)

    def _in_kept_category(self, rejected: set[int]) -> np.ndarray:
        return ~np.isin(self.categories, list(rejected)) if rejected else np.ones(len(self.ids), bool)

    def counts(self, rejected: set[int]) -> dict[str, int]:
        """Images by reason, and how many are taken, left out and decided by people."""
        by_reason = np.bincount(self.reason, minlength=len(self.reasons)).tolist()
        taken = int(self.taken(rejected).sum())
        found = {"all": len(self.ids), "taken": taken, "left": len(self.ids) - taken}
        return found | {"hand": int((self.hand > 0).sum())} | dict(zip(self.reasons, by_reason, strict=True))

    def page(self, asked: Asked, number: int, rejected: set[int]) -> list[tuple[int, int]]:
        """The next images as (similarity, id), `number` at most."""
        if asked.order == "id":
            places = np.arange(len(self.ids))
            if asked.after:
                places = places[np.searchsorted(self.ids, asked.after[1], "right") :]
        else:
            places = self._after(asked)
        places = places[self._asked_for(asked, rejected)[places]][:number]
        return list(zip(self.similarity[places].tolist(), self.ids[places].tolist(), strict=True))

    def _asked_for(self, asked: Asked, rejected: set[int]) -> np.ndarray:
        wanted = np.ones(len(self.ids), bool)
        if asked.show in ("taken", "left"):
            wanted &= self.taken(rejected) == (asked.show == "taken")
        elif asked.show == "hand":
            wanted &= self.hand > 0
        elif asked.show != "all":
            wanted &= self.reason == (self.reasons.index(asked.show) if asked.show in self.reasons else -1)
        if asked.category:
            wanted &= self.categories == asked.category
        return wanted

    def _after(self, asked: Asked) -> np.ndarray:
        """The places by similarity, behind the last page; that image may be gone."""
        order, begin, end = self._by_similarity, 0, len(self.ids)
        if asked.after:
            sorted_values = self.similarity[order]
            similarity, image = asked.after
            low = int(np.searchsorted(sorted_values, similarity, "left"))
            alike = self.ids[order[low : int(np.searchsorted(sorted_values, similarity, "right"))]]
            at = low + int(np.searchsorted(alike, image, "right" if asked.order == "far" else "left"))
            begin, end = (at, end) if asked.order == "far" else (0, at)
        return order[begin:end] if asked.order == "far" else order[begin:end][::-1]

    def histogram(self, rejected: set[int]) -> dict[str, object]:
        """What sliders count by, without asking again.

        Of a threshold at place t (t * STEP millionths), images on it and those up to the next have bins of their own,
        2 t and 2 t + 1, so that counts are exact. `plain` has those that similarity alone judges, `like_another` those
        whose label filter doubts; others are `kept` or dropped wherever the thresholds are. `now` counts by the
        thresholds that were used, which may lie between two places.
        """
        free = self._free()
        usable = free & self._in_kept_category(rejected)
        like = self.reason == (self.reasons.index(LIKE_ANOTHER) if LIKE_ANOTHER in self.reasons else -1)
        place, rest = np.divmod(self.similarity, STEP)
        bins = 2 * place + (rest > 0)
        low = int(bins[usable].min()) if usable.any() else 0
        parts = {
            name: np.bincount(bins[usable & mask] - low).tolist()
            for name, mask in (("plain", ~like), ("like_another", like))
        }
        always = self._with_hands(np.zeros(len(self.ids), bool)) & self._in_kept_category(rejected)
        by_reason = dict(zip(self.reasons, np.bincount(self.reason[usable], minlength=len(self.reasons)), strict=True))
        names = {"kept": KEPT, "like": LIKE_ANOTHER, "far": TOO_FAR, "near": TOO_NEAR}
        parts["now"] = {name: int(by_reason.get(reason, 0)) for name, reason in names.items()}
        return parts | {"low": low, "step": STEP / MILLION, "kept": int(always.sum()), "all": len(self.ids)}

    def _free(self) -> np.ndarray:
        """Images that thresholds decide about, and no person."""
        judged = np.array([reason == KEPT or reason in JUDGED for reason in self.reasons], bool)[self.reason]
        return judged & (self.similarity != NONE) & (self.hand == 0)

    def judged_by(self, gamma1: float | None, gamma2: float) -> list[tuple[str, str, float, int | None, int]]:
        """What other thresholds change, as `Catalog.judge_images` takes it.

        Args:
            gamma1: None leaves what looks like another category as it was found.
            gamma2: as the filter's.
        """
        reasons = np.array(self.reasons, object)
        judged = np.array([reason == KEPT or reason in JUDGED for reason in self.reasons], bool)[self.reason]
        places = np.flatnonzero(judged & (self.similarity != NONE))
        before = reasons[self.reason[places]]
        unlike = before == LIKE_ANOTHER if gamma1 is None else None
        values = self.similarity[places] / MILLION
        after = by_thresholds(values, gamma1 or 0.0, gamma2, unlike)
        if unlike is not None:
            after[unlike] = LIKE_ANOTHER  # or that would be forgotten
        changed = np.flatnonzero(np.where(after == "", KEPT, after) != before).tolist()
        return [
            (
                "dropped" if after[at] else KEPT,
                after[at],
                float(values[at]),
                int(self.nearest[places[at]]) or None,
                int(self.ids[places[at]]),
            )
            for at in changed
        ]

    def set_reasons(self, rows: list[tuple[str, str, float, int | None, int]]) -> None:
        """Takes over what `judged_by` has found."""
        reasons = [reason or KEPT for _, reason, *_ in rows]
        self.reasons += [reason for reason in dict.fromkeys(reasons) if reason not in self.reasons]
        places = np.searchsorted(self.ids, np.array([image for *_, image in rows], np.int64))
        self.reason[places] = [self.reasons.index(reason) for reason in reasons]

    def by_category(self, rejected: set[int]) -> dict[int, tuple[int, int, float]]:
        """{category: (images, taken ones, mean similarity or NaN)}."""
        most, of, known = len(self._filled), self._category, self.similarity != NONE
        images = np.bincount(of, minlength=most)
        taken = np.bincount(of[self.taken(rejected)], minlength=most)
        sums = np.bincount(of[known], self.similarity[known] / MILLION, most)
        with np.errstate(invalid="ignore", divide="ignore"):
            means = sums / np.bincount(of[known], minlength=most)
        columns = (images.tolist(), taken.tolist(), means.tolist())
        return dict(zip(self._filled.tolist(), zip(*columns, strict=True), strict=True))

    def samples(self, categories: list[int], number: int, rejected: set[int]) -> dict[int, list[int]]:
        """A few images of each category, from the most to the least alike: taken ones, if there are any."""
        taken, found = self.taken(rejected), {}
        ordered = self.categories[self._by_category]
        for category in categories:
            places = self._by_category[slice(*np.searchsorted(ordered, [category, category + 1]))]
            places = places[taken[places]] if taken[places].any() else places
            places = places[np.argsort(-self.similarity[places], kind="stable")]
            few = np.linspace(0, len(places) - 1, min(number, len(places))).round().astype(int)
            found[category] = self.ids[places[few]].tolist()
        return found


def _columns(part: tuple[tuple[Any, ...], ...], codes: defaultdict[tuple[str, str], int]) -> tuple[np.ndarray, ...]:
    """Some rows of `Catalog.image_columns` as arrays."""
    ids, categories, states, reasons, similarities, nearest = part
    values = np.array(similarities, np.float64)  # NaN for None
    return (
        np.array(ids, np.int64),
        np.array(categories, np.int32),
        np.nan_to_num(np.array(nearest, np.float64)).astype(np.int32),
        np.where(np.isnan(values), NONE, np.rint(np.nan_to_num(values) * MILLION)).astype(np.int32),
        np.array([*map(codes.__getitem__, zip(states, reasons, strict=True))], np.int32),
    )


def asked_of(words: dict[str, str]) -> Asked:
    """What a page asks for.

    Raises:
        ValueError: numbers that are none.
    """
    asked = Asked(words.get("show", "all"), int(words.get("category") or 0))
    if words.get("order") in ("near", "far"):
        asked = replace(asked, order=words["order"])
    if words.get("after"):
        similarity, _, image = words["after"].partition(",")
        asked = replace(asked, after=(int(similarity), int(image)))
    return asked


def reasons_of(rows: list[tuple[str, str, float, int | None, int]]) -> Counter[str]:
    """How many images got which reason."""
    return Counter(reason or KEPT for _, reason, *_ in rows)
