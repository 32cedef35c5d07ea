"""What the page asks for and decides, answered from the catalog: plain values in, plain values out."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

from fastlt.data_prep.catalog import Catalog, Decision, held_catalog
from fastlt.data_prep.review.categories import ORDERS, Row, arranged, category_rows
from fastlt.data_prep.review.pictures import TargetPictures, repeated_by, thumbnail
from fastlt.data_prep.review.snapshot import Snapshot, asked_of, reasons_of
from fastlt.data_prep.verdicts import is_banned
from fastlt.dataset.images import BrokenImageError
from fastlt.messages import one_line

_PAGE, _CATEGORIES = 120, 40
_SAMPLES = 6
_LISTINGS = 8  # that pages may go on with
_MOST_AT_ONCE = 10_000
_LONGEST = 300  # characters of anything that is shown


class Desk:
    """A catalog on the table: columns of all images in memory, one connection that reads and one that writes.

    What a page shows is read anew each time; what it is sorted and counted by is as old as `fresh` says. Several
    threads may call at once.

    Args:
        path: of the catalog.
        targets: the pictures of the target classes.
    """

    def __init__(self, path: Path, targets: TargetPictures) -> None:
        self._path, self._targets = path, targets
        self._file = _identity(path)
        self._reader, self._writer = Catalog(path), Catalog(path)
        self._reading, self._writing, self._loading = threading.Lock(), threading.Lock(), threading.Lock()
        self._snapshot: Snapshot | None = None
        self._seen = -1
        self._rows: list[Row] | None = None
        self._listings: dict[int, list[tuple[int, tuple[int, str, str] | None]]] = {}
        self._numbers = count(1)

    def close(self) -> None:
        """Closes the catalog."""
        for catalog in (self._reader, self._writer):
            catalog.connection.close()

    def is_writing(self) -> bool:
        """Whether a decision is being written, or waits for others who write."""
        return self._writing.locked()

    def overview(self, fresh: bool = False) -> dict[str, Any]:
        """Counts, what sliders count by, thresholds and the last decision.

        Args:
            fresh: read the columns again if others have written since.
        """
        self._require_same_file()
        if fresh and self._is_changed():
            self._load(again=True)
        snapshot = self._columns()
        rejected = self._rejected()
        with self._reading:
            settings = self._reader.json_setting("filter")
        gamma1, gamma2 = (_number(settings.get(name)) for name in ("gamma1", "gamma2"))
        has_labels = settings.get("gamma1") == "auto"
        return {
            "catalog": one_line(self._path.name, _LONGEST),
            "counts": snapshot.counts(rejected),
            "histogram": snapshot.histogram(rejected),
            "gamma1": gamma1,
            "gamma2": gamma2,
            "labels": has_labels,
            "below": (_number(settings.get("labels_below")) or gamma2) if has_labels else None,
            "no_pictures": self._targets.why_not,
            **self._state(),
        }

    def images(self, words: dict[str, str]) -> dict[str, Any]:
        """The next images of those that are asked for, and where to go on."""
        found = self._columns().page(asked_of(words), _PAGE, self._rejected())
        with self._reading:
            rows = self._reader.images_shown(image for _, image in found)
        shown = [_shown_image(rows[image]) if image in rows else {"id": image, "gone": True} for _, image in found]
        after = ",".join(map(str, found[-1])) if len(found) == _PAGE else ""
        return {"images": shown, "after": after, **self._state()}

    def categories(self, words: dict[str, str]) -> dict[str, Any]:
        """Some categories from a place on, each with the target that it is shown beside, and pictures."""
        number, listing = self._listing(words)
        start = max(int(words.get("from") or 0), 0)
        now = {row.id: row for row in self._category_rows()}
        some = [(now[row], target) for row, target in listing[start : start + _CATEGORIES] if row in now]
        samples = self._columns().samples([row.id for row, _ in some], _SAMPLES, self._rejected())
        shown = [self._shown_category(row, target, samples[row.id]) for row, target in some]
        after = start + _CATEGORIES if start + _CATEGORIES < len(listing) else None
        return {"categories": shown, "total": len(listing), "after": after, "listing": number, **self._state()}

    def _listing(self, words: dict[str, str]) -> tuple[int, list[tuple[int, tuple[int, str, str] | None]]]:
        """Categories in the order in which a page began to show them: decisions do not move what it has not reached."""
        number = int(words.get("listing") or 0)
        if number not in self._listings:
            order = words.get("order", "")
            wanted = order if order in ORDERS else ORDERS[0], words.get("show") or "all", words.get("text") or ""
            rows = arranged(self._category_rows(), *wanted)
            number = next(self._numbers)
            self._listings[number] = [(row.id, target) for row, target in rows]
            for old in sorted(self._listings)[:-_LISTINGS]:
                self._listings.pop(old, None)
        return number, self._listings[number]

    def targets(self, text: str) -> list[dict[str, str]]:
        """Up to twenty target classes that are called so."""
        wanted = text.casefold()
        with self._reading:
            rows = self._reader.targets()
        found = [row for row in rows if wanted in row["title"].casefold() or wanted in row["name"].casefold()]
        return [{"name": row["name"], "title": _text(row["title"])} for row in found[:20]]

    def picture(self, image: int) -> bytes | None:
        """A small picture of an image; None where it is gone or cannot be read."""
        with self._reading:
            place = self._reader.place_of_image(image)
        try:
            return thumbnail(place) if place else None
        except BrokenImageError:
            return None

    def target_picture(self, target: str, number: int) -> bytes | None:
        """A small picture of a target class."""
        return self._targets.picture(target, number)

    def decide(self, body: dict[str, Any]) -> dict[str, Any]:
        """Writes a decision down: of `images`, or of a `category`.

        Raises:
            ValueError: it makes no sense.
        """
        verdict = body.get("verdict")
        if "images" in body:
            return self._decide_images(body["images"], verdict)
        return self._decide_category(body, verdict)

    def undo(self, batch: object) -> dict[str, Any]:
        """Takes the last decision back, if it is still the last one."""
        with self._writing, self._own_write():
            self._require_same_file()
            undone = self._writer.undo(batch if type(batch) is int else 0)
            by_hand = self._writer.images_by_hand() if undone else {}
            ids = [self._writer.candidate_of_url(d.what) for d in undone if d.kind == "image"]
        for image in filter(None, ids):
            self._columns().set_hand(image, by_hand.get(image, ""))
        self._forget_rows()
        failed = "" if undone else "another decision was made since, in another tab perhaps: undo that one first"
        with self._reading:
            images = self._reader.images_shown(filter(None, ids))
        names = dict.fromkeys(d.what for d in undone if d.kind != "image")
        return {
            "done": len(undone),
            "error": failed,
            "images": [_shown_image(row) for row in images.values()],
            "categories": [{"name": name, "category": self._category_now(name)} for name in names],
            **self._state(),
        }

    def set_thresholds(self, gamma1: object, gamma2: object) -> dict[str, Any]:
        """Judges the images anew by their similarities; decisions of people and repeats stay what they are.

        Raises:
            ValueError: thresholds that leave nothing between them, or that the similarities cannot tell; another stage
                is at work.
        """
        low, high = _threshold(gamma1), _threshold(gamma2)
        if high is None or (gamma1 is not None and low is None) or (low is not None and low >= high):
            raise ValueError("the lower threshold must be below the upper one.")
        self._require_same_file()
        with self._writing, held_catalog(self._path, "review"):
            settings = self._writer.json_setting("filter")
            below = _number(settings.get("labels_below")) or _number(settings.get("gamma2"))
            if low is None:
                if settings.get("gamma1") != "auto":
                    raise ValueError(
                        "labels were not judged, or thresholds took their place: `fastlt filter` does that."
                    )
                if below is None or high > below:
                    above = "" if below is None else f" above {below:.3f}"
                    raise ValueError(f"what lies{above} was not judged by its label: `fastlt filter` does that.")
                settings["labels_below"] = below
            if self._is_changed():  # nobody writes any more
                self._load(again=True)
            changes = self._columns().judged_by(low, high)
            with self._own_write(), self._writer.transaction():
                self._writer.judge_images(changes)
                settings |= {"gamma1": "auto" if low is None else low, "gamma2": high}
                self._writer.remember_json("filter", settings)
            self._columns().set_reasons(changes)
            self._forget_rows()
        return {"changed_images": len(changes), "now": dict(reasons_of(changes)), **self._state()}

    def _decide_images(self, images: object, verdict: object) -> dict[str, Any]:
        if not isinstance(images, list) or not all(type(image) is int for image in images):
            raise ValueError("images are named by their numbers.")
        if verdict not in ("keep", "drop") or len(images) > _MOST_AT_ONCE:
            raise ValueError(f"keep or drop {_MOST_AT_ONCE:,} images at most.")
        with self._writing, self._own_write():
            self._require_same_file()
            rows = self._writer.images_shown(images)
            ids = {row["url"]: image for image, row in rows.items()}
            decided = self._writer.decide([Decision("image", url, verdict) for url in ids])
            gone = [self._writer.why_not_in_use(image) for image in images if image not in rows]
        report = self._path.with_name(f"{self._path.stem}_filter.csv")
        likes = repeated_by(report, [ids[d.what] for d, _ in decided.refused]) if decided.refused else {}
        refused = [", ".join([f"{d.what}: {why}", *likes.get(ids[d.what], [])]) for d, why in decided.refused]
        followed = set(ids) - {d.what for d, _ in (*decided.refused, *decided.unknown)}
        for url in followed:
            self._columns().set_hand(ids[url], verdict)
        self._forget_rows()
        answer = {
            "done": decided.done,
            "refused": [_text(why) for why in refused],
            "gone": [_text(why) for why in gone],
        }
        with self._reading:
            rows = self._reader.images_shown(images)
        return answer | {"images": [_shown_image(row) for row in rows.values()], **self._state()}

    def _decide_category(self, body: dict[str, Any], verdict: object) -> dict[str, Any]:
        what, title, targets = (body.get(key) for key in ("category", "title", "targets"))
        if not isinstance(targets or [], list) or not all(isinstance(t, str) for t in targets or []):
            raise ValueError("targets are named by their names.")
        if not isinstance(what or "", str) or not isinstance(title or "", str):
            raise ValueError("categories are named by their names.")
        with self._writing, self._own_write():
            self._require_same_file()
            decisions = self._category_decisions(what or "", verdict, title or "", targets or [])
            decided = self._writer.decide(decisions)
        self._forget_rows()
        failed = [_text(f"{d.what or d.title}: {why}") for d, why in (*decided.refused, *decided.unknown)]
        name = (decisions[0].what if decided.done else "") if verdict == "add" else what
        shown = self._category_now(name or "", body.get("beside"))
        return {"done": decided.done, "refused": failed, "gone": [], "category": shown, **self._state()}

    def _category_now(self, name: str, beside: object = None) -> dict[str, Any] | None:
        """A category as it is shown, beside a target of that name if it still is; None where it is gone."""
        row = next((row for row in self._category_rows() if row.name == name), None)
        if row is None:
            return None
        targets = [target for target in row.targets if target[1] == beside] or row.targets
        samples = self._columns().samples([row.id], _SAMPLES, self._rejected())
        return self._shown_category(row, targets[0] if targets else None, samples[row.id])

    def _category_decisions(self, what: str, verdict: object, title: str, targets: Sequence[str]) -> list[Decision]:
        if verdict in ("accept", "reject"):
            return [Decision("category", what, str(verdict))]
        if verdict == "rename":
            return [Decision("title", what, "rename", title=title)]
        if verdict == "add":
            name = self._writer.name_of_title(title)
            return [
                Decision("category", name, "add", title=title),
                *(Decision("pair", name, "keep", t) for t in targets),
            ]
        if verdict != "move":
            raise ValueError("accept, reject, rename, add or move a category.")
        before = [name for category, (_, name, _) in self._writer.pairs_with_targets() if category == self._id(what)]
        dropped = [Decision("pair", what, "drop", target) for target in before if target not in targets]
        return dropped + [Decision("pair", what, "keep", target) for target in targets if target not in before]

    def _id(self, name: str) -> int:
        return next((row.id for row in self._category_rows() if row.name == name), 0)

    def _shown_category(self, row: Row, target: tuple[int, str, str] | None, samples: list[int]) -> dict[str, Any]:
        return {
            "id": row.id,
            "name": row.name,
            "title": _text(row.title),
            "state": row.state,
            "reason": _text(row.reason),
            "decided": row.decided,
            "doubts": [_text(doubt) for doubt in row.doubts],
            "images": row.images,
            "taken": row.taken,
            "similarity": None if math.isnan(row.similarity) else round(row.similarity, 3),
            "targets": [{"name": name, "title": _text(title)} for _, name, title in row.targets],
            "beside": {"name": target[1], "title": _text(target[2])} if target else None,
            "pictures": self._targets.number(target[1]) if target else 0,
            "samples": samples,
        }

    def _columns(self) -> Snapshot:
        return self._snapshot or self._load()

    def _load(self, again: bool = False) -> Snapshot:
        with self._loading:
            if self._snapshot is None or again:
                with self._reading:
                    seen = self._reader.data_version()  # first: what is written meanwhile is to be told
                with Catalog(self._path) as catalog:
                    self._snapshot = Snapshot(catalog)
                self._seen, self._rows = seen, None
            return self._snapshot

    def _require_same_file(self) -> None:
        """Raises ValueError where decisions would go into a file that nobody finds any more."""
        if _identity(self._path) != self._file:
            raise ValueError(
                f"{self._path.name} was removed or replaced since it was opened here: end `fastlt review` and start it "
                "again."
            )

    def _is_changed(self) -> bool:
        with self._reading:
            return self._seen not in (-1, self._reader.data_version())

    @contextmanager
    def _own_write(self) -> Iterator[None]:
        """What is written inside is no change by others."""
        was_changed = self._is_changed()
        yield
        if not was_changed and self._seen != -1:
            with self._reading:
                self._seen = self._reader.data_version()

    def _category_rows(self) -> list[Row]:
        rows = self._rows
        if rows is None:
            snapshot = self._columns()
            with self._reading:
                self._rows = rows = category_rows(self._reader, snapshot)
        return rows

    def _forget_rows(self) -> None:
        with self._reading:  # or rows of before, which another thread computes, would be kept after this
            self._rows = None

    def _rejected(self) -> set[int]:
        with self._reading:
            return self._reader.rejected_categories()

    def _last(self) -> tuple[int, list[Decision]]:
        with self._reading:
            return self._reader.last_batch()

    def _state(self) -> dict[str, Any]:
        """What every answer says: whether others have written since, and what may be undone."""
        batch, last = self._last()
        return {"changed": self._is_changed(), "last": {"batch": batch, "told": _told(last)} if batch else None}


def _identity(path: Path) -> tuple[int, int] | None:
    """What tells a file from another of the same name; None where there is none."""
    try:
        about = path.stat()
    except OSError:
        return None
    return about.st_dev, about.st_ino


def _shown_image(row: Any) -> dict[str, Any]:
    link = row["page"] or row["url"]
    banned = is_banned(row["reason"])
    hand = "" if banned else row["verdict"] or ""
    kept = hand == "keep" or (not hand and row["state"] == "kept")
    reason = _text(row["reason"]) or ("kept" if row["state"] == "kept" else "not filtered")
    if hand:
        reason = "kept by hand" if kept else "dropped by hand"
    if kept and row["category_state"] != "kept":
        kept, reason = False, f"{reason}, but its category is rejected"
    return {
        "id": row["id"],
        "category": row["category"],
        "title": _text(row["title"]),
        "reason": reason,
        "hand": hand,
        "kept": kept,
        "banned": banned,
        "similarity": row["similarity"],
        "nearest": _text(row["nearest_title"] or ""),
        "license": _text(row["license"]),
        "attribution": _text(row["attribution"]),
        "url": _text(row["url"]),
        "link": link if link.startswith(("http://", "https://")) else "",  # nothing that a browser could run
        "size": f"{row['width']} x {row['height']}",
    }


def _told(decisions: Sequence[Decision]) -> str:
    """Decisions in a few words, for a button."""
    if not decisions:
        return ""
    first = decisions[0]
    if first.kind == "image":
        return f"{first.verdict} {len(decisions):,} image{'s' * (len(decisions) > 1)}"
    verb = "move" if first.kind == "pair" else first.verdict
    return f"{verb} {_text(first.what)}"


def _text(said: str) -> str:
    return one_line(said, _LONGEST)


def _threshold(value: object) -> float | None:
    """In whole millionths, as similarities are: a slider's steps, multiplied, miss some by a bit."""
    number = _number(value)
    return None if number is None else round(number, 6)


def _number(value: object) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if is_number else None  # type: ignore[arg-type]
