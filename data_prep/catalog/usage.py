"""What hosts were asked for lately, so that a restart keeps to the limits of a day."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from typing import Any

from fastlt.data_prep.catalog.database import Database


class Usage(Database):
    """The table `used`."""

    def used(self, host: str) -> list[tuple[int, int, int]]:
        """(slot, requests, bytes) of a host, by slot."""
        query = "SELECT slot, requests, num_bytes FROM used WHERE host = ? ORDER BY slot"
        return [tuple(row) for row in self._run(query, [host])]

    def used_by_host(self) -> dict[str, tuple[int, int]]:
        """{host: (requests, bytes)}, as far as it is remembered."""
        query = "SELECT host, sum(requests), sum(num_bytes) FROM used GROUP BY host"
        return {host: (requests, num_bytes) for host, requests, num_bytes in self._run(query)}

    def add_used(self, rows: Iterable[tuple[str, int, int, int]]) -> None:
        """Adds (host, slot, requests, bytes), each of which may be negative where too much was put down."""
        self.connection.executemany(
            "INSERT INTO used VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET requests = requests + excluded.requests,"
            " num_bytes = num_bytes + excluded.num_bytes",
            rows,
        )

    def all_used(self) -> sqlite3.Cursor:
        """(host, slot, requests, bytes) of all hosts, as `copy_used` takes them."""
        return self._run("SELECT host, slot, requests, num_bytes FROM used")

    def copy_used(self, rows: Iterable[tuple[Any, ...]]) -> None:
        """Enters what another catalog has of hosts that are asked from there, or were: the higher count is right."""
        self.connection.executemany(
            "INSERT INTO used VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET requests = max(requests,"
            " excluded.requests), num_bytes = max(num_bytes, excluded.num_bytes)",
            rows,
        )

    def settle_used(self, first: int, last: int) -> None:
        """Forgets slots before the first, and takes those after the last, which is now, for the last."""
        with self.transaction():
            self._run("DELETE FROM used WHERE slot < ?", [first])
            self._run(
                "INSERT INTO used SELECT host, ?1, sum(requests), sum(num_bytes) FROM used WHERE slot > ?1"
                " GROUP BY host ON CONFLICT DO UPDATE SET requests = requests + excluded.requests,"
                " num_bytes = num_bytes + excluded.num_bytes",
                [last],
            )
            self._run("DELETE FROM used WHERE slot > ?", [last])
