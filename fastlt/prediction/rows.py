"""What is said about an image, in three forms: a line for people, CSV, or a line of JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from fastlt.foreign import table_cell
from fastlt.messages import harmless, one_line

Form = Literal["table", "csv", "jsonl"]
UNSURE = "unsure"
_WIDEST = 40  # characters of a class in a table


@dataclass(frozen=True)
class Prediction:
    """What an image was taken for.

    Attributes:
        file: its name.
        best: the most probable classes with their probabilities, the first one first; none for a broken image.
        unsure: whether the first one's probability is too low to be an answer.
        error: why the image could not be read, else "".
    """

    file: str
    best: tuple[tuple[str, float], ...] = ()
    unsure: bool = False
    error: str = ""


def rows(form: Form, names: Sequence[str], top_k: int) -> tuple[str, Callable[[Prediction], str]]:
    """(what stands above all lines, the line of a prediction, with its end).

    Args:
        form: which of the three.
        names: of the classes.
        top_k: how many of them a line has.
    """
    if form == "jsonl":
        return "", _json_line
    if form == "csv":
        more = [f"{column}_{i}" for i in range(2, top_k + 1) for column in ("class", "probability")]
        return _csv_line(["file", "class", "probability", *more, "error"]), lambda said: _csv_row(said, top_k)
    width = min(max(map(len, (*names, UNSURE))), _WIDEST)
    head = "  ".join([f"{'class':<{width}}  {'%':>5}"] * top_k)
    return f"{head}  file\n", lambda said: _line(said, top_k, width)


def _line(said: Prediction, top_k: int, width: int) -> str:
    cells = [(name, f"{100 * p:.1f}") for name, p in said.best] or [("-", "")] * top_k
    if said.unsure:
        cells[0] = UNSURE, cells[0][1]
    shown = "  ".join(f"{name:<{width}}  {p:>5}" for name, p in cells)
    why = f": {one_line(said.error, 200)}" if said.error else ""
    return f"{shown}  {said.file.replace(chr(10), ' ')}{why}\n"


def _csv_row(said: Prediction, top_k: int) -> str:
    cells = [cell for name, p in said.best for cell in (table_cell(name), f"{p:.6f}")] or [""] * 2 * top_k
    if said.unsure:
        cells[0] = UNSURE
    return _csv_line([table_cell(said.file), *cells, table_cell(said.error)])


def _csv_line(cells: Sequence[str]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(cells)
    return line.getvalue()


def _json_line(said: Prediction) -> str:
    if said.error:
        return _json({"file": said.file, "error": said.error})
    name, probability = said.best[0]
    about = {"file": said.file, "class": None if said.unsure else name, "probability": round(probability, 6)}
    top = [{"class": name, "probability": round(p, 6)} for name, p in said.best]
    return _json(about | {"unsure": said.unsure, "top": top})


def _json(value: dict[str, object]) -> str:
    """A line; of what a terminal obeys it has the escapes, or that would be lost on the way there."""
    line = json.dumps(value, ensure_ascii=False)
    return (line if harmless(line) == line else json.dumps(value)) + "\n"
