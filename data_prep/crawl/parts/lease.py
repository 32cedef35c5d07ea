"""Who may work on a part: one process among many machines that share a folder, and whose clocks need not agree.

An owner makes a file for its epoch, which only one can do, and writes another number into it again and again. Who sees
the same number for a whole lease, by its own clock, makes the file of the next epoch and is the owner. An owner that
could write nothing for half a lease, as it was stopped or its folder was gone, owns no more, and finds that out
by its own clock before it asks any host.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fastlt.data_prep.crawl.since_boot import begun, numbered_by, steady
from fastlt.messages import one_line

_RELEASED = "released"
_BEATS = 12  # of a lease
_WATCHED = 0.2  # seconds between looks at another's beat


class LeaseLostError(Exception):
    """Another process may own the part by now; the message says why."""


class InUseError(ValueError):
    """Another process works on a part, and is alive."""


class Lease:
    """A lease that is held, from `held`."""

    def __init__(self, file: Path, seconds: float, epoch: int) -> None:
        self._file, self._seconds, self.epoch = file, seconds, epoch
        self._holder = _this_process()
        self._beat, self._renewed = 0, steady()
        self._lost = ""
        self._ended = threading.Event()
        self._write()

    def check(self) -> None:
        """Raises LeaseLostError when others may take this for a dead process."""
        if not self._lost and steady() - self._renewed > self._seconds / 2:
            self._lost = "this process stood still"
        if self._lost:
            raise LeaseLostError(
                f"{self._lost}, so that another one may have taken {_part_name(self._file)} over: nothing more is "
                "asked or written here; the same command goes on where nobody has."
            )

    def _write(self) -> None:
        self._beat += 1
        _say(self._file, {**self._holder, "beat": self._beat, "seconds": self._seconds})

    def _keep(self) -> None:
        """Shows that this process is alive, until it ends."""
        while not self._ended.wait(self._seconds / _BEATS):
            began = steady()
            try:
                self.check()
                if _file(self._file, self.epoch + 1).exists():
                    self._lost = "another process took this one for dead"
                self.check()
                self._write()
            except LeaseLostError:
                return
            except OSError:  # the next beat may get through; if none does in time, the lease is lost
                continue
            self._renewed = began

    def _end(self) -> None:
        self._ended.set()
        with suppress(LeaseLostError, OSError):
            self.check()
            _say(self._file, {"holder": _RELEASED})


@contextmanager
def held(stem: Path, seconds: float) -> Iterator[Lease]:
    """Owns what `stem` names for as long as the block lasts.

    Args:
        stem: a path beside which the lease's files may lie.
        seconds: without a sign of life after which an owner is taken for dead.

    Raises:
        InUseError: another process owns it, and is alive.
    """
    lease = _acquire(stem, seconds)
    beating = threading.Thread(target=lease._keep, daemon=True, name="lease")
    beating.start()
    try:
        yield lease
    finally:
        lease._end()
        beating.join()


def remove(stem: Path) -> None:
    """The files of all epochs of what is gone itself."""
    for file in _files(stem).values():
        file.unlink(missing_ok=True)


def _acquire(stem: Path, seconds: float) -> Lease:
    while True:
        files = _files(stem)
        epoch = max(files, default=0)
        if epoch:
            _wait_until_free(files[epoch], seconds)
        with suppress(FileExistsError):  # somebody was faster
            file = _file(stem, epoch + 1)
            os.close(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666))
            if max(_files(stem)) > epoch + 1:  # so much faster that the files of their epochs are gone
                file.unlink()
                continue
            lease = Lease(file, seconds, epoch + 1)
            for old in files.values():
                old.unlink(missing_ok=True)
            return lease


def _wait_until_free(file: Path, seconds: float) -> None:
    """Returns when the owner has gone, or gave no sign of life for a whole lease: its own, where that is longer.

    Raises:
        InUseError: it is alive.
    """
    first, since = _said(file), steady()
    while steady() - since <= seconds:
        said = _said(file)
        if isinstance(its := said.get("seconds"), int | float):  # it beats as seldom as that lets it
            seconds = max(seconds, its)
        if said.get("holder") == _RELEASED or _has_ended(said):
            return
        if said != first and first:
            raise InUseError(f"{_part_name(file)} is in use: {one_line(said.get('holder'), 100)} works on it.")
        first = first or said
        time.sleep(min(_WATCHED, seconds / _BEATS))


def _say(file: Path, what: dict[str, object]) -> None:
    """Closed after each, so that other machines see it (NFS)."""
    with open(os.open(file, os.O_WRONLY | os.O_NOFOLLOW), "w") as opened:
        opened.write(f"{json.dumps(what):<400}\n")
        opened.flush()
        os.fsync(opened.fileno())


def _said(file: Path) -> dict[str, object]:
    """What an owner wrote; {} where it wrote nothing yet, or is writing."""
    try:
        found = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _this_process() -> dict[str, object]:
    """Who holds a lease, for people and for `_has_ended`."""
    number = os.getpid()
    holder = f"{socket.gethostname()} process {number}"
    return {"holder": holder, "process": number, "of": numbered_by(), "begun": begun(number)}


def _has_ended(said: dict[str, object]) -> bool:
    """Whether it was a process that this one could see, and does no more; else only its beats say whether it lives."""
    number = said.get("process")
    return said.get("of") == numbered_by() and isinstance(number, int) and said.get("begun") != begun(number)


def _files(stem: Path) -> dict[int, Path]:
    """{epoch: its file}."""
    found = stem.parent.glob(f"{stem.name}.lease-*")
    return {int(file.suffix.removeprefix(".lease-")): file for file in found if file.suffix[7:].isdecimal()}


def _file(stem: Path, epoch: int) -> Path:
    return stem.with_name(f"{_part_name(stem)}.lease-{epoch}")


def _part_name(file: Path) -> str:
    return file.name.partition(".lease-")[0]
