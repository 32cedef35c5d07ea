"""`fastlt predict`: reads the images a person means, and says of each what it shows, in their order."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor
from tqdm import tqdm

from fastlt.atomic import new_file
from fastlt.cores import available_cores
from fastlt.loaders.named import named_batches
from fastlt.prediction.inputs import STDIN, image_names
from fastlt.prediction.predictor import Predictor
from fastlt.prediction.rows import UNSURE, Form, Prediction, rows


@dataclass
class Counted:
    """How many images there were, and what became of them."""

    images: int = 0
    broken: int = 0
    unsure: int = 0

    def sentence(self) -> str:
        """For people."""
        parts = [f"{self.images:,} images" if self.images != 1 else "1 image"]
        parts += [f"{self.broken:,} could not be read"] * bool(self.broken)
        parts += [f"{self.unsure:,} {UNSURE}"] * bool(self.unsure)
        return "; ".join(parts)


def predict(
    predictor: Predictor,
    words: Sequence[str],
    out: Path | None = None,
    form: Form = "table",
    top_k: int = 1,
    threshold: float = 0.0,
    workers: int = 0,
) -> Counted:
    """Writes a line for each image, in their order, as they come; memory does not grow with their number.

    Args:
        predictor: what sees them.
        words: files, folders, and "-" for paths on standard input.
        out: the file to write, which appears whole or not at all; None prints.
        form: of the lines.
        top_k: classes of a line; no more than there are.
        threshold: a probability under which the line says that it is unsure.
        workers: processes that read images; 0 takes one for each core.

    Raises:
        ValueError: there is no image, or a class is itself called "unsure".
    """
    if threshold and predictor.cosine:
        raise ValueError(f"{predictor.title}: {predictor.about_probabilities()}, and leave out --threshold here.")
    if threshold and UNSURE in predictor.names:
        raise ValueError(f"a class is itself called {UNSURE!r}: leave out --threshold, and judge by the probabilities.")
    top_k = min(top_k, len(predictor.names))
    head, line = rows(form, predictor.names, top_k)
    counted = Counted()
    device = predictor.normalize.device
    names = image_names(words, sys.stdin.buffer if sys.stdin else io.BytesIO())
    on_gpu = device.type == "cuda"
    batches = named_batches(
        names, predictor.transform, 256 if on_gpu else 64, workers or available_cores(), shared=not on_gpu
    )
    shows = sys.stderr.isatty() and (out is not None or not sys.stdout.isatty())
    with _opened(out) as write, tqdm(unit=" images", disable=not shows) as bar:
        for batch, why, images in batches:
            write(head if not counted.images else "")
            found = _predictions(predictor, batch, why, images, top_k, threshold)
            write("".join(map(line, found)))
            counted.images += len(found)
            counted.broken += sum(bool(said.error) for said in found)
            counted.unsure += sum(said.unsure for said in found)
            bar.update(len(found))
        if not counted.images:
            named = " ".join("standard input" if word == STDIN else str(word) for word in words)
            raise ValueError(f"there is no image in {named}.")
    return counted


def _predictions(
    predictor: Predictor, names: Sequence[str], why: Sequence[str], images: Tensor, top_k: int, threshold: float
) -> list[Prediction]:
    seen: Iterator[tuple[tuple[str, float], ...]] = iter(())
    if len(images):
        probabilities, classes = predictor(images, top_k)
        seen = (
            tuple((predictor.names[c], p) for c, p in zip(*pair, strict=True))
            for pair in zip(classes.tolist(), probabilities.tolist(), strict=True)
        )
    found = []
    for name, reason in zip(names, why, strict=True):
        best = () if reason else next(seen)
        found.append(Prediction(name, best, bool(best) and best[0][1] < threshold, reason))
    return found


@contextmanager
def _opened(out: Path | None) -> Iterator[Callable[[str], object]]:
    """What writes text: to a file that appears whole, or to standard output, at once."""
    if out is None:
        yield lambda text: print(text, end="", flush=True)
        return
    with new_file(out) as temporary, temporary.open("w", encoding="utf-8", errors="backslashreplace") as stream:
        yield stream.write
