"""Decisions as a file, a JSON object a line, which fits any catalog: images are named by URL, the rest by name."""

from __future__ import annotations

import json
import re
from collections import Counter
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from fastlt.atomic import write_text
from fastlt.data_prep.catalog import Catalog, Decision
from fastlt.data_prep.inputs.text import read_text
from fastlt.foreign import parse_json
from fastlt.messages import listed

_OF_A_CATALOG = ("", "-wal", "-shm", "-journal", ".lock")  # how names of its files end
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{6})?\+00:00")


def write_decisions(catalog: Catalog, file: Path) -> int:
    """Writes the last decision about each thing; how many.

    Raises:
        ValueError: what is there is not to be written over.
    """
    ours = {str(catalog.path.resolve()) + end for end in _OF_A_CATALOG}
    if str(file.resolve()) in ours or (file.exists() and not file.is_file()):
        raise ValueError(f"--export {file} is a folder, a device, or the catalog's own: name another file.")
    decisions = catalog.decisions()
    lines = [
        json.dumps({key: value for key, value in decision._asdict().items() if value}, ensure_ascii=False)
        for decision in decisions
    ]
    write_text(file, "".join(f"{line}\n" for line in lines))
    return len(decisions)


def apply_decisions(catalog: Catalog, file: Path) -> list[str]:
    """Follows the decisions of a file at once, but for those about which the catalog has newer ones; lines to print.

    Raises:
        ValueError: the file is none, or a line of it.
    """
    decisions = _read(file)
    found = catalog.decide(decisions, newer_only=True)
    lines = [f"{found.done:,} of {len(decisions):,} decisions followed"]
    if left := len(decisions) - found.done - len(found.unknown) - len(found.refused):
        lines.append(f"{left:,} left, as the catalog has them, or newer ones")
    for what, cases in (("not in this catalog", found.unknown), ("refused", found.refused)):
        for why, number in Counter(why for _, why in cases).most_common():
            names = [_named(decision) for decision, told in cases if told == why]
            lines.append(f"{number:,} {what}, {why}: {listed(names)}")
    return lines


def _named(decision: Decision) -> str:
    name = decision.what or decision.title
    return f"{name} beside {decision.target_name}" if decision.target_name else name


def _is_time(text: str) -> bool:
    with suppress(ValueError):
        return bool(_TIME.fullmatch(text) and datetime.fromisoformat(text))
    return False


def _read(file: Path) -> list[Decision]:
    decisions = []
    for number, line in enumerate(read_text(file, "decisions").split("\n"), 1):
        if not line.strip():
            continue
        try:
            fields = parse_json(line)
            if not isinstance(fields, dict) or not all(isinstance(value, str) for value in fields.values()):
                raise ValueError("it is no object of texts")
            decision = Decision(**fields)
            "".join(fields.values()).encode()  # halves of characters are none
            if not _is_time(decision.made):
                raise ValueError("'made' is no time such as 2026-01-31T12:00:00+00:00")
        except (ValueError, TypeError) as error:
            raise ValueError(f"line {number} of {file} is no decision: {error}.") from None
        decisions.append(decision)
    return decisions
