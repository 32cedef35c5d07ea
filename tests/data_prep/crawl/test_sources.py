"""What the image sources ask of loopback servers, and what they make of the answers, page by page."""

import asyncio
import json

import pytest

from fastlt.data_prep.crawl.sources import SOURCES, SourceError
from fastlt.licenses import FAMILIES, family, normalize

pytest.importorskip("aiohttp")
from support import source_servers as servers


def search(server, name, title, cursor=None, limit=3, **options):
    source = SOURCES[name](server.base_url(name), **options)
    return asyncio.run(source.search(servers.get_json, title, cursor, limit))


def pages(server, name, title, cursor=None, **options):
    """All pages from a cursor on."""
    pages = []
    while not pages or cursor:
        page = search(server, name, title, cursor, **options)
        pages.append(page)
        cursor = page.cursor
        assert len(pages) < 100
    return pages


def images(pages):
    return [found for page in pages for found in page.found]


@pytest.fixture
def server():
    with servers.SourceServers() as server:
        yield server


def test_inaturalist(server):
    read = pages(server, "inaturalist", "black kite")
    assert [len(page.found) for page in read] == [3, 3, 1]
    found = images(read)
    # From the newest on, in the size that does for training, without what is reserved or no photo.
    assert [image.url for image in found] == [
        f"https://images.example/photos/{70 + i}/medium.jpg?1545690728" for i in range(6, -1, -1)
    ]
    assert found[0].page == "https://www.inaturalist.org/observations/1018"
    assert found[0].license == "cc0-1.0"
    assert found[-1].license == "cc-by"
    assert found[-1].attribution == "(c) observer 0, some rights reserved (CC-BY)"
    paths = [path.rpartition("/")[2] for path, _ in server.requests]
    assert paths == ["taxa", "observations", "observations", "observations"]


def test_gbif(server):
    read = pages(server, "gbif", "black kite")
    assert [len(page.found) for page in read] == [3, 3, 2]
    found = images(read)
    assert [image.url for image in found] == [
        *(f"https://images.example/gbif/{i}.jpg" for i in range(7)),
        "https://inaturalist-open-data.s3.amazonaws.com/photos/88/medium.jpeg",
    ]
    assert [image.license for image in found[:3]] == ["cc-by-4.0", "cc-by-nc-4.0", "cc0-1.0"]
    assert (found[0].page, found[0].attribution) == ("https://museum.example/0", "Museum 0")
    assert (found[6].page, found[6].attribution) == ("https://www.gbif.org/occurrence/4006", "Collector 6")


def test_gbif_asks_scientific_names_first(server):
    assert images(pages(server, "gbif", "Milvus migrans")) == images(pages(server, "gbif", "Black kite"))
    paths = [path.rpartition("v1/")[2] for path, _ in server.requests]
    assert paths[:2] == ["species/match", "occurrence/search"]
    assert server.requests[1][1]["taxonKey"] == "5067"  # the accepted name's, not the synonym's


def test_gbif_stops_where_the_api_ends(server):
    cursor = json.dumps({"taxon": 5067, "offset": 99_998})
    assert search(server, "gbif", "black kite", cursor).cursor is None
    assert server.requests[-1][1]["limit"] == "2"
    cursor = json.dumps({"taxon": 5067, "offset": 100_000})
    assert search(server, "gbif", "black kite", cursor).found == []
    assert len(server.requests) == 1


@pytest.mark.parametrize("scaled", [50, 2])
def test_commons(scaled):
    with servers.SourceServers(scaled=scaled) as server:
        read = pages(server, "commons", "black kite")
    # The server scales so many of each three at a time; the files that are no still images come last.
    assert [len(page.found) for page in read] == ([3, 1, 0] if scaled == 50 else [2, 1, 0, 1, 0])
    found = sorted(images(read), key=lambda image: image.url)
    assert [image.url for image in found] == [f"https://images.example/thumb/{i}/500px-{i}.jpg" for i in range(4)]
    assert [image.license for image in found] == ["cc-by-sa-4.0", "pdm", "cc-by-sa-3.0", "cc-by-2.0"]
    assert found[0].page == "https://commons.wikimedia.org/wiki/File:Kite_97.jpg"
    assert found[0].attribution == "A0 & B"
    if scaled == 50:
        assert [image.url for image in read[0].found] == [image.url for image in found[:3]]  # best match first


def test_commons_credits_whom_the_file_names(server):
    about = {"LicenseShortName": {"value": "CC BY-SA 4.0"}, "Credit": {"value": "<b>A Museum</b>"}}
    for more, credit in (
        ({}, "A Museum"),
        ({"Attribution": {"value": "A Museum, CC BY-SA 4.0"}}, "A Museum, CC BY-SA 4.0"),
    ):
        info = {"url": "https://images.example/x.jpg", "mime": "image/jpeg", "extmetadata": about | more}
        server.answer_instead = {"batchcomplete": True, "query": {"pages": [{"index": 1, "imageinfo": [info]}]}}
        (page,) = pages(server, "commons", "black kite")
        assert [image.attribution for image in page.found] == [credit]


