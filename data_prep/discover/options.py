"""What discover is told: which model is asked, how patiently, and for how much."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit
from urllib.request import getproxies

from tyro.conf import arg

from fastlt.data_prep.discover.prompt import DEFAULT_PROMPT
from fastlt.foreign import passwords_of, shown_url
from fastlt.label_space import FEW_SHOT_BELOW, MANY_SHOT_ABOVE
from fastlt.messages import one_line
from fastlt.options import OptionalInt, OptionalText, OptionError


@dataclass(frozen=True)
class EndpointOptions:
    """Who is asked, and how patiently."""

    model: Annotated[str, arg(metavar="NAME", help_behavior_hint="")] = ""
    """The model's name at the endpoint (needed where there is no --taxonomy)."""
    base_url: Annotated[str | None, arg(metavar="URL", help_behavior_hint="")] = None
    """An OpenAI-compatible server, such as http://localhost:8000/v1 (default: $OPENAI_BASE_URL, or OpenAI)."""
    key_env: str = "OPENAI_API_KEY"
    """Environment variable that holds the key."""
    concurrency: int = 8
    """Questions at a time."""
    max_tokens_total: OptionalInt = None
    """Tokens, prompts and answers, that the catalog may cost over all runs (default: no limit). A question is taken to
    cost as much as the most expensive so far, so only the first ones can pass the limit."""
    max_tokens: OptionalInt = None
    """Tokens that one answer may take, thoughts included (default: as many as the server allows)."""
    attempts: int = 6
    """Attempts per question, while the server fails."""
    max_wait: float = 600.0
    """Seconds to wait for a server that says it is busy."""
    timeout: float = 300.0
    """Seconds to wait for one answer."""

    def __post_init__(self) -> None:
        for name in ("concurrency", "max_tokens_total", "max_tokens", "attempts", "max_wait", "timeout"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise OptionError(f"--{name.replace('_', '-')} is {value}; it must be 1 or more.")
        url = self.url
        if not self.model:
            if self.base_url:
                raise OptionError("--base-url: say which model there is asked, by --model NAME.")
            return
        if not (self.key.isascii() and self.key.isprintable()):
            raise OptionError(f"what {self.key_env} holds is no key: it has letters that no HTTP header can have.")
        if url is not None and not _is_http(url):
            raise OptionError(
                f"--base-url {one_line(shown_url(url), 200)} is not an http URL such as http://localhost:8000/v1."
            )

    def require_someone(self) -> None:
        """Raises OptionError where there is no one to ask."""
        if not self.key and self.url is None:
            raise OptionError(
                f"there is no one to ask: set {self.key_env} to the key of a hosted model, "
                "or give --base-url of a server, such as http://localhost:8000/v1."
            )

    @property
    def url(self) -> str | None:
        """Where the server is; None is OpenAI's."""
        return self.base_url or os.environ.get("OPENAI_BASE_URL") or None

    @property
    def key(self) -> str:
        """The key, sent as the bearer token; "" where there is none."""
        return os.environ.get(self.key_env, "").strip()

    @property
    def secrets(self) -> tuple[str, ...]:
        """What the endpoint is sent and nobody else may see."""
        urls = (self.url or "", *getproxies().values())
        return (self.key, *(secret for url in urls for secret in passwords_of(url)))


def _is_http(url: str) -> bool:
    try:
        parts = urlsplit(url)
        is_whole = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # such as a port that is no number
        return False
    return is_whole and url.isprintable() and " " not in url


@dataclass(frozen=True)
class DiscoverOptions:
    """What is asked for."""

    categories: Annotated[tuple[int, ...], arg(metavar="INT [INT INT]")] = (3, 5, 8)
    """Categories wanted for classes with over 100, 20 to 100, and under 20 images; one number is for all."""
    rounds: int = 4
    """Times that a class is asked about while it lacks categories."""
    prompt: Annotated[Path, arg(metavar="FILE", help_behavior_hint="")] = field(default=DEFAULT_PROMPT)
    """A prompt file of your own (default: data_prep/discover/prompt.md, which explains the format)."""

    def __post_init__(self) -> None:
        shown = " ".join(map(str, self.categories))
        if len(self.categories) not in (1, 3):
            raise OptionError(f"--categories {shown} is neither one whole number nor three, such as 3 5 8.")
        many, medium, few = self.categories * (3 // len(self.categories))
        if not 0 <= many <= medium <= few or few == 0:
            raise OptionError(
                f"--categories {shown} is for classes with many, medium and few images, and must not fall from left "
                "to right: 3 5 8 is one."
            )
        if self.rounds < 1:
            raise OptionError(f"--rounds is {self.rounds}; it must be 1 or more.")

    def wanted(self, count: int) -> int:
        """Categories for a class with so many training images."""
        many, medium, few = self.categories * (3 // len(self.categories))
        return many if count > MANY_SHOT_ABOVE else few if count < FEW_SHOT_BELOW else medium


@dataclass(frozen=True)
class TaxonomyOptions:
    """Taxonomies that are looked into, without a language model or before one is asked."""

    taxonomy: Annotated[tuple[Path, ...], arg(metavar="FILE [FILE ...]", help_behavior_hint="")] = ()
    """Taxonomies that name siblings of the target classes, of the same genus, then family: iNaturalist's taxa.csv.gz
    or the folder of its dump, a Darwin Core archive or its table of taxa, iNaturalist's JSON with ranks, or JSON
    {class: [parent, grandparent, ...]}. Categories that none of them knows are marked."""
    photos_column: OptionalText = None
    """The column, or the field of JSON, that says how many photos or observations there are of a taxon."""
    min_photos: int = 100
    """Photos that a sibling must have, where they are counted."""

    def __post_init__(self) -> None:
        if self.photos_column and not self.taxonomy:
            raise OptionError("--photos-column is about a taxonomy: name it with --taxonomy.")
        if self.min_photos < 0:
            raise OptionError(f"--min-photos is {self.min_photos}; it must be 0 or more.")
