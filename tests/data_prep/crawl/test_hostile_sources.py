"""Image sources, robots.txt and headers that may be anybody's: each costs its own question, and never the crawl."""

from __future__ import annotations

import gzip
import json
import re
import subprocess
import sys
import time
from collections import Counter

import pytest

pytest.importorskip("aiohttp")

from fastlt.cli import main
from fastlt.data_prep.catalog import Catalog
from support.crawling import command, jpeg, outcomes, write_list
from support.web import Answer, Web

BAD, GOOD = "bad thing", "good thing"
LETTERS = "ABCDEFGHIJKLMNOP"
BAD_QUESTION = re.compile(f"bad.{{1,3}}thing.{{1,3}}([{LETTERS}])")


def openverse(images: str, **changed: object) -> dict[str, object]:
    record = {
        "url": f"{images}/good.jpg",
        "foreign_landing_url": f"{images}/page",
        "license": "by",
        "license_version": "4.0",
        "filetype": "jpg",
        "attribution": "by somebody",
    }
    return {"result_count": 1, "page_count": 1, "results": [record | changed]}


# Started by a small process, whose children count no memory of this one.
MEASURED = [
    sys.executable,
    "-c",
    "import resource, subprocess, sys\n"
    "code = subprocess.call(sys.argv[1:])\n"
    "print('kilobytes:', resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)\n"
    "sys.exit(code)",
]


def crawled(tmp_path, bad: list[bytes], source: str = "openverse", headers: list[dict[str, str]] | None = None):
    """A crawl for a category for each of the `bad` answers that a source gives, and one for which it gives an image."""
    catalog = tmp_path / "c.sqlite"
    if not catalog.exists():
        with Catalog(catalog, create=True) as opened, opened.transaction():
            for title in (*(f"{BAD} {LETTERS[i]}" for i in range(len(bad))), GOOD):
                opened.add_category(title.replace(" ", "_"), title)

    def answer(host: str, path: str) -> Answer | None:
        if path == "/robots.txt":
            return None
        if path.endswith("good.jpg"):
            return Answer(jpeg(3))
        if asked := BAD_QUESTION.search(path):
            i = LETTERS.index(asked[1])
            return Answer(bad[i], headers=headers[i] if headers else {})
        return Answer(json.dumps(openverse(f"http://{host}")).encode())

    with Web(answer) as web:
        base = f"{source}=http://{web.hosts[0]}/api"
        done = subprocess.run(
            MEASURED + command(catalog, "--source", source, "--source-url", base),
            capture_output=True,
            text=True,
            timeout=240,
        )
        done.asked = Counter()
        for (_, path), number in web.asked.items():
            if found := BAD_QUESTION.search(path):
                done.asked[LETTERS.index(found[1])] += number
    with Catalog(catalog) as opened:
        done.search = opened.status()["search"]
    return done


UNREADABLE = {
    "deep": b"[" * 100_000,
    "deep and whole": b'{"results": ' + b"[" * 900 + b"]" * 900 + b"}",
    "deep in a record": b'{"page_count": 1, "results": [{"url": ' + b'{"a":' * 900 + b"1" + b"}" * 900 + b"}]}",
    "many": b'{"page_count": 1, "results": [' + b"{}," * 5_000_000 + b"{}]}",
    "long": b'{"page_count": 1, "results": [' + b" " * 20_000_000 + b"]}",
    "digits": b'{"results": [], "page_count": ' + b"9" * 5000 + b"}",
    "infinity": b'{"results": [], "page_count": Infinity}',
    "no text": b"\xff\xfe\x00\x80" * 1000,
    "escapes": b'{"detail": "\x1b[31m\\u001b]0;owned\\u0007\\u202e"}',
    "null": b"null",
    "half a character": b'{"results": "\\ud800"}',
    "packed": gzip.compress(b"[" * 100_000),
}


def test_an_answer_that_cannot_be_read_costs_one_request_and_no_crawl(tmp_path):
    headers = [{"Content-Encoding": "gzip"} if kind == "packed" else {} for kind in UNREADABLE]
    bad = list(UNREADABLE.values())
    done = crawled(tmp_path, bad, headers=headers)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert outcomes(tmp_path / "c.sqlite") == {"good.jpg": "fetched"}
    assert done.search["done"] == {"": 1}
    assert sum(done.search["failed"].values()) == len(bad)
    for reason, number in done.search["failed"].items():
        assert f"WARNING: {number} searches failed ({reason}); the same command asks again." in done.stderr
        assert reason.isprintable()
        assert len(reason) < 400
    once_each = dict.fromkeys(range(len(bad)), 1)
    assert done.asked == once_each
    again = crawled(tmp_path, bad, headers=headers)
    assert again.returncode == 0, again.stderr
    assert again.asked == once_each
    assert again.search == done.search


OTHER_FORMS = [
    [],
    {"results": [{}], "page_count": 1e300, "total_results": -1, "endOfRecords": 0},
    {"results": [[], None, {"id": None, "key": {}, "url": [], "license": {}}], "page_count": True},
    {"error": {"info": {"a": "b"}}, "query": {"pages": [{"imageinfo": [[]]}]}, "continue": []},
    {"query": [], "continue": {"a": {}, "b": "\ud800"}, "matchType": "EXACT", "usageKey": 10**4000},
    {"query": {"pages": {}}, "batchcomplete": 1, "continue": {"a" * 9_999: "b" * 9_999}},
]