@pytest.mark.parametrize("name", ["gbif", "openverse"])
def test_a_photo_of_inaturalists_is_one_photo_whoever_finds_it(server, name):
    original = "https://inaturalist-open-data.s3.amazonaws.com/photos/1/original.jpg"
    media = {"type": "StillImage", "license": "cc-by", "identifier": original}
    record = {"url": original, "license": "by", "filetype": "jpg"}
    server.answer_instead = {
        "gbif": {"endOfRecords": True, "results": [{"media": [media]}], "matchType": "EXACT", "usageKey": 1},
        "openverse": {"page_count": 1, "results": [record]},
    }[name]
    (page,) = pages(server, name, "black kite")
    assert [image.url for image in page.found] == [original.replace("original", "medium")]


def test_commons_refusal_comes_with_status_200(server):
    server.answer_instead = {"error": {"code": "ratelimited", "info": "You've exceeded your rate limit."}}
    with pytest.raises(SourceError, match="commons refused: You've exceeded your rate limit"):
        search(server, "commons", "black kite")


def test_openverse(server):
    read = pages(server, "openverse", "black kite")
    assert [len(page.found) for page in read] == [3, 2, 0]
    found = images(read)
    assert [image.url for image in found] == [f"https://images.example/openverse/{i}.jpg" for i in range(5)]
    assert [image.license for image in found] == ["cc-by-2.0", "cc-by-nc-sa-2.0", "cc0-1.0", "pdm", "cc-by-2.0"]
    assert found[1].page == "https://photos.example/1"
    assert found[1].attribution == '"Black kite" by photographer 1 is licensed under by-nc-sa 2.0.'


def test_openverse_ends_after_twenty_pages():
    with servers.SourceServers(count=50) as server:
        assert len(images(pages(server, "openverse", "black kite", limit=2))) == 40


@pytest.mark.parametrize("name", SOURCES)
def test_another_process_goes_on_in_the_middle(server, name):
    whole = pages(server, name, "black kite")
    assert len(whole) == 3
    # Nothing but the cursor is kept, and whoever goes on may ask for other sizes.
    server.requests.clear()
    rest = pages(server, name, "black kite", whole[0].cursor, limit=100)
    assert images(rest) == images(whole[1:])
    assert not any("taxa" in path or "species" in path for path, _ in server.requests)


@pytest.mark.parametrize("name", SOURCES)
def test_no_more_is_asked_for_than_documented(name):
    with servers.SourceServers(count=301) as server:
        found = images(pages(server, name, "black kite", limit=10_000))
    assert len({image.url for image in found}) > 250


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize("title", ["black tea", "Harpagus", 'the "so-called" kite & others: 50%'])
def test_nothing_found(server, name, title):
    read = pages(server, name, title)
    assert [(page.found, page.cursor) for page in read] == [([], None)]


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize("answer", [[], "no", 7, {"results": None}, {"query": []}, {"query": {"pages": 7}}])
def test_answers_of_no_documented_form(server, name, answer):
    first = search(server, name, "black kite")
    server.answer_instead = answer
    for cursor in (None, first.cursor):
        with pytest.raises(SourceError, match=f"^{name} answered"):
            search(server, name, "black kite", cursor)


def test_records_of_odd_forms_are_skipped(server):
    good = {"id": 7, "photos": [{"url": "https://a.example/photos/1/square.png", "license_code": "cc-by"}]}
    odd = [None, "text", {}, {"id": 8, "photos": None}, {"id": "9", "photos": [None, {"url": 3, "license_code": 4}]}]
    server.answer_instead = {"total_results": 6, "results": [*odd, good]}
    page = search(server, "inaturalist", "black kite", '{"taxon": 1}')
    assert [image.url for image in page.found] == ["https://a.example/photos/1/medium.png"]
    assert page.cursor is None or json.loads(page.cursor)["below"] == 7

    good = {"url": "https://a.example/1.png", "license": "by", "license_version": None}
    server.answer_instead = {"page_count": 1, "results": [7, {}, {"url": [], "license": {}}, good]}
    assert [image.license for image in search(server, "openverse", "black kite").found] == ["cc-by"]

    server.answer_instead = {"batchcomplete": True, "query": {"pages": [{}, {"imageinfo": [{}, {"extmetadata": []}]}]}}
    assert search(server, "commons", "black kite").found == []

    server.answer_instead = {"endOfRecords": True, "results": [{}, {"media": "none"}, {"media": [3, {"type": 4}]}]}
    assert search(server, "gbif", "black kite", '{"taxon": 1, "offset": 0}').found == []


