"""An encoded data set, copied into an object store: the manifest last, so that nothing looks whole before it is."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from fastlt.dataset import attribution
from fastlt.dataset.card import CARD
from fastlt.dataset.encoded import LABEL_SPACE, MANIFEST, EncodedDataset
from fastlt.dataset.object_store import writable_store
from fastlt.dataset.transfer import Transfer

_MARK = "upload.begun"  # the checksum of the manifest whose files are being uploaded


class Upload:
    """Of a data set in a folder, which may be yet to be made.

    Args:
        folder: of the data set.
        url: of its place in a store.

    Raises:
        ValueError: that is no place to write to, or the store cannot be asked.
    """

    def __init__(self, folder: Path, url: str) -> None:
        self._folder, self._store = folder, writable_store(url)
        self._place = self._store.url
        there = self._store.read_small(MANIFEST)
        if there is not None and not folder.exists():
            raise ValueError(f"{self._place} has an encoded data set already: choose another place, or remove it.")

    def run(self) -> None:
        """Uploads what is not there yet, each file as one object.

        Raises:
            ValueError: there is another data set, or the store cannot be written to.
        """
        data = EncodedDataset.open(self._folder)
        if data.format == "plain":
            raise ValueError(f"{self._folder} only names its images: encode it with --format ffcv, then upload it.")
        manifest = (self._folder / MANIFEST).read_bytes()
        files, is_ours = list(_files(data)), self._is_ours(manifest)
        large = files[1:] if is_ours else []
        there = [file for file in large if self._store.size(file.name) == file.stat().st_size]
        num_bytes, bytes_there = (sum(file.stat().st_size for file in some) for some in (files, there))
        transfer = Transfer(f"uploading {self._folder} to {self._place}", num_bytes, bytes_there)
        for file in files:
            if file not in there:
                self._put(file, transfer)
        self._store.write_small(MANIFEST, manifest)
        with suppress(ValueError):  # who may write need not be allowed to remove
            self._store.remove(_MARK)
        transfer.end()

    def _is_ours(self, manifest: bytes) -> bool:
        """Whether what is there was begun with this manifest; says so there, for the next time.

        Raises:
            ValueError: there is another data set.
        """
        there = self._store.read_small(MANIFEST)
        if there == manifest:
            return True
        if there is not None and not manifest.startswith(there):  # the beginning of ours: a disk, not a store
            raise ValueError(f"{self._place} has another encoded data set: choose another place, or remove it.")
        digest = hashlib.sha256(manifest).hexdigest().encode()
        if self._store.read_small(_MARK) == digest:
            return True
        self._store.write_small(_MARK, digest)
        return False

    def _put(self, file: Path, transfer: Transfer) -> None:
        size, told = file.stat().st_size, 0

        def tell(num_bytes: int) -> None:
            nonlocal told
            num_bytes = min(num_bytes, size - told)  # a part that was sent again counts once
            told += num_bytes
            transfer.add(num_bytes)

        self._store.put(file, file.name, tell)
        tell(size)
        if (there := self._store.size(file.name)) != size:
            raise ValueError(f"{self._place}/{file.name} has {there or 0:,} bytes, {file} has {size:,}: upload again.")


def _files(data: EncodedDataset) -> Iterator[Path]:
    """All files but the manifest, the label space first; whom to credit goes where the images go."""
    yield data.path / LABEL_SPACE
    yield from (file for name in (attribution.FILE, CARD) if (file := data.path / name).is_file())
    for file in sorted({data.path / split.file for split in data.splits.values()}):
        if data.format == "webdataset":
            yield file.with_suffix(".idx")
        yield file
