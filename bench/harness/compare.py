"""Compares two sets of records: what got slower or faster beyond its spread, and what more is counted than before."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.harness import records
from bench.harness.records import Record

SLOWER = 0.05  # of ours, from which a comparison fails
_IDENTITY = ("device", "suite", "case", "impl", "pass", "storage")
COUNTED_WITH = {  # suite: what its counts hang on, all of which two records must have had alike
    "counts": ("torch", "numpy", "numba", "deepspeed", "timm", "instructions"),
    "sass": ("triton",),
}
_FEWER_ARE_BETTER = (
    *records.COUNTED, "plain", "mixed", "exponentials", "loaded", "stored", "single", "spills", "registers",
)  # fmt: skip
_MORE_ARE_BETTER = ("narrowest", "resident")
_SLACK = {"page_faults": 32}  # what kernels of other versions and settings may add; a fresh gradient has a thousand
Key = tuple[str, ...]


@dataclass(frozen=True)
class Change:
    """One measurement, before and after; `gain` is after over before, of speed."""

    key: Key
    before: tuple[float, float, float]
    after: tuple[float, float, float]
    gain: float
    ours: bool

    @property
    def is_beyond_spread(self) -> bool:
        """Whether the intervals p20..p80 do not overlap."""
        return self.before[2] < self.after[0] or self.after[2] < self.before[0]

    @property
    def is_too_slow(self) -> bool:
        return self.ours and self.is_beyond_spread and self.gain < 1 / (1 + SLOWER)


def compare(before: str, after: str) -> bool:
    """Prints the changes; whether none of ours got slower by more than 5 %, beyond its spread, and no count worse.

    Args:
        before, after: a .jsonl file of records, FILE@COMMIT for it as it was then, or a folder of such files.

    Raises:
        ValueError: they cannot be read, are of different devices, or have no measurement in common.
    """
    old, new = _latest(before), _latest(after)
    devices = {r["device"] for r in old.values()}, {r["device"] for r in new.values()}
    common = [key for key in new if key in old]
    if devices[0].isdisjoint(devices[1]):
        raise ValueError(
            f"{before} was measured on {', '.join(sorted(devices[0]))} and {after} on "
            f"{', '.join(sorted(devices[1]))}: only records of one device compare."
        )
    if not common:
        with_ = [" or ".join(sorted({_conditions(r) for r in found.values()} - {""})) for found in (old, new)]
        counted = f" Counts compare where these are alike: {with_[0]}, and {with_[1]}." if all(with_) else ""
        raise ValueError(f"{before} and {after} have no measurement in common.{counted}")
    changes = [_change(key, old[key], new[key]) for key in common if _is_timed(old[key]) and _is_timed(new[key])]
    moved = sorted((c for c in changes if c.is_beyond_spread), key=lambda c: c.gain)
    console = Console(width=140)
    if moved:
        console.print(_table(moved, before, after))
    worse = [line for key in common if records.is_ours(new[key]) for line in _worse(old[key], new[key])]
    for line in worse:
        print(f"WORSE: {line}")
    if worse:
        suites = " and ".join(f"`bench/run.py {suite}`" for suite in sorted({new[key]["suite"] for key in common}))
        print(f"If that has to be, commit the change, run {suites}, and commit the records: they are the line.")
    slow = sum(c.is_too_slow for c in moved)
    print(
        f"{len(common)} measurements: {sum(c.gain < 1 for c in moved)} slower and {sum(c.gain > 1 for c in moved)} "
        f"faster beyond their spread; {slow} of ours slower by more than {SLOWER:.0%}; {len(worse)} counts worse; "
        f"{len(old) - len(common)} only before, {len(new) - len(common)} only after"
    )
    return not slow and not worse


def _latest(where: str) -> dict[Key, Record]:
    """The last record of each measurement, of counts also of each set of versions that they hang on."""
    found = [record for text in _texts(where) for record in records.parse(text, where)]
    found = [record for record in found if _is_timed(record) or record["suite"] in COUNTED_WITH]
    if not found:
        raise ValueError(f"{where} holds no measurement.")
    return {(*(str(record.get(part, "")) for part in _IDENTITY), _conditions(record)): record for record in found}


def _is_timed(record: Record) -> bool:
    return "median_ms" in record or "images_per_s" in record


def _conditions(record: Record) -> str:
    """What a record's counts hang on, in words."""
    versions = record.get("versions", {}) | record
    return ", ".join(f"{what} {versions.get(what, 'absent')}" for what in COUNTED_WITH.get(record["suite"], ()))


def _worse(before: Record, after: Record) -> Iterator[str]:
    """A sentence for each count that got worse."""
    for what in (*_FEWER_ARE_BETTER, *_MORE_ARE_BETTER):
        old, new = before.get(what), after.get(what)
        if (
            old is None
            or new is None
            or (new <= old + _SLACK.get(what, 0) if what in _FEWER_ARE_BETTER else new >= old)
        ):
            continue
        by = f" ({(new - old) / old:+.1%})" if old else ""
        at = f" at {before['commit']}" if "commit" in before else ""
        yield f"{what.replace('_', ' ')} of {after['case']}, {after['impl']}: {new:,}{by}, and {old:,} before{at}"


def _texts(where: str) -> Iterator[str]:
    path, at, commit = where.rpartition("@")
    if Path(where).is_dir():
        files = sorted(Path(where).glob("*.jsonl"))
        if not files:
            raise ValueError(f"{where} has no .jsonl file in it.")
        yield from (file.read_text() for file in files)
    elif at and not Path(where).exists():
        file = Path(path).absolute()
        command = ["git", "-C", str(file.parent), "show", f"{commit}:./{file.name}"]
        try:
            shown = subprocess.run(command, capture_output=True, text=True)
        except FileNotFoundError:
            raise ValueError(f"{where} needs git, which is not here.") from None
        if shown.returncode:
            raise ValueError(f"git has no {path} at {commit}: {shown.stderr.strip()}.")
        yield shown.stdout
    else:
        try:
            yield Path(where).read_text()
        except OSError as error:
            raise ValueError(f"{where} cannot be read: {error.strerror}.") from None


def _change(key: Key, old: Record, new: Record) -> Change:
    kind = "images_per_s" if "images_per_s" in old and "images_per_s" in new else "ms"
    middle = "images_per_s" if kind != "ms" else "median_ms"
    before, after = ((r[f"p20_{kind}"], r[middle], r[f"p80_{kind}"]) for r in (old, new))
    ratio = after[1] / before[1]
    return Change(key, before, after, ratio if kind != "ms" else 1 / ratio, records.is_ours(new))


def _table(changes: list[Change], before: str, after: str) -> Table:
    table = Table(title="speed after over before, where p20..p80 do not overlap", title_justify="left")
    for column in ("measurement", before, after):
        table.add_column(column)
    table.add_column("speed", no_wrap=True, justify="right")
    for c in changes:
        cells = [f"{middle:.4g} ({low:.4g}..{high:.4g})" for low, middle, high in (c.before, c.after)]
        mark = "  TOO SLOW" if c.is_too_slow else ""
        table.add_row(", ".join(part for part in c.key[1:] if part), *cells, f"{c.gain:.2f}x{mark}")
    return table
