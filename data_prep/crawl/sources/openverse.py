"""Openly licensed images that Openverse indexes (Openverse API v1, https://api.openverse.org/v1/)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from fastlt.data_prep.crawl.sources import answers
from fastlt.data_prep.crawl.sources.inaturalist import as_inaturalist_has_it
from fastlt.data_prep.crawl.sources.source import Found, GetJson, Page
from fastlt.licenses import allowed, family, normalize

NAME = "openverse"
PER_PAGE = 20  # more are for registered applications
MAX_PAGES = 20  # of any search
MAX_QUERY = 200  # characters


class Openverse:
    """Images of many collections that match the title as a phrase, at most 400 of them.

    Args:
        base_url: of the API.
        licenses: families that are allowed; default all.
    """

    name = NAME
    lookups, per_page = 0, PER_PAGE
    media_host = ""

    def __init__(self, base_url: str | None = None, licenses: Iterable[str] | None = None) -> None:
        self.base_url = (base_url or "https://api.openverse.org/v1").rstrip("/")
        self.licenses = allowed(licenses)

    async def search(self, get_json: GetJson, title: str, cursor: str | None, limit: int) -> Page:
        """One page, as `ImageSource.search`."""
        # Pages are counted in pages of this size, which therefore stays.
        at = json.loads(cursor) if cursor else {"page": 1, "size": min(limit, PER_PAGE)}
        phrase = title.replace('"', " ")[: MAX_QUERY - 2]
        query = {
            "q": f'"{phrase}"',
            "license": ",".join(sorted(name.removeprefix("cc-") for name in self.licenses)),
            "page_size": str(at["size"]),
            "page": str(at["page"]),
        }
        answer = await get_json(f"{self.base_url}/images/", query)
        found = [image for record in answers.records(NAME, answer, "results") for image in self._image(record)]
        last = min(answers.field(NAME, answer, "page_count", int), MAX_PAGES)
        onward = json.dumps({"page": at["page"] + 1, "size": at["size"]}) if at["page"] < last else None
        return Page(found, onward)

    def _image(self, record: dict[str, Any]) -> Iterator[Found]:
        url = answers.http_url(record.get("url"))
        license = normalize(answers.text(record, "license"), answers.text(record, "license_version"))
        kind = answers.text(record, "filetype").lower()
        # The type is named by extension, and unknown for many.
        named = f"image.{kind}" if kind else url
        if url and family(license) in self.licenses and answers.is_still_image(named):
            page = answers.http_url(record.get("foreign_landing_url"))
            yield Found(as_inaturalist_has_it(url), page, license, answers.text(record, "attribution"))
