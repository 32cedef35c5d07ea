"""The folder `.OUT.partial` in which an encode works until it becomes OUT, and which a killed one leaves."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fastlt.atomic import publish_folder, write_text
from fastlt.ownership import stranger

_INPUTS = "inputs.sha256"
_LAST = "manifest.json"


class PartialFolder:
    """The folder for one OUT, as it was left or yet to be made.

    Args:
        out: what it becomes.
        digest: identifies images and settings; the manifest has it as its setting "inputs".

    Raises:
        ValueError: OUT exists, or the folder is of other images or settings, or somebody else's.
    """

    def __init__(self, out: Path, digest: str) -> None:
        if out.exists():
            advice = "remove it or choose" if (out / "manifest.json").is_file() else "it is no encoded data set; choose"
            raise ValueError(f"{out} exists already: {advice} another name.")
        self.path = out.with_name(f".{out.name}.partial")
        self._out, self._digest = out, digest
        self._require_ours()
        if self._found_digest() not in (None, digest):
            raise ValueError(
                f"{self.path} holds an encode of {out} that was not finished, with other images or "
                "settings: repeat that command to finish it, remove the folder, or choose another name."
            )

    def _require_ours(self) -> None:
        """Raises ValueError for a folder that another user has put there: what is in it would be gone on with."""
        if not os.path.lexists(self.path):
            return
        what = "is no folder"
        if self.path.is_dir() and not self.path.is_symlink():
            link = next((entry.name for entry in os.scandir(self.path) if entry.is_symlink()), "")
            owner = stranger(self.path)
            what = f"belongs to {owner}" if owner else f"holds a link, {link}" if link else ""
        if what:
            raise ValueError(
                f"{self.path} {what}, so it is not left of an encode of yours: see who put it there, and remove it or "
                "choose another name."
            )

    def _found_digest(self) -> str | None:
        if self.is_complete:
            return json.loads((self.path / _LAST).read_text())["settings"]["inputs"]
        inputs = self.path / _INPUTS
        return inputs.read_text() if inputs.exists() else None

    @property
    def is_complete(self) -> bool:
        """Whether all is written: what is left is `publish`."""
        return (self.path / _LAST).exists()

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Makes the folder if there is none and holds it for this process; removes it if nothing comes into it.

        Raises:
            ValueError: another process holds it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(
            self.path, os.O_RDONLY | os.O_NOFOLLOW
        )  # the kernel frees the lock however the process ends
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ValueError(f"{self.path} is in use: another process encodes {self._out}.") from None
            try:
                if not self.is_complete:
                    write_text(self.path / _INPUTS, self._digest)
                yield
            finally:
                if self.path.exists() and {file.name for file in self.path.iterdir()} <= {_INPUTS}:
                    shutil.rmtree(self.path)
        finally:
            os.close(descriptor)

    def complete(self, manifest: str) -> None:
        """Writes the manifest, which says that all else is there."""
        write_text(self.path / _LAST, manifest)

    def publish(self) -> None:
        """Removes what only a killed encode needs, and renames the folder to OUT."""
        for file in (*self.path.glob("*.journal"), *self.path.glob(".*.partial"), self.path / _INPUTS):
            file.unlink(missing_ok=True)
        publish_folder(self.path, self._out)
