"""The day of a dump: as the name of its file or folder says it, else its newest row, else when its file was written."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

_DAY = re.compile(r"(?<!\d)(20\d\d)-?([01]\d)-?([0-3]\d)(?!\d)")


class Snapshot:
    """What is known of the day.

    Args:
        place: the file or folder of the dump.
        file: one that was written with it.
        column: of days, in `look`'s batches.
    """

    def __init__(self, place: Path, file: Path, column: str = "") -> None:
        named = _DAY.search(place.absolute().name)
        self._named = "-".join(named.groups()) if named else ""
        self._written = datetime.fromtimestamp(file.stat().st_mtime, UTC).date().isoformat()
        self._column, self._newest = column, ""

    @property
    def day(self) -> str:
        """Year, month and day."""
        return self._named or self._newest or self._written

    def look(self, batch: pa.RecordBatch) -> None:
        """Sees more rows; a day of the future is somebody's mistake."""
        days = pc.utf8_slice_codeunits(batch.column(self._column), 0, 10)
        newest = pc.max(days.filter(pc.less_equal(days, self._written))).as_py()
        self._newest = max(self._newest, newest or "")
