"""A copy of an encoded data set on the node's own disk, to train from: a shared disk or a store serves many at once.

The copy is named after what it holds, so that another encode of the same name gets another one. Until it is whole it
is `.NAME.partial` beside it, and who is killed goes on with that.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fastlt.atomic import publish_folder, write_bytes
from fastlt.dataset.attribution import FILE as ATTRIBUTION
from fastlt.dataset.card import CARD
from fastlt.dataset.encoded import FORMATS, LABEL_SPACE, MANIFEST, Described, EncodedDataset
from fastlt.dataset.fetch import fetch, part_of
from fastlt.dataset.object_store import ObjectStore
from fastlt.dataset.transfer import Transfer
from fastlt.messages import in_bytes, listed
from fastlt.ownership import open_own, stranger
from fastlt.places import Place

_DIGITS = 12  # of a copy's checksum in its name


def described(place: Place) -> Described:
    """What the data set at a place says of itself; its images are not read.

    Raises:
        ValueError: there is none, it is damaged or truncated, or the store cannot be read.
    """
    return EncodedDataset.open(place) if isinstance(place, Path) else _Source(place).described


def opened(place: Place, stage_to: Path | None) -> EncodedDataset:
    """The data set at a place: where it is, if that is a folder, else its copy on this node, made if it is missing."""
    return EncodedDataset.open(place) if isinstance(place, Path) else staged(place, stage_to)


def copy_of(place: Place, stage_to: Path | None) -> EncodedDataset:
    """The data set at a place: where it is, if that is a folder, else the newest copy that this node has under its
    name. No store is asked.

    Raises:
        ValueError: it is damaged, or there is no copy.
    """
    if isinstance(place, Path):
        return EncodedDataset.open(place)
    copies = stage_folder(stage_to).glob(f"{_name_of(place)}-{'[0-9a-f]' * _DIGITS}")
    ours = [path for path in copies if not stranger(path)]
    if not ours:
        raise ValueError(f"{place} has no copy in {stage_folder(stage_to)}.")
    return EncodedDataset.open(max(ours, key=lambda path: path.stat().st_mtime), str(place))


def staged(place: Place, stage_to: Path | None) -> EncodedDataset:
    """The data set as it is read from its copy in the folder; called by every rank, of which one a node copies.

    Args:
        place: of the data set.
        stage_to: the folder; None for one of this user in $TMPDIR.

    Raises:
        ValueError: as `require_stageable`, or the data set is not what its manifest says, or somebody else's copy lies
            there, or a damaged one.
    """
    copy = _Copy(_Source(place), stage_to)
    if not copy.path.exists():
        with copy.lock():  # the other ranks of the node wait here, and find it done
            if not copy.path.exists():
                copy.require_room()
                copy.make()
    return copy.open()


def require_stageable(place: Place, stage_to: Path | None) -> None:
    """Raises ValueError where the data set cannot be copied into the folder: it has no images, or they lack room."""
    _Copy(_Source(place), stage_to).require_room()


def stage_folder(stage_to: Path | None) -> Path:
    """The folder of copies that was named, else one of this user in $TMPDIR."""
    return stage_to or Path(tempfile.gettempdir()) / f"fastlt-{os.getuid()}"


def _name_of(place: Place) -> str:
    """What copies of a data set are called."""
    last = str(place.resolve() if isinstance(place, Path) else place).rpartition("/")[2]
    return re.sub(r"[^\w.-]|^\.", "_", last[-60:])


@dataclass(frozen=True)
class _File:
    """A file to copy; where the manifest does not tell, its checksum is ""."""

    name: str
    num_bytes: int
    sha256: str = ""


class _Source:
    """An encoded data set that is to be copied.

    Attributes:
        place, store: of it.
        heads: its manifest and its label space, as they are.
        described: what they say.
    """

    def __init__(self, place: Place) -> None:
        self.place = place
        self.store = ObjectStore(place)
        self.heads = {MANIFEST: self._head(MANIFEST), LABEL_SPACE: self._head(LABEL_SPACE)}
        with tempfile.TemporaryDirectory() as folder:
            for name, content in self.heads.items():
                Path(folder, name).write_bytes(content)
            try:
                told = Described.read(Path(folder))
            except ValueError as error:
                raise ValueError(str(error).replace(folder, str(place))) from None
        self.described = Described(str(place), told.format, told.label_space, told.splits, told.max_pixels)
        if told.format == "plain":
            raise ValueError(f"{place} only names its images: encode it with --format ffcv, then copy it.")
        self.files = list(self._found())

    def _head(self, name: str) -> bytes:
        content = self.store.read_small(name)
        if content is None:
            has = "is not an encoded data set: use `fastlt encode`" if name == MANIFEST else f"has no {name}"
            raise ValueError(f"{self.place} {has}.")
        return content

    def _found(self) -> Iterator[_File]:
        """The files of its splits, with indexes and whom images are owed to, after a look at what is there."""
        suffix = FORMATS[self.described.format].SUFFIX
        for split in {split.file: split for split in self.described.splits.values()}.values():
            if Path(split.file).suffix != suffix:  # nor is it one of ours, which it would replace
                raise ValueError(f"{self.place}/{MANIFEST} is damaged, encode again: {split.file} is no {suffix} file.")
            if (size := self.store.size(split.file)) != -1:
                self.described.require_size(split, size or 0)
            yield _File(split.file, split.num_bytes, split.sha256)
            if self.described.format == "webdataset":
                index = Path(split.file).with_suffix(".idx").name
                size = self.store.size(index)
                if size is None or not 0 <= size <= split.num_bytes:
                    raise ValueError(f"{self.place}/{index} is not the index of {split.file}: encode again.")
                yield _File(index, size)
        for name in (ATTRIBUTION, CARD):
            if (size := self.store.size(name)) is not None and size >= 0:
                yield _File(name, size)

    @property
    def num_bytes(self) -> int:
        """Of all files."""
        return sum(file.num_bytes for file in self.files) + sum(map(len, self.heads.values()))


class _Copy:
    """A copy of a data set in a folder of this node, made or yet to be made.

    Attributes:
        path: of it, once it is whole.
    """

    def __init__(self, source: _Source, stage_to: Path | None) -> None:
        self._source, self._folder = source, stage_folder(stage_to)
        digest = hashlib.sha256(b"\0".join(source.heads.values())).hexdigest()[:_DIGITS]
        self.path = self._folder / f"{_name_of(source.place)}-{digest}"
        self._partial = self._folder / f".{self.path.name}.partial"

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Holds the copy for this process, once no other one does; the kernel frees it however the process ends."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self._require_ours(self._folder if self._folder == stage_folder(None) else self.path)
        with open_own(self._folder / f".{self.path.name}.lock", "a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if os.environ.get("LOCAL_RANK", "0") == "0":
                    print(f"another process copies {self._source.place} to {self.path}; it is waited for", flush=True)
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def open(self) -> EncodedDataset:
        """The data set as it is read from here.

        Raises:
            ValueError: it is somebody else's, or damaged.
        """
        self._require_ours(self.path)
        try:
            return EncodedDataset.open(self.path, self._source.described.where)
        except ValueError as error:
            raise ValueError(
                f"{self.path}, the copy of {self._source.place}, is damaged; remove it. ({error})"
            ) from None

    def require_room(self) -> None:
        """Raises ValueError where what is missing is more than the disk has free."""
        if self.path.exists():
            return
        missing = self._source.num_bytes - self._bytes_there()
        there = next(parent for parent in (self._folder, *self._folder.absolute().parents) if parent.exists())
        if missing > (free := shutil.disk_usage(there).free):
            copies = sorted(path.name for path in self._folder.glob("*-*/")) if self._folder.is_dir() else []
            old = f" (there are copies of {listed(copies)}, none of which is removed by itself)" if copies else ""
            raise ValueError(
                f"{self._folder} has room for {in_bytes(free)}, but of {self._source.place} {in_bytes(missing)} are to "
                f"be copied there: make room{old}, or name another disk with data.stage_to."
            )

    def make(self) -> None:
        """Makes it, going on where an earlier process was killed.

        Raises:
            ValueError: a file is not what the manifest says, the store cannot be read, or the disk is full.
        """
        self._require_ours(self._partial)
        self._partial.mkdir(exist_ok=True)
        said = f"copying {self._source.place} to {self.path} on {socket.gethostname()}"
        transfer = Transfer(said, self._source.num_bytes, self._bytes_there())
        try:
            for file in self._source.files:
                if not self._is_there(file):
                    fetch(self._source.store, self._partial / file.name, file.num_bytes, file.sha256, transfer)
            for name, content in self._source.heads.items():
                write_bytes(self._partial / name, content)
            publish_folder(self._partial, self.path)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise ValueError(
                f"the disk of {self._folder} is full, {in_bytes(self._bytes_there())} of {self._source.place} are "
                "there: make room, and the same command goes on from there."
            ) from None
        transfer.end()

    def _is_there(self, file: _File) -> bool:
        path = self._partial / file.name
        return path.is_file() and path.stat().st_size == file.num_bytes

    def _bytes_there(self) -> int:
        """What an earlier process left of the copy, or this one has."""
        whole = {self._partial / file.name: self._is_there(file) for file in self._source.files}
        paths = [path if is_there else part_of(path) for path, is_there in whole.items()]
        return sum(path.stat().st_size for path in paths if path.exists())

    def _require_ours(self, path: Path) -> None:
        """Raises ValueError for what another user has put there, which would be read, or gone on with."""
        if not os.path.lexists(path):
            return
        if owner := stranger(path):
            raise ValueError(f"{path} belongs to {owner}, not to you: name another folder with data.stage_to.")
        if path == self._partial and (path.is_symlink() or any(entry.is_symlink() for entry in os.scandir(path))):
            raise ValueError(f"{path} is or holds a link, so no copy of yours left it: see who made it, and remove it.")
