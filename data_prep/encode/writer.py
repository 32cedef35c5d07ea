"""One split's file, appended to in the order of its images, with a journal from which a killed encode goes on.

Processes, here or on a cluster, make what is stored of some images each; this process appends it. A few times a second
it flushes the file to the disk, then the journal: a line for each such chunk, which says where the chunk ends and what
it holds. What lies behind the last line is cut off when the encode goes on, so in the end the bytes are those of an
unbroken one.
"""

from __future__ import annotations

import json
import os
import time
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Executor, Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from pathlib import Path
from typing import Any, BinaryIO

from tqdm import tqdm

from fastlt.data_prep.encode.options import EncodeOptions
from fastlt.data_prep.encode.stored_image import stored_images
from fastlt.dataset.images import ImageName
from fastlt.dataset.stored import Layout, StoredImage
from fastlt.ownership import open_own

_CHUNK = 32  # images that a process answers with at once
_SECONDS_BETWEEN_COMMITS = 0.2


class SplitWriter:
    """Writes `file`, from where its journal says that it was left.

    Args:
        file: to write; the journal lies beside it, and is left there.
        layout: of the file.
        images: N image names.
        retry_broken: forget what came after the first broken image.
    """

    def __init__(self, file: Path, layout: Layout, images: Sequence[ImageName], retry_broken: bool) -> None:
        self.file, self.images = file, images
        self.journal = file.with_suffix(".journal")
        self._layout = layout
        self.done, self._end, self._journal_bytes = 0, layout.start, 0
        size = file.stat().st_size if file.exists() else 0
        for line in self._lines():
            if line["end"] > size or (retry_broken and line["broken"]):
                break
            self.done, self._end, self._journal_bytes = line["done"], line["end"], line["journal_bytes"]

    def write(self, pool: Executor, processes: int, options: EncodeOptions) -> dict[str, str]:
        """Writes what is missing, and all that is not images; returns {image: why} of the broken ones, left out.

        Args:
            pool: has images read.
            processes: in that pool.
            options: how images are stored.

        Raises:
            ValueError: a process of the pool died.
            OSError: the disk is full, or fails otherwise.
        """
        with open_own(self.file, "r+b") as file, open_own(self.journal, "r+b") as journal:
            file.truncate(self._end)
            file.seek(self._end)
            journal.truncate(self._journal_bytes)
            journal.seek(self._journal_bytes)
            with closing(self._chunks(pool, processes, options)) as chunks:  # while the pool is there to cancel in
                self._append(file, journal, chunks)
            broken: dict[str, str] = {}
            for line in self._lines():
                broken |= {str(self.images[int(index)]): reason for index, reason in line["broken"].items()}
            if len(broken) < len(self.images):
                self._layout.finish(file, self._end, self._records())
        return broken

    def _append(self, file: BinaryIO, journal: BinaryIO, chunks: Iterator[list[StoredImage | str]]) -> None:
        lines: list[str] = []
        done, end, committed = self.done, self._end, time.monotonic()
        progress = tqdm(total=len(self.images), initial=done, unit="image", disable=None)
        for found in chunks:
            records, broken = [], {}
            for index, image in enumerate(found, done):
                if isinstance(image, str):
                    broken[index] = image
                else:
                    record, end = self._layout.append(file, end, index, image)
                    records.append(record)
            done += len(found)
            progress.update(len(found))
            lines.append(json.dumps({"done": done, "end": end, "records": records, "broken": broken}) + "\n")
            if done == len(self.images) or time.monotonic() - committed > _SECONDS_BETWEEN_COMMITS:
                for stream, content in ((file, b""), (journal, "".join(lines).encode())):
                    stream.write(content)
                    stream.flush()
                    os.fsync(stream.fileno())
                self.done, self._end, committed = done, end, time.monotonic()
                lines.clear()
        progress.close()

    def _chunks(
        self, pool: Executor, processes: int, options: EncodeOptions
    ) -> Generator[list[StoredImage | str], None, None]:
        """What is stored of the images that are missing, in order; a few chunks ahead are being made."""
        waiting: deque[tuple[int, Future]] = deque()
        try:
            for start in range(self.done, len(self.images), _CHUNK):
                names = self.images[start : start + _CHUNK]
                waiting.append((start, pool.submit(stored_images, names, options)))
                if len(waiting) > 2 * processes:
                    yield waiting.popleft()[1].result()
            while waiting:
                yield waiting.popleft()[1].result()
        except BrokenProcessPool:
            raise ValueError(
                f"a process that reads images died after {self.done:,} of the {len(self.images):,} images of "
                f"{self.file.stem}: did it run out of memory? The same command continues from there; try fewer "
                "--workers."
            ) from None
        finally:
            for _, future in waiting:
                future.cancel()

    def _lines(self) -> Iterator[dict[str, Any]]:
        """The journal as far as it is whole, each line with where it ends."""
        if not self.journal.exists():
            return
        journal_bytes = 0
        with self.journal.open("rb") as lines:
            for text in lines:
                journal_bytes += len(text)
                try:
                    yield json.loads(text) | {"journal_bytes": journal_bytes}
                except ValueError:  # the last line, half of which reached the disk
                    return

    def _records(self) -> Iterator[Any]:
        for line in self._lines():
            yield from line["records"]
