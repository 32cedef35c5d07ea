"""How far a class is with discover, kept beside it in the catalog, so that a second run asks the same questions."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from dataclasses import dataclass

from fastlt.data_prep.catalog import Catalog
from fastlt.data_prep.discover.prompt import Prompt

UNREADABLE = "the model does not answer with the JSON that it was asked for"
"""Why a class is short that the next run asks about again."""


@dataclass
class Progress:
    """How far one class is.

    Attributes:
        settings: digest of what the rounds were asked with.
        rounds: rounds that were answered.
        refused: titles that were named for the class and not taken.
    """

    settings: str
    rounds: int
    refused: list[str]

    @classmethod
    def of(cls, catalog: Catalog, target: sqlite3.Row) -> Progress:
        """A class's, as the catalog has it."""
        kept = catalog.json_setting(f"discover {target['name']}")
        try:
            return cls(**kept) if kept else cls("", 0, [])
        except TypeError:
            raise ValueError(
                f"{catalog.path} cannot be used as a catalog: how far {target['name']!r} was asked is damaged."
            ) from None

    def keep(self, catalog: Catalog, target: sqlite3.Row) -> None:
        """Writes it down."""
        catalog.remember(f"discover {target['name']}", json.dumps(vars(self), ensure_ascii=False))

    def settles(self, target: sqlite3.Row, settings: str, num_kept: int, wanted: int) -> bool:
        """Whether the class is left in peace: it was asked about with these settings, to the end."""
        is_through = target["state"] == ("short" if num_kept < wanted else "done")
        return is_through and self.settings == settings and not target["reason"].startswith(UNREADABLE)


def settings_of(model: str, prompt: Prompt, rounds: int, wanted: int) -> str:
    """Digest of what a class is asked with."""
    return hashlib.sha256(json.dumps([model, prompt.sections, rounds, wanted]).encode()).hexdigest()[:16]


def named(catalog: Catalog, target: sqlite3.Row) -> list[tuple[str, str]]:
    """(title, state) of the target's neighbors, in an order that stays."""
    return [(row["title"], row["state"]) for row in catalog.neighbors_of(target["id"])]