def test_a_search_that_would_never_end(server):
    stuck = {"total_results": 9, "results": [{"id": 50, "photos": []}]}
    server.answer_instead = stuck
    with pytest.raises(SourceError, match="do not go down"):
        search(server, "inaturalist", "black kite", '{"taxon": 1, "below": 50}')
    server.answer_instead = {"continue": {"gsroffset": 3, "continue": "gsroffset||"}}
    cursor = search(server, "commons", "black kite").cursor
    with pytest.raises(SourceError, match="next page is this one"):
        search(server, "commons", "black kite", cursor)
    server.answer_instead = {"page_count": 1_000_000, "results": []}
    assert search(server, "openverse", "black kite", '{"page": 20, "size": 20}').cursor is None
    server.answer_instead = {"endOfRecords": False, "results": []}
    assert search(server, "gbif", "black kite", '{"taxon": 1, "offset": 0}').cursor is None


@pytest.mark.parametrize(
    ("title", "known"),
    [("swainsons hawk", "Swainson's Hawk"), ("black-winged kite", "Black winged Kite"), ("rüppell", "RÜPPELL")],
)
def test_names_that_are_the_same(server, title, known):
    taxa = [{"id": 3, "name": f"{known} of Peru"}, {"id": 4, "name": "Buteo", "preferred_common_name": known}]
    server.answer_instead = {"total_results": 0, "results": taxa}
    search(server, "inaturalist", title)
    assert server.requests[1][1]["taxon_id"] == "4"


@pytest.mark.parametrize("name", SOURCES)
def test_only_allowed_licenses(server, name):
    every = images(pages(server, name, "black kite"))
    some = images(pages(server, name, "black kite", licenses=["cc0", "pdm"]))
    assert [image.url for image in some] == [i.url for i in every if family(i.license) in ("cc0", "pdm")]
    assert 0 < len(some) < len(every)


def test_inaturalist_has_no_public_domain_mark(server):
    assert pages(server, "inaturalist", "black kite", licenses=["pdm"])[0].found == []


@pytest.mark.parametrize("name", SOURCES)
def test_unknown_licenses(name):
    with pytest.raises(ValueError, match="'by-nc' is unknown: choose from cc0, pdm, cc-by,"):
        SOURCES[name](licenses=["cc-by", "by-nc"])
    with pytest.raises(ValueError, match="no license is allowed"):
        SOURCES[name](licenses=[])


@pytest.mark.parametrize(
    ("said", "name"),
    {
        "http://creativecommons.org/licenses/by-nc/4.0/legalcode": "cc-by-nc-4.0",
        "https://creativecommons.org/licenses/by-sa/3.0/de/deed.en": "cc-by-sa-3.0",
        "http://creativecommons.org/licenses/by-nd-nc/1.0/": "cc-by-nc-nd-1.0",
        "http://creativecommons.org/publicdomain/zero/1.0/": "cc0-1.0",
        "https://creativecommons.org/publicdomain/mark/1.0/": "pdm",
        "https://creativecommons.org/licenses/sampling+/1.0/": "",
        "https://example.org/licenses/by/4.0/": "",
        "CC BY-SA 4.0": "cc-by-sa-4.0",
        "CC BY-SA 3.0 de": "cc-by-sa-3.0",
        "CC BY-SA 2.5-2.0-1.0": "cc-by-sa-2.5",
        "CC BY-NC 4.0 International": "cc-by-nc-4.0",
        "CC_BY_NC_4_0": "cc-by-nc-4.0",
        "Some One (cc-by-sa)": "cc-by-sa",
        "CC0": "cc0-1.0",
        "CC0_1_0": "cc0-1.0",
        "Public domain": "pdm",
        "cc-by-nc-sa": "cc-by-nc-sa",
        "by-nc": "cc-by-nc",
        "by-nd-sa": "",
        "By John": "",
        "by-john": "",
        "GFDL": "",
        "© All rights reserved": "",
        "": "",
    }.items(),
)
def test_names_of_licenses(said, name):
    assert normalize(said) == name
    assert normalize(f" {said.upper() if '//' not in said else said}\n") == name
    assert not name or family(name) in FAMILIES
    assert normalize(name) == name


def test_versions_that_are_said_separately():
    assert normalize("by-nc", "2.0") == "cc-by-nc-2.0"
    assert normalize("cc0", "1.0") == "cc0-1.0"
    assert normalize("pdm", "1.0") == "pdm"
    assert normalize("CC BY 3.0", "2.0") == "cc-by-3.0"
