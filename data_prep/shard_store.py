"""The finished shards of a catalog, in an object store: sent there, and brought back beside the catalog.

A shard there is `00000.tar` with `00000.tar.sha256` (as sha256sum writes it), which comes last: without it, it is not
whole. Finished shards do not change, so what is there is not sent again, but for those in which `fastlt remove` has
overwritten images.
"""

from __future__ import annotations

import errno
import hashlib
import re
import shutil
from pathlib import Path

from fastlt.data_prep.catalog import Catalog
from fastlt.dataset.fetch import fetch, part_of
from fastlt.dataset.object_store import ObjectStore, writable_store
from fastlt.dataset.transfer import Transfer
from fastlt.messages import in_bytes
from fastlt.places import as_url


def push(catalog: Catalog, url: str) -> int:
    """Sends what is not there yet; returns how many shards are there then.

    Raises:
        ValueError: the store cannot be written to, has shards of another catalog, or one is missing here.
    """
    store, shards = writable_store(url), catalog.shards("done")
    missing = []
    for row in shards:
        path, mark = catalog.shard_path(row["id"]), catalog.erased_mark(row["id"])
        said, there = _told(store, path), store.size(path.name)
        is_whole = said != "" and there is not None
        if not path.exists():
            if not is_whole:
                raise ValueError(f"{path} is neither here nor at {store.url}: restore it.")
            _require_erased(store, path, mark, said)
            continue
        _require_long(path, row["num_bytes"])
        if is_whole and mark.exists():
            is_whole = said == _sha256(path)
        if is_whole and there != (here := path.stat().st_size):
            raise ValueError(
                f"{store.url}/{path.name} has {there:,} bytes, {path} has {here:,}: it is of another catalog, or "
                "damaged; choose another place, or remove it there."
            )
        if not is_whole:
            missing.append(path)
    transfer = Transfer(f"sending {len(missing):,} shards to {store.url}", sum(p.stat().st_size for p in missing), 0)
    for path in missing:
        checksum = _sha256(path)  # of what is sent, or of before: an image that is removed meanwhile has it sent again
        statistics = path.with_name(f"{path.stem}_stats.json")
        if statistics.exists():
            store.put(statistics, statistics.name, lambda _: None)
        store.put(path, path.name, transfer.add)
        store.write_small(_checksum_of(path), f"{checksum}  {path.name}\n".encode())
    transfer.end()
    return len(shards)


def pull(catalog: Catalog, url: str) -> int:
    """Brings what is not here; returns how many shards are here then.

    Raises:
        ValueError: a shard is not there, or not whole, or has images that were removed since, or they lack room.
    """
    store, folder = ObjectStore(as_url(url)), catalog.shards_folder
    folder.mkdir(exist_ok=True)
    rows = catalog.shards("done")
    missing: dict[Path, tuple[int, str]] = {}
    for row in rows:
        path = catalog.shard_path(row["id"])
        if path.exists():
            _require_long(path, row["num_bytes"])
        else:
            missing[path] = _whole(store, path, row["num_bytes"])
            _require_erased(store, path, catalog.erased_mark(row["id"]), missing[path][1])
    needed = sum(num_bytes for num_bytes, _ in missing.values())
    there = sum(part_of(path).stat().st_size for path in missing if part_of(path).exists())
    if needed - there > (free := shutil.disk_usage(folder).free):
        raise ValueError(f"{folder} has room for {in_bytes(free)}, {in_bytes(needed - there)} are to come: make room.")
    transfer = Transfer(f"bringing {len(missing):,} shards from {store.url} to {folder}", needed, there)
    for done, (path, (num_bytes, sha256)) in enumerate(missing.items()):
        try:
            fetch(store, path, num_bytes, sha256, transfer)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise ValueError(
                f"the disk of {folder} is full, {done:,} of {len(missing):,} shards have come: make room, and the same "
                "command goes on from there."
            ) from None
    transfer.end()
    return len(rows)


def _whole(store: ObjectStore, path: Path, num_bytes: int) -> tuple[int, str]:
    """Bytes and checksum of a shard there, of which the catalog uses `num_bytes`."""
    checksum, there = _told(store, path), store.size(path.name)
    if not checksum or there is None or there < num_bytes:
        raise ValueError(f"{store.url} has no whole {path.name}: `fastlt push` the catalog from where its shards are.")
    return there, checksum


def _told(store: ObjectStore, path: Path) -> str:
    """The checksum that lies beside a shard there; "" where there is none."""
    found = re.match(rb"[0-9a-f]{64}\b", store.read_small(_checksum_of(path)) or b"")
    return found[0].decode() if found else ""


def _require_long(path: Path, num_bytes: int) -> None:
    """Raises ValueError for a shard that ends before its last image."""
    if (here := path.stat().st_size) < num_bytes:
        raise ValueError(
            f"{path} is damaged: it has {here:,} bytes, and its images take {num_bytes:,}. Restore it, or remove it "
            "and `fastlt pull` it from where it was pushed to."
        )


def _require_erased(store: ObjectStore, path: Path, mark: Path, sha256: str) -> None:
    """Raises ValueError for a shard there that has images which were overwritten here, where it is no more."""
    if mark.exists() and mark.read_text().strip() not in ("", sha256):
        raise ValueError(
            f"{store.url}/{path.name} is not as `fastlt remove` left {path}, so images that were removed may be in it: "
            f"restore the latter and push it, or delete {mark} if more was removed elsewhere and pushed from there."
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _checksum_of(path: Path) -> str:
    return f"{path.name}.sha256"
