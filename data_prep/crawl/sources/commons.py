"""Files of Wikimedia Commons (MediaWiki Action API, https://www.mediawiki.org/wiki/API:Search and API:Imageinfo)."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable
from typing import Any

from fastlt.data_prep.crawl.sources import answers
from fastlt.data_prep.crawl.sources.source import Found, GetJson, Page, SourceError
from fastlt.licenses import allowed, family, normalize
from fastlt.messages import one_line

NAME = "commons"
PER_PAGE = 50  # the API scales no more images in one request
WIDTH = 500  # one of the widths that Wikimedia keeps (https://www.mediawiki.org/wiki/Common_thumbnail_sizes)
# Where a file says whom to name, best first.
_CREDITED = ("Artist", "Attribution", "Credit")


class Commons:
    """Bitmap files whose name or description has the title as a phrase, best matches first.

    Args:
        base_url: of the API, up to and including `api.php`.
        licenses: families that are allowed; default all. Files under other licenses are never found.
    """

    name = NAME
    lookups, per_page = 0, PER_PAGE
    media_host = "upload.wikimedia.org:*"

    def __init__(self, base_url: str | None = None, licenses: Iterable[str] | None = None) -> None:
        self.base_url = base_url or "https://commons.wikimedia.org/w/api.php"
        self.licenses = allowed(licenses)

    async def search(self, get_json: GetJson, title: str, cursor: str | None, limit: int) -> Page:
        """One page, as `ImageSource.search`."""
        # What the API gives to go on with belongs to the request that it answered, so the size stays as it was.
        first: dict[str, Any] = {"size": min(limit, PER_PAGE), "continue": {}}
        at = json.loads(cursor) if cursor else first
        phrase = title.replace('"', " ")
        query = {
            "action": "query",
            "format": "json",
            "formatversion": "2",
            "generator": "search",
            "gsrsearch": f'"{phrase}" filetype:bitmap',
            "gsrnamespace": "6",
            "gsrlimit": str(at["size"]),
            "prop": "imageinfo",
            "iiprop": "url|mime|size|extmetadata",
            "iiextmetadatafilter": "LicenseShortName|LicenseUrl|" + "|".join(_CREDITED),
            "iiurlwidth": str(WIDTH),
            **at["continue"],
        }
        answer = await get_json(self.base_url, query)
        if isinstance(answer, dict) and "error" in answer:
            said = answers.text(answer["error"], "info", "code") or answer["error"]
            raise SourceError(f"{NAME} refused: {one_line(said, 200)}.")
        if not isinstance(answer, dict) or not {"batchcomplete", "continue", "query"} & set(answer):
            raise SourceError(f"{NAME} answered with neither 'query' nor 'batchcomplete'.")
        files = answers.records(NAME, answer["query"], "pages") if "query" in answer else []
        files.sort(key=lambda file: file["index"] if isinstance(file.get("index"), int) else 0)
        found = [image for file in files for info in answers.objects(file, "imageinfo") for image in self._image(info)]
        if "continue" not in answer:
            return Page(found, None)
        onward = {k: str(v) for k, v in answers.field(NAME, answer, "continue", dict).items()}
        if onward == at["continue"]:
            raise SourceError(f"{NAME} answered that its next page is this one.")
        if len(str(onward)) > answers.MAX_TEXT:
            raise SourceError(f"{NAME} answered with a next page of {len(str(onward)):,} characters.")
        return Page(found, json.dumps({"size": at["size"], "continue": onward}))

    def _image(self, info: dict[str, Any]) -> Iterable[Found]:
        about = info.get("extmetadata")
        about = about if isinstance(about, dict) else {}
        named = (normalize(answers.text(about.get(key), "value")) for key in ("LicenseShortName", "LicenseUrl"))
        license = next(filter(None, named), "")
        url = answers.http_url(info.get("thumburl")) or answers.http_url(info.get("url"))
        kind = answers.text(info, "mime")
        if url and kind and answers.is_still_image(url, kind) and family(license) in self.licenses:
            page = answers.http_url(info.get("descriptionurl"))
            credits = (_plain(answers.text(about.get(key), "value")) for key in _CREDITED)
            yield Found(url, page, license, next(filter(None, credits), ""))


def _plain(markup: str) -> str:
    """The text of a piece of HTML, on one line."""
    return one_line(html.unescape(re.sub(r"<[^<>]*>|&#\d{8,}", " ", markup)), answers.MAX_TEXT)
