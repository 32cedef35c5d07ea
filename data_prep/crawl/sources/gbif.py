"""Images of occurrences in GBIF (GBIF API v1, https://techdocs.gbif.org/en/openapi/)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from fastlt.data_prep.crawl.sources import answers
from fastlt.data_prep.crawl.sources.inaturalist import as_inaturalist_has_it
from fastlt.data_prep.crawl.sources.source import Found, GetJson, Page
from fastlt.licenses import allowed, family, normalize

NAME = "gbif"
PER_PAGE = 300  # the API's limit
DEEPEST = 100_000  # the API refuses an offset and limit which exceed it together
BACKBONE = "d7dddbf4-2cf0-4f39-9b2a-bb099caae36c"  # the taxonomy whose keys occurrences are searched by


class Gbif:
    """Still images of a taxon's occurrences, observed or in collections.

    Args:
        base_url: of the API.
        licenses: families that are allowed; default all. Media without a license of their own are never found.
    """

    name = NAME
    lookups, per_page = 2, PER_PAGE
    media_host = ""

    def __init__(self, base_url: str | None = None, licenses: Iterable[str] | None = None) -> None:
        self.base_url = (base_url or "https://api.gbif.org/v1").rstrip("/")
        self.licenses = allowed(licenses)

    async def search(self, get_json: GetJson, title: str, cursor: str | None, limit: int) -> Page:
        """One page, as `ImageSource.search`."""
        at: dict[str, Any] = {"offset": 0}
        at |= json.loads(cursor) if cursor else {"taxon": await self._taxon(get_json, title)}
        size = min(limit, PER_PAGE, DEEPEST - at["offset"])
        if at["taxon"] is None or size <= 0:
            return Page([], None)
        query = {
            "taxonKey": str(at["taxon"]),
            "mediaType": "StillImage",
            "limit": str(size),
            "offset": str(at["offset"]),
        }
        answer = await get_json(f"{self.base_url}/occurrence/search", query)
        occurrences = answers.records(NAME, answer, "results")
        found = [image for occurrence in occurrences for image in self._images(occurrence)]
        if answers.field(NAME, answer, "endOfRecords", bool) or not occurrences:
            return Page(found, None)
        return Page(found, json.dumps({"taxon": at["taxon"], "offset": at["offset"] + size}))

    async def _taxon(self, get_json: GetJson, title: str) -> int | None:
        """The key of the accepted taxon with exactly this scientific or, failing that, vernacular name."""
        answer = await get_json(f"{self.base_url}/species/match", {"name": title, "strict": "true"})
        match = answers.field(NAME, answer, "matchType", str)
        # A doubtful name is mostly a forgotten one that happens to be an English word.
        if match == "EXACT" and answers.text(answer, "status") != "DOUBTFUL":
            key = answer.get("acceptedUsageKey") or answer.get("usageKey")
            if isinstance(key, int):
                return key
        query = {"q": title, "qField": "VERNACULAR", "datasetKey": BACKBONE, "status": "ACCEPTED", "limit": "100"}
        answer = await get_json(f"{self.base_url}/species/search", query)
        for taxon in answers.records(NAME, answer, "results"):
            names = (answers.text(name, "vernacularName") for name in answers.objects(taxon, "vernacularNames"))
            if isinstance(taxon.get("key"), int) and any(answers.same_name(name, title) for name in names):
                return taxon["key"]
        return None

    def _images(self, occurrence: dict[str, Any]) -> Iterator[Found]:
        for media in answers.objects(occurrence, "media"):
            url = answers.http_url(media.get("identifier"))
            license = normalize(answers.text(media, "license"))
            if not url or media.get("type") != "StillImage" or family(license) not in self.licenses:
                continue
            if not answers.is_still_image(url, answers.text(media, "format")):
                continue
            page = answers.http_url(media.get("references"))
            if not page and isinstance(occurrence.get("key"), int):
                page = f"https://www.gbif.org/occurrence/{occurrence['key']}"
            yield Found(as_inaturalist_has_it(url), page, license, answers.text(media, "rightsHolder", "creator"))
