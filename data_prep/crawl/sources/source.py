"""What an image source is: asked for a title, it tells page by page where images are, and nothing else."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

GetJson = Callable[[str, Mapping[str, str]], Awaitable[Any]]
"""`await get_json(url, query)` is the parsed JSON of an HTTP GET; it raises SourceError when there is none."""


class SourceError(ValueError):
    """A source that does not answer as its documentation says."""


@dataclass(frozen=True)
class Found:
    """One image: where it lies, where people see it, and on what terms it may be used (as `licenses.normalize`)."""

    url: str
    page: str = ""
    license: str = ""
    attribution: str = ""


@dataclass(frozen=True)
class Page:
    """One page of findings; `cursor` is where the next one begins, None after the last page."""

    found: list[Found]
    cursor: str | None


class ImageSource(Protocol):
    """An image source. Whatever paging needs is in the cursor, so that a search goes on in another process.

    Attributes:
        name, base_url: of its API.
        lookups: requests that find out what a category is called there.
        per_page: records that one request brings at most.
        media_host: where its images lie, as `Policies.key` has it, "" where that is anywhere.
    """

    name: str
    base_url: str
    lookups: int
    per_page: int
    media_host: str

    async def search(self, get_json: GetJson, title: str, cursor: str | None, limit: int) -> Page:
        """One page of images of what is called `title`.

        Args:
            get_json: makes the requests.
            title: of a category, as people say it; one that the source does not know has no images.
            cursor: of the page before, None for the first one.
            limit: how many records to ask for (a record may have several images); the source may allow fewer.

        Raises:
            SourceError: the source did not answer as documented.
        """
        ...
