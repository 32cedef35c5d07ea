"""Photos of iNaturalist's research-grade observations (iNaturalist API v1, https://api.inaturalist.org/v1/docs)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

from fastlt.data_prep.crawl.sources import answers
from fastlt.data_prep.crawl.sources.source import Found, GetJson, Page, SourceError
from fastlt.licenses import allowed, family, normalize

NAME = "inaturalist"
PER_PAGE = 200  # the API's limit
_HOSTS = re.compile(r"https?://(static\.inaturalist\.org|inaturalist-open-data\.s3\.amazonaws\.com)/")
_SIZE_IN_URL = re.compile(r"(/photos/\d+/)(?:square|original)(?=\.\w+(?:\?|$))")


class INaturalist:
    """Observations of a taxon from the newest to the oldest.

    Pages go by observation id, as numbered pages end at 10,000 observations.

    Args:
        base_url: of the API.
        licenses: families that are allowed; default all. Photos without a license are never found.
    """

    name = NAME
    lookups, per_page = 1, PER_PAGE
    media_host = "inaturalist-open-data.s3.amazonaws.com:*"  # those with a license

    def __init__(self, base_url: str | None = None, licenses: Iterable[str] | None = None) -> None:
        self.base_url = (base_url or "https://api.inaturalist.org/v1").rstrip("/")
        self.licenses = allowed(licenses)

    async def search(self, get_json: GetJson, title: str, cursor: str | None, limit: int) -> Page:
        """One page, as `ImageSource.search`."""
        at = json.loads(cursor) if cursor else {"taxon": await self._taxon(get_json, title)}
        # The public-domain mark is no license that observers can choose.
        choices = sorted(self.licenses - {"pdm"})
        if at["taxon"] is None or not choices:
            return Page([], None)
        query = {
            "taxon_id": str(at["taxon"]),
            "photos": "true",
            "photo_license": ",".join(choices),
            "quality_grade": "research",
            "order_by": "id",
            "order": "desc",
            "per_page": str(min(limit, PER_PAGE)),
        }
        if "below" in at:
            query["id_below"] = str(at["below"])
        answer = await get_json(f"{self.base_url}/observations", query)
        observations = answers.records(NAME, answer, "results")
        total = answers.field(NAME, answer, "total_results", int)
        found = [photo for observation in observations for photo in self._photos(observation)]
        if not observations or total <= len(observations):
            return Page(found, None)
        lowest = min((o["id"] for o in observations if isinstance(o.get("id"), int)), default=None)
        if lowest is None or lowest >= at.get("below", lowest + 1):
            raise SourceError(f"{NAME} answered with observations whose ids do not go down, which paging needs.")
        return Page(found, json.dumps({"taxon": at["taxon"], "below": lowest}))

    async def _taxon(self, get_json: GetJson, title: str) -> int | None:
        """The id of the taxon with exactly this scientific or common name; close ones are other species."""
        query = {"q": title, "is_active": "true", "locale": "en", "per_page": "30"}
        answer = await get_json(f"{self.base_url}/taxa", query)
        for taxon in answers.records(NAME, answer, "results"):
            names = (answers.text(taxon, key) for key in ("name", "preferred_common_name", "matched_term"))
            if isinstance(taxon.get("id"), int) and any(answers.same_name(name, title) for name in names):
                return taxon["id"]
        return None

    def _photos(self, observation: dict[str, Any]) -> Iterable[Found]:
        page = answers.http_url(observation.get("uri"))
        for photo in answers.objects(observation, "photos"):
            url = medium_size(answers.http_url(photo.get("url")))
            license = normalize(answers.text(photo, "license_code"))
            # One licensed photo brings the observation here; the others may be all rights reserved.
            if url and family(license) in self.licenses and answers.is_still_image(url):
                yield Found(url, page, license, answers.text(photo, "attribution"))


def medium_size(url: str) -> str:
    """The 500-pixel file of the photo whose square or original file is at `url`; "" if it is no URL of such a file."""
    medium, changed = _SIZE_IN_URL.subn(r"\1medium", url)
    return medium if changed else ""


def as_inaturalist_has_it(url: str) -> str:
    """The URL of a photo of iNaturalist's as this source finds it, and a tenth of the bytes; any other URL as it is."""
    return (medium_size(url) or url) if _HOSTS.match(url) else url
