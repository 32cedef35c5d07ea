"""Rows that are computed once and kept on the disk, under keys of what they were computed from."""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from fastlt.atomic import publish_file, write_text
from fastlt.ownership import make_own, open_own

_NOBODY = -(2**63)  # the key of a row that was erased


class RowStore:
    """Rows of one dtype under int64 keys, in two files that only grow: `NAME.rows` and `NAME.keys`.

    A key is written when its row is on the disk, so what a killed process leaves is whole up to the last key. Only
    one process may hold a store. Others leave files of rows beside it, which come whole or not at all.

    Attributes:
        left: the folder for those files.
    """

    def __init__(self, folder: Path, name: str, dtype: np.dtype) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.dtype = dtype
        write_text(folder / f"{name}.width", f"{dtype.itemsize}\n")  # for who erases rows without knowing what they are
        self._files = tuple(open_own(folder / f"{name}.{part}", "ab") for part in ("rows", "keys"))
        widths = dtype.itemsize, 8
        whole = min(os.fstat(f.fileno()).st_size // width for f, width in zip(self._files, widths, strict=True))
        for file, width in zip(self._files, widths, strict=True):
            file.truncate(whole * width)
        self._keys = np.fromfile(folder / f"{name}.keys", np.int64)
        self._order: np.ndarray | None = None
        self._path, self.left = folder / f"{name}.rows", folder / f"{name}_left"

    def __len__(self) -> int:
        return len(self._keys)

    def __enter__(self) -> RowStore:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files:
            file.close()

    def append(self, keys: np.ndarray, rows: np.ndarray) -> None:
        """Adds rows [n] under int64 keys [n]; they are on the disk when this returns."""
        for file, values in zip(self._files, (rows.astype(self.dtype), keys.astype(np.int64)), strict=True):
            file.write(values.tobytes())
            file.flush()
            os.fsync(file.fileno())
        self._keys, self._order = np.append(self._keys, keys), None

    def add_left(self) -> None:
        """Adds what was left for a process that was killed, but for what it had added."""
        for part in self.left.glob(".*"):  # of a writer that was killed
            part.unlink()
        for path in self.left.glob("*.npy"):
            keys, rows = self._read(path)
            new = self.find(keys) < 0
            self.append(keys[new], rows[new])
            path.unlink()

    def add_file(self, path: Path) -> None:
        """Adds what `write_rows` wrote, none of which is here, and removes the file."""
        self.append(*self._read(path))
        path.unlink()

    def _read(self, path: Path) -> tuple[np.ndarray, np.ndarray]:
        found = np.load(path)  # no pickles
        if found.dtype != _with_keys(self.dtype):
            raise ValueError(f"{path} does not hold what {self._path} does: remove it.")
        return found["key"], found["row"]

    def find(self, keys: np.ndarray) -> np.ndarray:
        """The row of each key, -1 where there is none; int64 [n] to int64 [n]."""
        if not len(self):
            return np.full(len(keys), -1)
        if self._order is None:
            self._order = np.argsort(self._keys, kind="stable")
        at = np.searchsorted(self._keys, keys, sorter=self._order)
        rows = self._order[np.minimum(at, len(self) - 1)]
        return np.where(self._keys[rows] == keys, rows, -1)

    def rows(self) -> np.ndarray:
        """All rows [N], mapped from the disk: what is not touched is not read."""
        if not len(self):
            return np.empty(0, self.dtype)
        return np.memmap(self._path, self.dtype, "r", shape=len(self))


def write_rows(path: Path, keys: np.ndarray, rows: np.ndarray) -> None:
    """Writes rows [n] and their keys, int64 [n], for `RowStore.add_file`; several processes may write the same."""
    whole = np.empty(len(keys), _with_keys(rows.dtype))
    whole["key"], whole["row"] = keys, rows
    path.parent.mkdir(exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    make_own(temporary)
    with temporary.open("wb") as file:
        np.save(file, whole)
    publish_file(temporary, path)


def _with_keys(dtype: np.dtype) -> np.dtype:
    return np.dtype([("key", "<i8"), ("row", dtype)])


def erase_rows(folder: Path, keys: np.ndarray) -> dict[Path, str]:
    """Overwrites the rows of these keys in all stores below a folder, which nobody holds; {store: what was done}.

    A store of an older fastlt, which does not say how wide its rows are, is deleted: filter makes it again.
    """
    done = {}
    for left in folder.rglob("*_left/*.npy"):  # of a filter that was killed, which embeds these images again
        left.unlink()
    for file in sorted(folder.rglob("*.keys")):
        store, rows = file.with_suffix(""), file.with_suffix(".rows")
        stored = np.fromfile(file, np.int64)
        at = np.flatnonzero(np.isin(stored, keys))
        if not len(at):
            continue
        if not file.with_suffix(".width").is_file():
            file.unlink()
            rows.unlink()
            done[store] = "deleted, `fastlt filter` embeds again"
            continue
        width = int(file.with_suffix(".width").read_text())
        for path, what, size in ((rows, bytes(width), width), (file, np.int64(_NOBODY).tobytes(), 8)):  # keys last
            with open_own(path, "r+b") as stream:
                for row in at.tolist():
                    stream.seek(row * size)
                    stream.write(what)
                stream.flush()
                os.fsync(stream.fileno())
        done[store] = f"{len(at):,} rows overwritten"
    return done


def image_keys(sha256: Iterable[bytes]) -> np.ndarray:
    """Keys int64 [N] of crawled images: of the content, as ids come back in new catalogs."""
    return np.array([int.from_bytes(digest[:8], "little", signed=True) for digest in sha256], np.int64)


def file_keys(paths: Sequence[Path]) -> np.ndarray:
    """Keys int64 [N] of files, which change when a file does: of path, size and time of change."""
    keys = []
    for path in paths:
        stat = path.stat()
        about = f"{path}\0{stat.st_size}\0{stat.st_mtime_ns}".encode(errors="surrogateescape")
        keys.append(int.from_bytes(hashlib.sha256(about).digest()[:8], "little", signed=True))
    return np.array(keys, np.int64)
