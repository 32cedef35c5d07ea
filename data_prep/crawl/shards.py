"""WebDataset shards that grow by committed steps: what the catalog says is in them is in them, whatever happens.

An open shard is `.00000.tar.partial`, valid up to the catalog's num_bytes; bytes beyond were not committed and are cut
off. A finished one is `00000.tar` with statistics beside it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

from fastlt.atomic import new_file, publish_file
from fastlt.data_prep.catalog import Catalog
from fastlt.dataset.tar_members import TAR_END, append_member, member_bytes
from fastlt.ownership import open_own


class ShardWriter:
    """Appends samples to the catalog's open shard.

    `add` writes, `sync` makes it lasting; the caller then commits `shard`, `num_images` and `num_bytes` with the rows
    of the images, in one transaction.
    """

    def __init__(self, catalog: Catalog, images_per_shard: int) -> None:
        self._catalog, self._images_per_shard = catalog, images_per_shard
        self._file: BinaryIO | None = None
        catalog.shards_folder.mkdir(exist_ok=True)
        rows = catalog.shards("open")
        if rows:
            self.shard, self.num_images, self.num_bytes = (rows[0][key] for key in ("id", "num_images", "num_bytes"))
            self._go_on()
        else:
            self._begin()

    def _begin(self) -> None:
        """The next shard; its file is made when something is added."""
        self.shard, self.num_images, self.num_bytes = self._catalog.next_shard(), 0, 0
        self._partial.unlink(missing_ok=True)  # begun by a crawl that was killed before anything was committed

    def _go_on(self) -> None:
        """Opens the shard of an earlier run, without what was not committed."""
        final = self._catalog.shard_path(self.shard)
        if final.exists():  # finished, but that was not committed
            final.rename(self._partial)
        size = self._partial.stat().st_size if self._partial.exists() else 0
        if size < self.num_bytes:
            raise ValueError(f"{self._partial} is shorter than its catalog says: restore it, or start a new catalog.")
        if self._catalog.fence:
            self._leave_to_others()
        self._file = open_own(self._partial, "r+b")
        self._file.truncate(self.num_bytes)
        self._file.seek(self.num_bytes)

    def _leave_to_others(self) -> None:
        """Goes on in a file of its own: a process that stood still may wake up, and write on in the old one."""
        with new_file(self._partial) as copy, self._partial.open("rb") as old, copy.open("wb") as new:
            shutil.copyfileobj(old, new)

    @property
    def _partial(self) -> Path:
        return self._catalog.open_shard_path(self.shard)

    @property
    def room(self) -> int:
        """How many more images belong into this shard."""
        return max(0, self._images_per_shard - self.num_images)

    def add(self, key: str, members: Mapping[str, bytes]) -> dict[str, int]:
        """Appends one sample; returns the offset of each member's bytes."""
        self._file = self._file or open_own(self._partial, "r+b")
        offsets = {}
        for extension, content in members.items():
            offsets[extension] = self.num_bytes + append_member(self._file, f"{key}.{extension}", content)
            self.num_bytes = offsets[extension] + member_bytes(content)
        self.num_images += 1
        return offsets

    def sync(self) -> None:
        """Everything that was added is on the disk."""
        if self._file:
            self._file.flush()
            os.fsync(self._file.fileno())

    def finish(self) -> None:
        """Closes the shard, all of which is committed, and begins the next one."""
        if not self._file:
            return
        with self._catalog.transaction():
            pass  # but for the fence: another process may go on with this shard
        final = self._catalog.shard_path(self.shard)
        self._catalog.write_shard_statistics(self.shard)
        self._file.write(TAR_END)
        self.close()
        publish_file(self._partial, final)
        self._catalog.finish_shard(self.shard)
        self._begin()

    def close(self) -> None:
        """Leaves the shard as it is."""
        if self._file:
            self._file.close()
            self._file = None
