"""The tail classes that a run gets most wrong, with pictures of what it learned from and of its mistakes.

All of them together take a few hundred kilobytes at most.
"""

from __future__ import annotations

import base64
import html
import io
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from fastlt.dataset.encoded import EncodedDataset
from fastlt.dataset.images import BrokenImageError
from fastlt.dataset.single_images import single_images
from fastlt.dataset.staging import copy_of
from fastlt.evaluation.mistakes import Mistakes, Taken
from fastlt.evaluation.shown_run import Shown
from fastlt.places import Place, as_place
from fastlt.recipe import load_recipe

_CLASSES = 10
_TRAINING, _MISTAKES = 4, 5  # pictures of a class
_NAMED = 3  # what it is most often taken for
_SIDE = 80
_MOST_BYTES = 350_000  # of HTML


def worst_tail_classes(run: Shown) -> list[int]:
    """The few-shot targets of lowest accuracy, and of these by name; none that is always right."""
    assert run.per_class is not None, "only evaluated runs are asked"
    names, accuracies = run.space.target_names, run.per_class
    wrong = [(a, names[c], c) for c in run.space.shot_groups()["few"].tolist() if (a := accuracies[c]) is not None]
    return [c for accuracy, _, c in sorted(wrong)[:_CLASSES] if accuracy < 100]


def worst_classes(run: Shown) -> str:
    """HTML about them; a sentence where the data set is not there any more.

    Args:
        run: with mistakes.
    """
    assert run.mistakes is not None, "only runs with mistakes are asked"
    classes = worst_tail_classes(run)
    if not classes:
        return "<p>There is no tail class (fewer than 20 training images) with a mistake.</p>"
    try:
        pictures = _Pictures(run, run.mistakes)
    except (ValueError, OSError) as error:
        pictures, said = None, f"<p>There are no pictures: {html.escape(str(error))}</p>\n"
    else:
        said = "<p>Left, some training images; right, some held-out images with what they were taken for.</p>\n"
    parts: list[str] = []
    for c in classes:
        part = _about(run, c) + (pictures.of(c) if pictures else "")
        if parts and sum(map(len, parts)) + len(part) > _MOST_BYTES:
            said += f"<p>{len(parts)} of {len(classes)} classes are shown, to keep the page small.</p>\n"
            break
        parts.append(part)
    return said + "\n".join(parts)


def _about(run: Shown, c: int) -> str:
    """Name and figures of a class."""
    assert run.mistakes is not None
    names, wrong = run.space.target_names, _wrong(run.mistakes, c)
    most = Counter(names[other] for _, _, other in wrong).most_common(_NAMED)
    taken = ", ".join(f"{name} ({number:,})" for name, number in most)
    total = run.mistakes.images[c]
    text = f"{run.space.counts[c]:,} training images; right: {total - len(wrong):,} of {total:,}; "
    text += f"taken most for {taken}"
    return f"<h3>{html.escape(names[c])}</h3><p>{html.escape(text)}</p>"


def _wrong(mistakes: Mistakes, c: int) -> list[Taken]:
    return [taken for taken in mistakes.mistakes if taken[1] == c]


class _Pictures:
    """Reads the images of a run's data set, and of that on which it was evaluated.

    Raises:
        ValueError: one of them is not there any more, or is another one.
        OSError: it cannot be read.
    """

    def __init__(self, run: Shown, mistakes: Mistakes) -> None:
        self._run, self._mistakes = run, mistakes
        data = load_recipe(run.folder.recipe).data
        trained = _opened(data.path, data.stage_to, run)
        counts = trained.split("train").counts
        if trained.label_space.target_names != run.space.target_names or counts[: len(run.space.counts)] != list(
            run.space.counts
        ):
            raise ValueError(f"the data set at {trained.where} is another one than {run.label} was trained on.")
        held_out = _opened(as_place(mistakes.data), data.stage_to, run)
        split = held_out.split(run.split)
        if split.sha256 != mistakes.sha256 or sum(split.counts) != sum(mistakes.images):
            raise ValueError(f"{held_out.where} was encoded again since {run.label} was evaluated: evaluate again.")
        self._starts = np.cumsum([0, *counts])
        self._training, self._held_out = single_images(trained, "train"), single_images(held_out, run.split)

    def of(self, c: int) -> str:
        """Training images of a class, and mistakes on its held-out ones."""
        places = _spread(range(self._starts[c], self._starts[c + 1]), _TRAINING)
        left = "".join(_figure(self._training, int(place), "") for place in places)
        names = self._run.space.target_names
        chosen = _spread(_wrong(self._mistakes, c), _MISTAKES)
        right = "".join(_figure(self._held_out, place, names[other]) for place, _, other in chosen)
        return f"<div class='pictures'><div>{left}</div><div>{right}</div></div>"


def _opened(place: Place, stage_to: Path | None, run: Shown) -> EncodedDataset:
    if isinstance(place, Path) and not place.is_dir():
        raise ValueError(f"the data set of {run.label} is not at {place} any more, or not as seen from this folder.")
    return copy_of(place, stage_to)


def _spread(what, most: int) -> list:
    """So many of them, evenly spaced."""
    chosen = np.linspace(0, len(what) - 1, min(most, len(what))).round().astype(int).tolist()
    return [what[i] for i in chosen]


def _figure(read: Callable[[int], Image.Image], place: int, caption: str) -> str:
    try:
        image = read(place)
    except BrokenImageError:
        shown = "<img alt='cannot be read'>"
    else:
        shown = f"<img alt='' src='data:image/jpeg;base64,{_thumbnail(image)}'>"
    told = html.escape(caption)
    return f"<figure title='{told}'>{shown}<figcaption>{told}</figcaption></figure>"


def _thumbnail(image: Image.Image) -> str:
    """The middle of an image as a small JPEG, in base64."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    size = min(_SIDE, side)
    box = (left, top, left + side, top + side)
    stream = io.BytesIO()
    image.resize((size, size), Image.Resampling.BICUBIC, box, reducing_gap=2.0).save(stream, "JPEG", quality=75)
    return base64.b64encode(stream.getvalue()).decode()