@pytest.mark.parametrize("source", ["openverse", "commons", "gbif", "inaturalist"])
def test_answers_of_other_forms_end_no_crawl(tmp_path, source):
    done = crawled(tmp_path, [json.dumps(form).encode() for form in OTHER_FORMS], source=source)
    assert "Traceback" not in done.stderr
    assert done.returncode in (0, 1)  # 1 says that there was no image
    assert sum(number for reasons in done.search.values() for number in reasons.values()) == len(OTHER_FORMS) + 1


def test_sixty_megabytes_of_nothing_take_no_gigabyte(tmp_path):
    done = crawled(tmp_path, [b'{"page_count": 1, "results": [' + b"{}," * 20_000_000 + b"{}]}"])
    assert done.returncode == 0, done.stderr
    assert done.search["failed"] == {"openverse: the answer is longer than 16,777,216 bytes": 1}
    assert int(done.stdout.rpartition("kilobytes: ")[2]) < 600_000


def test_what_a_source_says_of_an_image_is_harmless_where_it_is_kept(tmp_path):
    catalog = tmp_path / "c.sqlite"
    with Catalog(catalog, create=True) as opened, opened.transaction():
        opened.add_category("bird", "bird")
    said = "\x1b[31mAnn\x00\u202e \ud800" + "x" * 100_000
    with Web(lambda host, path: None if path == "/robots.txt" else pages(host, path, said)) as web:
        base = f"openverse=http://{web.hosts[0]}/api"
        done = subprocess.run(
            command(catalog, "--source", "openverse", "--source-url", base), capture_output=True, text=True, timeout=120
        )
    assert done.returncode == 0, done.stderr
    with Catalog(catalog) as opened:
        row = opened.candidate(1)
    assert row["attribution"].startswith("[31mAnn ?xxx")
    assert row["attribution"].isprintable()
    assert len(row["attribution"]) < 11_000


def pages(host: str, path: str, said: str) -> Answer:
    if path.endswith("good.jpg"):
        return Answer(jpeg(3))
    return Answer(json.dumps(openverse(f"http://{host}", attribution=said)).encode())


def test_credits_that_take_time_with_the_square_of_their_length(tmp_path):
    """Commons writes HTML: a megabyte of < that nothing closes."""
    info = {
        "url": "http://127.0.0.1:9/a.jpg",
        "mime": "image/jpeg",
        "extmetadata": {
            "LicenseShortName": {"value": "CC BY 4.0"},
            "Artist": {"value": "<" * 10**6 + "&#" + "9" * 5000},
        },
    }
    answer = {"batchcomplete": True, "query": {"pages": [{"index": 1, "imageinfo": [info]}]}}
    start = time.monotonic()
    done = crawled(tmp_path, [json.dumps(answer).encode()], source="commons")
    assert "Traceback" not in done.stderr
    assert done.search["done"] == {"": 1}
    assert time.monotonic() - start < 60


HEADERS = [
    {"Retry-After": "Mon, 01 Jan 99999999999999999999 00:00:00 GMT"},
    {"Retry-After": "Mon, 01 Jan 2020 99999999999999999999:00:00 GMT"},
    {"Retry-After": "9" * 5000},
    {"Retry-After": "Mon, 01 Jan 2020 00:00:00 GMT", "Date": "Mon, 99999999999999999999 Jan 2020 00:00:00 GMT"},
    {"Retry-After": "\x80\xff"},
]


def test_headers_of_one_host_end_no_crawl(tmp_path):
    def answer(host: str, path: str) -> Answer | None:
        if path == "/robots.txt":
            return None
        return Answer(b"", 503, HEADERS[int(path[5])]) if path.startswith("/busy") else Answer(jpeg(4))

    with Web(answer, len(HEADERS) + 1) as web:
        rows = [(f"http://{host}/busy{i}.jpg", "bird", "", "") for i, host in enumerate(web.hosts[1:])]
        rows.append((f"http://{web.hosts[0]}/good.jpg", "bird", "", ""))
        words = command(tmp_path / "c.sqlite", "--urls", write_list(tmp_path / "l.csv", rows), "--timeout", 5)
        done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    found = outcomes(tmp_path / "c.sqlite")
    assert found.pop("good.jpg") == "fetched"
    assert len(found) == len(HEADERS)
    assert all(said.startswith("failed: ") for said in found.values())


def test_status_shows_an_old_catalog_without_what_a_terminal_obeys_and_without_credentials(tmp_path, capsys):
    with Catalog(tmp_path / "c.sqlite", create=True) as opened, opened.transaction():
        opened.enter_targets([("bird", "bird", "[]", 1)])
        opened.set_target_state(
            1, "open", "500: \x1b[31mAuthorization: Bearer sk-live-51Zq\x9b http://ann:horse@host/ \u202e"
        )
        opened.count_unusable_answer("\x1b]0;owned\x07")
    for words in ([], ["--json"]):
        assert main(["status", str(tmp_path / "c.sqlite"), *words]) == 0
        said = capsys.readouterr().out
        assert all(c.isprintable() or c == "\n" for c in said)
        assert "Bearer ***" in said
        assert "http://***@host/" in said
        assert "sk-live" not in said
        assert "horse" not in said
