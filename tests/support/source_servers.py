"""Loopback servers that answer as the image sources' documentation says, and refuse what it does not allow.

Each knows images of the black kite, among them some that are of no use (no still images, no license, no URL), and of
nothing else; iNaturalist and GBIF also know the genus Harpagus, of which they have none.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Mapping
from typing import Any

from aiohttp import web

KNOWN = "Black Kite"
SCIENTIFIC = "Milvus migrans"
EMPTY = "Harpagus"
TAXA = {KNOWN: 5067, SCIENTIFIC: 5067, EMPTY: 5300}
LICENSE_CODES = ["cc-by", "cc-by-nc", "cc-by-nd", "cc-by-sa", "cc-by-nc-nd", "cc-by-nc-sa", "cc0"]
OPENVERSE_CODES = ["by", "by-nc", "by-nc-nd", "by-nc-sa", "by-nd", "by-sa", "cc0", "pdm", "sampling+", "nc-sampling+"]
BACKBONE = "d7dddbf4-2cf0-4f39-9b2a-bb099caae36c"


class Refused(Exception):
    """What the documentation does not allow; answered with its status."""

    def __init__(self, reason: str, status: int = 400) -> None:
        super().__init__(reason)
        self.status = status


class Query:
    """The parameters of a request, each of which must be asked for, so that unknown ones are refused."""

    def __init__(self, given: Mapping[str, str]) -> None:
        self.left = dict(given)

    def text(self, name: str, *choices: str, default: str | None = None) -> str:
        value = self.left.pop(name, default)
        if value is None or (choices and value not in choices):
            raise Refused(f"{name} must be {' or '.join(choices) or 'given'}, not {value!r}")
        return value

    def number(self, name: str, lowest: int, highest: int, default: int | None = None) -> int:
        value = self.text(name, default=None if default is None else str(default))
        if not value.isdecimal() or not lowest <= int(value) <= highest:
            raise Refused(f"{name} must be a number from {lowest} to {highest}, not {value!r}")
        return int(value)

    def codes(self, name: str, known: list[str]) -> list[str]:
        values = self.text(name).split(",")
        if unknown := set(values).difference(known):
            raise Refused(f"{name} has no {sorted(unknown)}")
        return values

    def done(self) -> None:
        if self.left:
            raise Refused(f"unknown parameters {sorted(self.left)}")


class SourceServers:
    """All four APIs in a thread, as a context manager.

    Args:
        count: records of the black kite at each source; not every one of them is of use.
        images: where the URLs of images point.
        scaled: how many thumbnails Commons makes in one request.

    Attributes:
        requests: (path, query) of each request so far.
        answer_instead: if set, what every request is answered with.
    """

    def __init__(self, count: int = 7, images: str = "https://images.example", scaled: int = 50) -> None:
        self.count = count
        self.images = images.rstrip("/")
        self.scaled = scaled
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.answer_instead: Any = None
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: self._loop.run_until_complete(self._serve()), daemon=True)
        self._port = 0

    def __enter__(self) -> SourceServers:
        self._thread.start()
        assert self._ready.wait(30)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(30)
        self._loop.close()

    def base_url(self, source: str) -> str:
        """What the source of that name is constructed with."""
        path = {"commons": "w/api.php"}.get(source, "v1")
        return f"http://127.0.0.1:{self._port}/{source}/{path}"

    async def _serve(self) -> None:
        app = web.Application()
        for path, answer in {
            "/inaturalist/v1/taxa": self._inaturalist_taxa,
            "/inaturalist/v1/observations": self._inaturalist_observations,
            "/gbif/v1/species/match": self._gbif_match,
            "/gbif/v1/species/search": self._gbif_names,
            "/gbif/v1/occurrence/search": self._gbif_occurrences,
            "/commons/w/api.php": self._commons,
            "/openverse/v1/images/": self._openverse,
        }.items():
            app.router.add_get(path, self._handler(answer))
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self._port = runner.addresses[0][1]
        self._ready.set()
        await self._stop.wait()
        await runner.cleanup()

    def _handler(self, answer: Callable[[Query], Any]) -> Callable:
        async def handle(request: web.Request) -> web.Response:
            self.requests.append((request.path, dict(request.query)))
            if self.answer_instead is not None:
                return web.json_response(self.answer_instead)
            query = Query(request.query)
            try:
                content = answer(query)
                query.done()
            except Refused as refusal:
                return web.json_response({"error": str(refusal)}, status=refusal.status)
            return web.json_response(content)

        return handle

    # iNaturalist API v1: https://api.inaturalist.org/v1/docs

    def _inaturalist_taxa(self, query: Query) -> Any:
        name = query.text("q").lower()
        query.text("is_active", "true", "false", default="true")
        query.text("locale", "en", default="en")
        per_page = query.number("per_page", 1, 200, 30)
        rows = [
            ("Milvus migrans lineatus", "Black-eared Kite", 1, "Black Kite Group"),
            (SCIENTIFIC, "Black Kite", TAXA[KNOWN], "Black Kite"),
            (EMPTY, None, TAXA[EMPTY], EMPTY),
        ]
        results = [
            {"id": taxon, "name": scientific, "rank": "species", "is_active": True, "matched_term": matched}
            | ({"preferred_common_name": common} if common else {})
            for scientific, common, taxon, matched in rows
            if any(known and known.lower().startswith(name) for known in (scientific, common, matched))
        ]
        return {"total_results": len(results), "page": 1, "per_page": per_page, "results": results[:per_page]}

    def _inaturalist_observations(self, query: Query) -> Any:
        taxon = query.number("taxon_id", 1, 10**9)
        query.text("photos", "true", "false")
        codes = query.codes("photo_license", LICENSE_CODES)
        query.text("quality_grade", "casual", "needs_id", "research")
        query.text("order_by", "id")
        query.text("order", "desc")
        below = query.number("id_below", 1, 10**9, 10**9)
        per_page = query.number("per_page", 1, 200, 30)
        count = self.count if taxon == TAXA[KNOWN] else 0
        # The first one also has photos of which no use can be made, and one is not as it should be.
        every = [self._observation(i, count) for i in range(count)]
        left = [o for o in every if o["id"] < below and any(p.get("license_code") in codes for p in o["photos"])]
        page = sorted(left, key=lambda o: -o["id"])[:per_page]
        return {"total_results": len(left), "page": 1, "per_page": per_page, "results": page}

    def _observation(self, i: int, count: int) -> dict[str, Any]:
        code = LICENSE_CODES[i % len(LICENSE_CODES)]
        photos = [
            {
                "id": 70 + i,
                "license_code": code,
                "url": f"{self.images}/photos/{70 + i}/square.jpg?1545690728",
                "attribution": f"(c) observer {i}, some rights reserved ({code.upper()})",
                "original_dimensions": {"width": 2048, "height": 1365},
                "flags": [],
            }
        ]
        if i == count - 1:
            reserved = {"license_code": None, "attribution": "(c) observer, all rights reserved"}
            photos.append(photos[0] | reserved | {"url": f"{self.images}/photos/1/square.jpg"})
            photos.append({"id": 2, "license_code": code, "url": None})
            photos.append({"id": 3, "license_code": code, "url": f"{self.images}/copyright-infringement-square.png"})
        return {
            "id": 1000 + 3 * i,
            "quality_grade": "research",
            "uri": f"https://www.inaturalist.org/observations/{1000 + 3 * i}",
            "photos": photos,
        }

    # GBIF API v1: https://techdocs.gbif.org/en/openapi/

    def _gbif_match(self, query: Query) -> Any:
        name = query.text("name")
        query.text("strict", "true", "false", default="false")
        if name == SCIENTIFIC:
            found = {"usageKey": 9, "acceptedUsageKey": TAXA[SCIENTIFIC], "status": "SYNONYM", "synonym": True}
        elif name == EMPTY:
            found = {"usageKey": TAXA[EMPTY], "status": "ACCEPTED", "synonym": False}
        elif name == "black kite":  # an obscure name that happens to be spelled so
            found = {"usageKey": 13, "status": "DOUBTFUL", "synonym": False}
        else:
            return {"confidence": 100, "matchType": "NONE", "synonym": False}
        return found | {"scientificName": f"{name} L.", "canonicalName": name, "confidence": 97, "matchType": "EXACT"}

    def _gbif_names(self, query: Query) -> Any:
        name = query.text("q").lower()
        query.text("qField", "DESCRIPTION", "SCIENTIFIC", "VERNACULAR")
        query.text("datasetKey", BACKBONE)
        query.text("status", "ACCEPTED")
        limit = query.number("limit", 1, 1000, 20)
        results = []
        if set(name.split()) & {"black", "kite"}:
            results = [
                {"key": 3, "nubKey": 3, "canonicalName": "Elanus caeruleus", "taxonomicStatus": "ACCEPTED"}
                | {"vernacularNames": [{"vernacularName": "Black-winged Kite", "language": "eng"}]},
                {"key": TAXA[KNOWN], "nubKey": TAXA[KNOWN], "canonicalName": SCIENTIFIC, "taxonomicStatus": "ACCEPTED"}
                | {
                    "vernacularNames": [
                        {"vernacularName": "Milano negro", "language": "spa"},
                        {"vernacularName": KNOWN},
                    ]
                },
            ]
        return {"offset": 0, "limit": limit, "endOfRecords": True, "count": len(results), "results": results[:limit]}

    def _gbif_occurrences(self, query: Query) -> Any:
        taxon = query.number("taxonKey", 1, 10**9)
        query.text("mediaType", "StillImage", "MovingImage", "Sound")
        limit = query.number("limit", 0, 300, 20)
        offset = query.number("offset", 0, 100_000 - limit, 0)
        count = self.count if taxon == TAXA[KNOWN] else 0
        results = [self._occurrence(i, count) for i in range(count)][offset : offset + limit]
        return {
            "offset": offset,
            "limit": limit,
            "endOfRecords": offset + limit >= count,
            "count": count,
            "results": results,
            "facets": [],
        }

    def _occurrence(self, i: int, count: int) -> dict[str, Any]:
        terms = ["licenses/by/4.0/", "licenses/by-nc/4.0/legalcode", "publicdomain/zero/1.0/"][i % 3]
        media = [
            {
                "type": "StillImage",
                "format": "image/jpeg",
                "identifier": f"{self.images}/gbif/{i}.jpg",
                "references": f"https://museum.example/{i}",
                "license": f"http://creativecommons.org/{terms}",
                "rightsHolder": f"Museum {i}",
                "creator": f"Collector {i}",
            }
        ]
        if i == count - 1:
            del media[0]["references"], media[0]["rightsHolder"]
            inaturalist = "https://inaturalist-open-data.s3.amazonaws.com/photos/88/original.jpeg"
            sound = {"type": "Sound", "format": "audio/mpeg", "identifier": f"{self.images}/gbif/song.mp3"}
            media += [
                media[0] | {"identifier": inaturalist},
                media[0] | sound,
                media[0] | {"format": "image/svg+xml", "identifier": f"{self.images}/gbif/map.svg"},
                {"type": "StillImage", "identifier": f"{self.images}/gbif/unlicensed.jpg"},
                media[0] | {"license": "(c) all rights reserved", "identifier": f"{self.images}/gbif/reserved.jpg"},
                media[0] | {"identifier": "urn:lsid:museum:7"},
            ]
        return {
            "key": 4000 + i,
            "basisOfRecord": "PRESERVED_SPECIMEN",
            "license": "http://creativecommons.org/licenses/by/4.0/legalcode",
            "media": media,
        }

    # MediaWiki Action API: https://www.mediawiki.org/wiki/API:Query, API:Continue, API:Search and API:Imageinfo

    def _commons(self, query: Query) -> Any:
        query.text("action", "query")
        query.text("format", "json")
        query.text("formatversion", "2")
        query.text("generator", "search")
        search = query.text("gsrsearch")
        query.text("gsrnamespace", "6")
        limit = query.number("gsrlimit", 1, 500, 10)
        offset = query.number("gsroffset", 0, 10_000, 0)
        query.text("prop", "imageinfo")
        query.text("iiprop", "url|mime|size|extmetadata")
        query.text("iiextmetadatafilter", "LicenseShortName|LicenseUrl|Artist|Attribution|Credit")
        width = query.number("iiurlwidth", 1, 10_000)
        first = query.text("iicontinue", default="")
        onward = query.text("continue", default="")
        if bool(onward) != bool(first or offset):
            raise Refused("what 'continue' says must come back as a whole")
        if not search.strip():
            return {"error": {"code": "missingparam", "info": 'The "gsrsearch" parameter must be set.'}}
        if search.lower() != f'"{KNOWN.lower()}" filetype:bitmap':
            return {"batchcomplete": True}
        files = [self._file(i, width) for i in range(self.count)]
        batch = sorted(files[offset : offset + limit], key=lambda file: file["title"])
        # Only some are scaled at a time, in the order of titles; the others come without imageinfo.
        todo = [file["title"] for file in batch if file["title"] >= first]
        for file in batch:
            if file["title"] not in todo[: self.scaled]:
                del file["imageinfo"]
        answer: dict[str, Any] = {"query": {"pages": batch}}
        if len(todo) > self.scaled:
            answer["continue"] = {"iicontinue": todo[self.scaled], "gsroffset": offset, "continue": "gsroffset||"}
        else:
            answer["batchcomplete"] = True
            if offset + limit < len(files):
                answer["continue"] = {"gsroffset": offset + limit, "continue": "gsroffset||"}
        return answer

    def _file(self, i: int, width: int) -> dict[str, Any]:
        # Titles are not in the order of relevance, which `index` has.
        title = f"File:Kite {97 - i:02}.jpg"
        short, url = [
            ("CC BY-SA 4.0", "https://creativecommons.org/licenses/by-sa/4.0"),
            ("Public domain", ""),
            ("CC BY-SA 3.0 de", "http://creativecommons.org/licenses/by-sa/3.0/de/deed.en"),
            ("Creative Commons something", "https://creativecommons.org/licenses/by/2.0"),
        ][i % 4]
        info: dict[str, Any] = {
            "size": 2_000_000,
            "width": 4000,
            "height": 3000,
            "thumburl": f"{self.images}/thumb/{i}/{width}px-{i}.jpg",
            "thumbwidth": width,
            "thumbheight": width * 3 // 4,
            "url": f"{self.images}/commons/{i}.jpg",
            "descriptionurl": f"https://commons.wikimedia.org/wiki/{title.replace(' ', '_')}",
            "descriptionshorturl": f"https://commons.wikimedia.org/w/index.php?curid={i}",
            "mime": "image/jpeg",
            "extmetadata": {
                "LicenseShortName": {"value": short, "source": "commons-desc-page", "hidden": ""},
                "Artist": {"value": f'<a href="//commons.wikimedia.org/wiki/User:A{i}">A{i} &amp; B</a>\n'},
            },
        }
        if url:
            info["extmetadata"]["LicenseUrl"] = {"value": url, "source": "commons-desc-page", "hidden": ""}
        odd = {1: {"mime": "application/pdf"}, 2: {"mime": "image/svg+xml"}, 3: {"mime": "video/webm"}}
        if i >= self.count - 3 > 0:
            info |= odd[self.count - i]
        return {"pageid": 100 + i, "ns": 6, "title": title, "index": i + 1, "imageinfo": [info]}

    # Openverse API v1: https://api.openverse.org/v1/

    def _openverse(self, query: Query) -> Any:
        words = query.text("q")
        codes = query.codes("license", OPENVERSE_CODES)
        size = query.number("page_size", 1, 500, 20)
        page = query.number("page", 1, 20, 1)
        if size > 20:
            raise Refused("Ensure this value is less than or equal to 20.", status=401)
        count = self.count if words.lower() == f'"{KNOWN.lower()}"' else 0
        images = [image for i in range(count) if (image := self._openverse_image(i))["license"] in codes]
        return {
            "result_count": len(images),
            "page_count": min(20, -(-len(images) // size)),
            "page_size": size,
            "page": page,
            "results": images[(page - 1) * size : page * size],
        }

    def _openverse_image(self, i: int) -> dict[str, Any]:
        code, version = [("by", "2.0"), ("by-nc-sa", "2.0"), ("cc0", "1.0"), ("pdm", "1.0")][i % 4]
        image = {
            "id": f"4bc43a04-ef46-4544-a0c1-{i:012}",
            "title": "Black kite",
            "foreign_landing_url": f"https://photos.example/{i}",
            "url": f"{self.images}/openverse/{i}.jpg",
            "license": code,
            "license_version": version,
            "license_url": f"https://creativecommons.org/licenses/{code}/{version}/",
            "filetype": [None, "jpg"][i % 2],
            "attribution": f'"Black kite" by photographer {i} is licensed under {code} {version}.',
            "mature": False,
            "height": 683,
            "width": 1024,
        }
        if i == self.count - 1 > 0:
            image |= {"filetype": "svg", "url": f"{self.images}/openverse/drawing"}
        if i == self.count - 2 > 0:
            image |= {"filetype": None, "url": None}
        return image


async def get_json(url: str, query: Mapping[str, str]) -> Any:
    """A client without any manners, for tests of sources alone."""
    from aiohttp import ClientSession

    from fastlt.data_prep.crawl.sources import SourceError

    async with ClientSession() as session, session.get(url, params=query) as response:
        body = await response.text()
        if response.status != 200:
            raise SourceError(f"{response.status} {body}")
        return json.loads(body)
