"""`fastlt crawl` as a user types it, against a site with every vice of the web."""

import contextlib
import gzip
import json
import shutil
import signal
import struct
import subprocess
import sys
import tarfile
import time
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import webdataset
from PIL import Image

from fastlt.data_prep.catalog import Candidate, Catalog
from fastlt.data_prep.crawl.lists.columns import Asked
from fastlt.data_prep.crawl.lists.urls import UrlList, add_urls
from fastlt.dataset.images import in_tar, read_image
from support.crawling import command, encoded, jpeg, outcomes, photograph, write_list
from support.source_servers import SourceServers
from support.web import Answer, Web

pytestmark = pytest.mark.medium


def png_of_size(width: int, height: int) -> bytes:
    """A PNG of a few hundred bytes that says it is that large."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


def crawl(catalog: Path, *words: object) -> subprocess.CompletedProcess:
    return subprocess.run(command(catalog, *words), capture_output=True, text=True, timeout=120)


def image_of(catalog: Catalog, ending: str) -> Image.Image:
    row = catalog.connection.execute(
        "SELECT image.* FROM image JOIN candidate USING (id) WHERE url LIKE ?", [f"%/{ending}"]
    ).fetchone()
    return read_image(in_tar(catalog.shard_path(row["shard"]), row["offset"], row["num_bytes"]))


def exif_rotated(image: Image.Image) -> bytes:
    exif = Image.Exif()
    exif[274] = 6
    return encoded(image, exif=exif)


def animated() -> bytes:
    return encoded(photograph(1), "GIF", save_all=True, append_images=[photograph(2)])


def translucent() -> Image.Image:
    image = photograph(21, "RGBA")
    image.putalpha(0)
    return image


def chunks(body: bytes) -> bytes:
    parts = [body[at : at + 7] for at in range(0, len(body), 7)]
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in [*parts, b""])


DEEP = Image.fromarray(np.asarray(photograph(22, "L")).astype(np.uint16) << 8)
GOOD = {
    "good.jpg": Answer(jpeg(0)),
    "good.png": Answer(encoded(photograph(3), "PNG")),
    "good.webp": Answer(encoded(photograph(4), "WEBP")),
    "good.gif": Answer(encoded(photograph(5), "GIF")),
    "gray.jpg": Answer(encoded(photograph(6, "L"))),
    "cmyk.jpg": Answer(encoded(photograph(7, "CMYK"))),
    "palette.png": Answer(encoded(photograph(8, "P"), "PNG")),
    "translucent.png": Answer(encoded(translucent(), "PNG")),
    "deep.png": Answer(encoded(DEEP, "PNG")),
    "rotated.jpg": Answer(exif_rotated(photograph(9))),
    "large.jpg": Answer(encoded(photograph(10, size=(900, 600)))),
    "html-type.jpg": Answer(jpeg(11), headers={"Content-Type": "text/html"}),
    "no-length.jpg": Answer(jpeg(12), length=-1),
    "chunked.jpg": Answer(chunks(jpeg(26)), headers={"Transfer-Encoding": "chunked"}, length=-1),
    "redirected.jpg": Answer(status=302, headers={"Location": "/behind.jpg"}),
    "gzipped.jpg": Answer(gzip.compress(jpeg(17)), headers={"Content-Encoding": "gzip"}),
    "deflated.jpg": Answer(zlib.compress(jpeg(23)), headers={"Content-Encoding": "deflate"}),
    "by-a-proxy.jpg": Answer(jpeg(24), status=203),
    "long-header.jpg": Answer(jpeg(25), headers={"Content-Security-Policy": "img-src https://images.example; " * 400}),
    "for-others.jpg": Answer(jpeg(14), headers={"X-Robots-Tag": "otherbot: noai, max-snippet: 3"}),
}
# Many servers mark robots.txt itself as nothing for an index.
ROBOTS = Answer(b"User-agent: *\nDisallow: /forbidden.jpg\n", headers={"X-Robots-Tag": "noindex"})
BAD = {
    "absent.jpg": (Answer(status=404), "dropped: status 404"),
    "prose.jpg": (
        Answer(b"<html>no image here</html>", headers={"Content-Type": "image/jpeg"}),
        "dropped: not an image",
    ),
    "script.svg": (Answer(b"<svg xmlns='http://www.w3.org/2000/svg'><script/></svg>"), "dropped: not an image"),
    "truncated.jpg": (Answer(jpeg(15)[:-700]), "dropped: damaged image"),
    "truncated.png": (Answer(encoded(photograph(15), "PNG")[:-700]), "dropped: damaged image"),
    "animated.gif": (Answer(animated()), "dropped: animated"),
    "bomb.png": (Answer(png_of_size(60_000, 60_000)), "dropped: too many pixels (--max-megapixels)"),
    "empty.jpg": (Answer(b""), "dropped: not an image"),
    "icon.png": (Answer(encoded(photograph(16, size=(16, 16)), "PNG")), "dropped: too small (--min-side)"),
    "gzip-bomb.jpg": (
        Answer(gzip.compress(bytes(50 * 2**20)), headers={"Content-Encoding": "gzip"}),
        "dropped: too many bytes (--max-megabytes)",
    ),
    "says-10gb.jpg": (Answer(jpeg(18), length=10 * 2**30), "dropped: too many bytes (--max-megabytes)"),
    "endless.jpg": (Answer(jpeg(18), length=-1, endless=True), "dropped: too many bytes (--max-megabytes)"),
    "cut.jpg": (Answer(jpeg(19), length=len(jpeg(19)) + 9), "failed: cut off"),
    "hangs.jpg": (Answer(jpeg(19), delay=30), "failed: too slow"),
    "drips.jpg": (Answer(jpeg(19), drip=True), "failed: too slow"),
    "circle.jpg": (Answer(status=302, headers={"Location": "/circle.jpg"}), "dropped: too many redirects"),
    "to-ftp.jpg": (Answer(status=302, headers={"Location": "ftp://127.0.0.1/x.jpg"}), "dropped: redirect to nowhere"),
    "to-file.jpg": (Answer(status=302, headers={"Location": "file:///etc/passwd"}), "dropped: redirect to nowhere"),
    "noai.jpg": (
        Answer(jpeg(20), headers={"X-Robots-Tag": "noai, noimageai"}),
        "dropped: opted out (--ignore-opt-outs)",
    ),
    "not-us.jpg": (
        Answer(jpeg(20), headers={"X-Robots-Tag": "fastlt: noindex"}),
        "dropped: opted out (--ignore-opt-outs)",
    ),
    "tdm.jpg": (Answer(jpeg(20), headers={"TDM-Reservation": "1"}), "dropped: opted out (--ignore-opt-outs)"),
    "forbidden.jpg": (Answer(jpeg(20)), "dropped: robots.txt forbids it (--ignore-robots)"),
    "error.jpg": (Answer(status=500), "failed: status 500"),
}


@pytest.fixture(scope="module")
def crawled(tmp_path_factory):
    """A catalog after a crawl of everything above, and the site."""
    folder = tmp_path_factory.mktemp("crawled")
    pages = GOOD | {name: answer for name, (answer, _) in BAD.items()}
    pages |= {"behind.jpg": Answer(jpeg(13)), "robots.txt": ROBOTS}
    # Three names of one image, and one that only looks the same.
    pages |= {f"same{i}.jpg": Answer(jpeg(30)) for i in range(3)} | {"alike.jpg": Answer(jpeg(30, quality=40))}
    with Web(lambda host, path: pages.get(path[1:])) as web:
        names = [*GOOD, *BAD, "same0.jpg", "same1.jpg", "same2.jpg", "alike.jpg"]
        rows = [(f"http://{web.hosts[0]}/{name}", "Red Kite", "cc-by-4.0", "Ann O'Nym") for name in names]
        urls = write_list(folder / "list.csv", rows)
        options = ["--timeout", 2, "--max-megabytes", 1, "--size", 60, "--images-per-shard", 6]
        done = crawl(folder / "c.sqlite", "--urls", urls, *options)
        assert done.returncode == 0, done.stderr
        yield folder / "c.sqlite", web, done


def test_every_answer_is_kept_or_dropped_for_its_reason(crawled):
    found = outcomes(crawled[0])
    assert {name: found[name] for name in GOOD} == dict.fromkeys(GOOD, "fetched")
    assert {name: found[name] for name in BAD} == {name: reason for name, (_, reason) in BAD.items()}


def test_duplicates_are_kept_once(crawled):
    found = outcomes(crawled[0])
    of_bytes = [found[f"same{i}.jpg"] for i in range(3)]
    assert found["alike.jpg"] in ("fetched", "dropped: near-duplicate (--duplicates)")
    assert sorted([*of_bytes, found["alike.jpg"]]).count("fetched") == 1
    with Catalog(crawled[0]) as catalog:
        twins = catalog.connection.execute("SELECT twin FROM candidate WHERE reason LIKE '%duplicate%'").fetchall()
        images = {row[0] for row in catalog.connection.execute("SELECT id FROM image")}
    assert len(twins) == 3
    assert {twin for (twin,) in twins} <= images


def test_shards_hold_clean_images_with_their_license(crawled):
    with Catalog(crawled[0]) as catalog:
        shards = sorted(catalog.shards_folder.glob("*.tar"))
        assert [p.name for p in catalog.shards_folder.iterdir() if "partial" in p.name] == []
        (fetched,) = catalog.connection.execute("SELECT count(*) FROM image").fetchone()
        for row in catalog.connection.execute("SELECT * FROM image"):  # offsets lead to whole JPEGs
            image = read_image(in_tar(catalog.shard_path(row["shard"]), row["offset"], row["num_bytes"]))
            assert image.size == (row["width"], row["height"])
            assert min(image.size) <= 60
    samples = [s for shard in shards for s in webdataset.WebDataset(str(shard), shardshuffle=False).decode("pil")]
    assert len(samples) == fetched == len(GOOD) + 1
    for sample in samples:
        about = sample["json"]
        assert sample["jpg"].mode == "RGB"
        assert (about["category"], about["license"], about["attribution"]) == ("red_kite", "cc-by-4.0", "Ann O'Nym")
        assert about["url"].startswith("http://127.0.0.1:")
    statistics = [json.loads(shard.with_name(f"{shard.stem}_stats.json").read_text()) for shard in shards]
    assert sum(s["images"] for s in statistics) == fetched
    assert [s["images"] for s in statistics[:-1]] == [6] * (len(shards) - 1)
    assert sum(s["licenses"]["cc-by-4.0"] for s in statistics) == fetched


def test_pixels_are_what_a_person_would_see(crawled):
    with Catalog(crawled[0]) as catalog:
        for name, original in {
            "good.jpg": photograph(0),
            "good.png": photograph(3),
            "cmyk.jpg": photograph(7, "CMYK").convert("RGB"),
            "deep.png": photograph(22, "L").convert("RGB"),
            "rotated.jpg": photograph(9).rotate(-90, expand=True),
            "large.jpg": photograph(10, size=(900, 600)),
            "translucent.png": Image.new("RGB", (90, 70), "white"),
        }.items():
            image = image_of(catalog, name)
            expected = original.resize(image.size, Image.Resampling.LANCZOS)
            off = np.abs(np.asarray(image, np.float32) - np.asarray(expected, np.float32)).mean()
            assert off < 6, name
            assert min(image.size) == 60


def test_manners(crawled):
    _, web, _ = crawled
    assert web.asked[web.hosts[0], "/robots.txt"] == 1
    assert web.asked[web.hosts[0], "/forbidden.jpg"] == 0
    assert web.asked[web.hosts[0], "/absent.jpg"] == 1
    assert web.asked[web.hosts[0], "/error.jpg"] == 3
    assert all("test@example.org" in agent and agent.startswith("fastlt/") for agent in web.agents)


def test_a_second_run_asks_nothing_and_a_retry_asks_what_failed(crawled):
    path, web, _ = crawled
    before = web.asked.total()
    assert crawl(path).returncode == 0
    assert web.asked.total() == before
    failed = [name for name, (_, reason) in BAD.items() if reason.startswith("failed")]
    assert crawl(path, "--retry", "--timeout", 1).returncode == 0
    asked = {path[1:] for (_, path), n in web.asked.items() if path != "/robots.txt"}
    assert web.asked.total() > before
    assert asked >= set(failed)


def test_a_busy_host_is_waited_for(tmp_path):
    times: list[float] = []

    def answer(host: str, path: str) -> Answer | None:
        if path == "/robots.txt":
            return None
        times.append(time.monotonic())
        return Answer(status=429, headers={"Retry-After": "2"}) if len(times) == 1 else Answer(jpeg(40))

    with Web(answer) as web:
        urls = write_list(tmp_path / "l.csv", [(f"http://{web.hosts[0]}/a.jpg", "a", "", "")])
        assert crawl(tmp_path / "c.sqlite", "--urls", urls).returncode == 0
    assert times[1] - times[0] > 1.9
    assert outcomes(tmp_path / "c.sqlite") == {"a.jpg": "fetched"}


def test_hosts_that_do_not_answer_are_given_up(tmp_path):
    with Web(lambda host, path: Answer(jpeg(41)) if path == "/a.jpg" else None) as web:
        port = web.hosts[0].split(":")[1]
        dead = [(f"http://127.0.0.9:{port}/{i}.jpg", "a", "", "") for i in range(500)]
        waits = [(f"http://{web.hosts[0]}/a.jpg", "a", "", "")]
        urls = write_list(tmp_path / "l.csv", dead + waits)
        assert crawl(tmp_path / "c.sqlite", "--urls", urls, "--timeout", 1, "--ignore-robots").returncode == 0
    found = outcomes(tmp_path / "c.sqlite")
    assert found.pop("a.jpg") == "fetched"
    assert set(found.values()) <= {"failed: no connection", "failed: host does not answer"}
    assert list(found.values()).count("failed: host does not answer") > 400


def test_a_host_is_not_to_blame_for_where_it_redirects(tmp_path):
    def answer(host: str, path: str) -> Answer | None:
        if path == "/good.jpg":
            return Answer(jpeg(42), delay=0.2)
        return Answer(status=302, headers={"Location": f"http://127.0.0.9:{host.split(':')[1]}{path}"})

    with Web(answer) as web:
        names = [f"{i}.jpg" for i in range(60)] + ["good.jpg"]
        rows = [(f"http://{web.hosts[0]}/{name}", "a", "", "") for name in names]
        urls = write_list(tmp_path / "l.csv", rows)
        assert crawl(tmp_path / "c.sqlite", "--urls", urls, "--ignore-robots").returncode == 0
    found = outcomes(tmp_path / "c.sqlite")
    assert found.pop("good.jpg") == "fetched"
    assert set(found.values()) == {"failed: no connection", "failed: host does not answer"}


def test_sources_feed_the_crawl(tmp_path):
    """From a category's title to images, by way of the documented APIs, paging included."""
    photographs = {}

    def answer(host: str, path: str) -> Answer | None:
        photographs.setdefault(path, len(photographs) + 100)
        return None if path == "/robots.txt" else Answer(jpeg(photographs[path]))

    with Web(answer) as web, SourceServers(count=7, images=f"http://{web.hosts[0]}") as servers:
        with Catalog(tmp_path / "c.sqlite", create=True) as catalog, catalog.transaction():
            catalog.add_category("black_kite", "black kite")
        names = ("inaturalist", "commons", "openverse")
        urls = [word for name in names for word in ("--source-url", f"{name}={servers.base_url(name)}")]
        done = crawl(tmp_path / "c.sqlite", "--source", *names, *urls)
        assert done.returncode == 0, done.stderr
        with Catalog(tmp_path / "c.sqlite") as catalog:
            status = catalog.status()
            licenses = {row[0] for row in catalog.connection.execute("SELECT license FROM candidate")}
            sources = {row[0] for row in catalog.connection.execute("SELECT DISTINCT source FROM candidate")}
        assert sources == set(names)
        assert status["search"] == {"done": {"": 3}}
        assert set(status["candidate"]) == {"fetched"}
        assert "" not in licenses


def test_a_source_that_does_not_answer_is_said(tmp_path):
    with Web(lambda host, path: Answer(b"<html>") if path != "/robots.txt" else None) as web:
        with Catalog(tmp_path / "c.sqlite", create=True) as catalog, catalog.transaction():
            catalog.add_category("black_kite", "black kite")
        done = crawl(tmp_path / "c.sqlite", "--source", "openverse", "--source-url", f"openverse=http://{web.hosts[0]}")
        assert done.returncode == 1
        assert "not one image was found" in done.stderr
        with Catalog(tmp_path / "c.sqlite") as catalog:
            assert catalog.status()["search"] == {"failed": {"openverse: the answer is not JSON": 1}}


def test_a_category_without_images_is_a_warning_and_none_at_all_an_error(tmp_path):
    with Web(lambda host, path: Answer(jpeg(50)) if path == "/a.jpg" else None) as web:
        rows = [(f"http://{web.hosts[0]}/{name}.jpg", name, "", "") for name in ("a", "b")]
        done = crawl(tmp_path / "c.sqlite", "--urls", write_list(tmp_path / "l.csv", rows))
        assert done.returncode == 0
        assert "WARNING: no image of 1 category was found: b." in done.stderr
        done = crawl(tmp_path / "d.sqlite", "--urls", write_list(tmp_path / "l.csv", rows[1:]))
        assert done.returncode == 1
        assert "not one image was found" in done.stderr


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--source", "flickr"], "there is no image source 'flickr', only inaturalist"),
        (["--contact", ""], "say how sites can reach you"),
        (["--urls", "absent.csv"], "there is no list of URLs"),
        (["--duplicates", "16"], "it must lie in 0..15"),
        (["--quality", "101"], "it must lie in 1..100"),
        (["--per-host", "0"], "nothing could be fetched"),
        (["--connections", "0"], "nothing could be fetched"),
        (["--images-per-shard", "0"], "give at least 1"),
        (["--policy", "absent.yaml"], "policy 'absent.yaml' cannot be read"),
    ],
)
def test_mistakes_are_one_sentence(tmp_path, words, sentence):
    with Catalog(tmp_path / "c.sqlite", create=True) as catalog, catalog.transaction():
        catalog.add_candidates([Candidate(catalog.add_category("a", "a"), "http://127.0.0.1:9/a.jpg", "x", "list")])
    done = crawl(tmp_path / "c.sqlite", *words)
    assert done.returncode == 1
    assert sentence in done.stderr
    assert done.stderr.count("\n") == 1


def test_an_empty_catalog_and_no_catalog(tmp_path):
    assert "there is no catalog at" in crawl(tmp_path / "c.sqlite").stderr
    (tmp_path / "t.sqlite").write_text("This is not a database, it is a text that someone took for one.\n" * 20)
    assert "cannot be used as a catalog" in crawl(tmp_path / "t.sqlite").stderr
    Catalog(tmp_path / "c.sqlite", create=True).connection.close()
    assert "has no category to crawl" in crawl(tmp_path / "c.sqlite").stderr


def test_a_second_crawl_on_the_same_catalog_says_so(tmp_path):
    with Web(lambda host, path: None if path == "/robots.txt" else Answer(jpeg(60), delay=20)) as web:
        urls = write_list(tmp_path / "l.csv", [(f"http://{web.hosts[0]}/a.jpg", "a", "", "")])
        words = command(tmp_path / "c.sqlite", "--urls", urls)
        first = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
        while not web.asked[web.hosts[0], "/a.jpg"]:
            time.sleep(0.05)
        second = crawl(tmp_path / "c.sqlite")
        assert second.returncode == 1
        assert f"crawl (process {first.pid}) is running on it" in second.stderr
        first.send_signal(signal.SIGTERM)
        said = first.communicate(timeout=10)[1]
        assert first.returncode == 130
        assert said == "fastlt: stopped; 1 URLs wait, with which the same command goes on\n"
    assert outcomes(tmp_path / "c.sqlite") == {"a.jpg": "new"}


def test_a_full_disk_is_said_and_gone_on_from(tmp_path):
    """On a file system of a megabyte; afterwards the same catalog on a larger one ends with every image once."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("needs root, to make a small file system")
    try:
        with Web(
            lambda host, path: Answer(jpeg(int(path[1:-4]), quality=95)) if path != "/robots.txt" else None
        ) as web:
            urls = write_list(tmp_path / "l.csv", [(f"http://{web.hosts[0]}/{i}.jpg", "a", "", "") for i in range(600)])
            done = crawl(disk / "c.sqlite", "--urls", urls, "--images-per-shard", 100)
            assert done.returncode == 1
            assert done.stderr.count("\n") == 1
            assert "No space left" in done.stderr or "disk is full" in done.stderr
            shutil.copytree(disk, tmp_path / "larger")
            assert crawl(tmp_path / "larger" / "c.sqlite").returncode == 0
    finally:
        subprocess.run(["umount", str(disk)], check=True)
    with Catalog(tmp_path / "larger" / "c.sqlite") as catalog:
        assert catalog.status()["candidate"] == {"fetched": {"": 600}}
        names = []
        for shard in catalog.shards_folder.glob("*.tar"):
            with tarfile.open(shard) as tar:
                names += tar.getnames()
    assert len(names) == len(set(names)) == 1200


def test_status_counts_every_stage(crawled):
    fastlt = str(Path(sys.executable).with_name("fastlt"))
    done = subprocess.run([fastlt, "status", str(crawled[0]), "--json"], capture_output=True, text=True)
    found = json.loads(done.stdout)
    assert found["image"] == {"new": len(GOOD) + 1}
    assert found["candidate"]["dropped"]["opted out (--ignore-opt-outs)"] == 3
    assert found["category"] == {"kept": 1}
    text = subprocess.run([fastlt, "status", str(crawled[0])], capture_output=True, text=True).stdout
    assert "dropped: robots.txt forbids it (--ignore-robots)" in text
    assert "candidate URLs" in text


@pytest.mark.parametrize(
    ("robots", "allowed"),
    [
        ("User-agent: fast\nDisallow: /\n\nUser-agent: *\nDisallow: /private/\n", "/x.jpg"),
        ("User-agent: fast\nDisallow: /private/\n\nUser-agent: *\nDisallow: /x.jpg\n", "/private/x.jpg"),
        ("\ufeffuser-agent : FastLT/0.1\nDisallow: /x.jpg\n\nUser-agent: *\nDisallow: /\n", "/private/x.jpg"),
        ("User-agent: fastlt-news\nUser-agent: other\nDisallow: /\n", "/x.jpg /private/x.jpg"),
    ],
)
def test_a_rule_is_for_a_whole_product_token(tmp_path, robots, allowed):
    """RFC 9309, 2.2.1: neither one that begins like ours nor one that ours begins like."""
    paths = ("/x.jpg", "/private/x.jpg")
    pages = {"/robots.txt": Answer(robots.encode()), "/x.jpg": Answer(jpeg(1)), "/private/x.jpg": Answer(jpeg(2))}
    with Web(lambda host, path: pages.get(path)) as web:
        rows = [(f"http://{web.hosts[0]}{path}", "a", "", "") for path in paths]
        crawl(tmp_path / "c.sqlite", "--urls", write_list(tmp_path / "l.csv", rows))
        assert {path for path in paths if web.asked[web.hosts[0], path]} == set(allowed.split())


def test_a_host_that_asks_for_days_between_requests_is_given_up(tmp_path):
    robots = Answer(b"User-agent: *\nCrawl-delay: 86400\n")
    with Web(lambda host, path: robots if path == "/robots.txt" else Answer(jpeg(3))) as web:
        rows = [(f"http://{web.hosts[0]}/{i}.jpg", "a", "", "") for i in range(3)]
        crawl(tmp_path / "c.sqlite", "--urls", write_list(tmp_path / "l.csv", rows))
    assert outcomes(tmp_path / "c.sqlite")["2.jpg"] == "failed: robots.txt asks for 86,400 s between requests"


def test_a_robots_file_of_many_rules_costs_no_other_host(tmp_path):
    """Rules x length of a URL is what comparing them takes; a redirect can make any URL long."""
    rules = "User-agent: *\n" + "".join(f"Disallow: /*ab{i % 10}\n" for i in range(30_000))
    moved = {"/evil1.jpg": "a" * 7_000, "/evil2.jpg": "a" * 100_000}

    def answer(host: str, path: str) -> Answer | None:
        if host == web.hosts[0]:
            return None if path == "/robots.txt" else Answer(jpeg(int(path[1:-4])))
        if path == "/robots.txt":
            return Answer(rules.encode())
        return Answer(status=302, headers={"Location": f"/{moved[path]}"}) if path in moved else Answer(jpeg(50))

    with Web(answer, 2) as web:
        rows = [(f"http://{web.hosts[0]}/{i}.jpg", "a", "", "") for i in range(20)]
        rows += [(f"http://{web.hosts[1]}{path}", "a", "", "") for path in (*moved, "/short.jpg")]
        crawl(tmp_path / "c.sqlite", "--urls", write_list(tmp_path / "l.csv", rows))
    found = outcomes(tmp_path / "c.sqlite")
    assert Counter(found[f"{i}.jpg"] for i in range(20)) == {"fetched": 20}
    assert found["short.jpg"] == "fetched"
    assert found["evil1.jpg"] == "dropped: robots.txt has too many rules for so long a URL (--ignore-robots)"
    assert found["evil2.jpg"] == "dropped: redirect to nowhere"


def test_a_list_that_grew_is_read_again(tmp_path):
    with Web(lambda host, path: None if path == "/robots.txt" else Answer(jpeg(int(path[1:-4])))) as web:
        rows = [(f"http://{web.hosts[0]}/{i}.jpg", "a", "", "") for i in range(4)]
        for known, count in ((0, 2), (2, 2), (2, 4)):
            if known != count:
                write_list(tmp_path / "l.csv", rows[:count])
            done = crawl(tmp_path / "c.sqlite", "--urls", tmp_path / "l.csv")
            assert f"{count - known} new URLs" in done.stdout
            assert len(outcomes(tmp_path / "c.sqlite")) == count


def test_a_crawl_that_fetches_nothing_new_fails(tmp_path):
    with Web(pictures) as web:
        urls = write_list(tmp_path / "l.csv", [(f"http://{web.hosts[0]}/1.jpg", "a", "", "")])
        assert crawl(tmp_path / "c.sqlite", "--urls", urls).returncode == 0
        host = web.hosts[0]
        assert crawl(tmp_path / "c.sqlite").returncode == 0  # there was nothing to do
    more = write_list(tmp_path / "more.csv", [(f"http://{host}/{i}.jpg", "a", "", "") for i in (2, 3)])
    done = crawl(tmp_path / "c.sqlite", "--urls", more)  # where nobody answers any more
    assert done.returncode == 1
    assert done.stderr.endswith("fastlt: error: nothing new was fetched: 2 URLs failed, for the reasons above.\n")
    assert outcomes(tmp_path / "c.sqlite")["2.jpg"] == "failed: robots.txt cannot be read: no connection"


def pictures(host: str, path: str) -> Answer | None:
    """A picture at every /NUMBER.jpg."""
    return None if path == "/robots.txt" else Answer(jpeg(int(path[1:-4])))


def categories(catalog: Path) -> dict[str, list[str]]:
    """{category: last parts of the URLs of its images}."""
    with Catalog(catalog) as opened:
        rows = opened.connection.execute(
            "SELECT name, url FROM category LEFT JOIN image ON image.category = category.id LEFT JOIN candidate"
            " ON candidate.id = image.id ORDER BY name, url"
        ).fetchall()
    found: dict[str, list[str]] = {}
    for name, url in rows:
        found.setdefault(name, []).extend([url.rsplit("/", 1)[1]] if url else [])
    return found


def test_labels_that_differ_by_a_sign_stay_apart(tmp_path):
    labels = ["C", "C++", "C#", "A+", "A-", "Black kite", "black_kite"]
    with Web(pictures) as web:
        rows = [(f"http://{web.hosts[0]}/{i}.jpg", label, "", "") for i, label in enumerate(labels)]
        done = crawl(tmp_path / "c.sqlite", "--urls", write_list(tmp_path / "l.csv", rows))
    assert categories(tmp_path / "c.sqlite") == {
        "c": ["0.jpg"], "c_plus_plus": ["1.jpg"], "c_sharp": ["2.jpg"], "a_plus": ["3.jpg"], "a_minus": ["4.jpg"],
        "black_kite": ["5.jpg", "6.jpg"],
    }  # fmt: skip
    assert "1 category stands under several labels: 'Black kite' = 'black_kite'" in done.stdout


def test_licenses_hold_for_lists_too(tmp_path):
    catalog, licenses = tmp_path / "c.sqlite", ["CC BY 4.0", "All rights reserved", "", "CC0"]
    with Web(pictures) as web:
        rows = [(f"http://{web.hosts[0]}/{i}.jpg", "kite", license, "") for i, license in enumerate(licenses)]
        urls = write_list(tmp_path / "l.csv", rows)
        refused = crawl(catalog, "--urls", urls, "--licenses", "nonsense")
        assert (refused.returncode, catalog.exists()) == (1, False)
        assert "license 'nonsense' is unknown" in refused.stderr
        done = crawl(catalog, "--urls", urls, "--licenses", "cc-by")
        left_out = "dropped: license is not allowed (--licenses)"
        assert outcomes(catalog) == {"0.jpg": "fetched", "1.jpg": left_out, "2.jpg": left_out, "3.jpg": left_out}
        assert "3 URLs are left out: license is not allowed (--licenses)" in done.stdout
        done = crawl(catalog, "--urls", urls)
        assert "as before in this catalog: --licenses cc-by" in done.stdout
        assert outcomes(catalog)["3.jpg"] == left_out
        crawl(catalog, "--licenses", "cc-by", "cc0")
        assert outcomes(catalog) == {"0.jpg": "fetched", "1.jpg": left_out, "2.jpg": left_out, "3.jpg": "fetched"}
        assert web.asked[web.hosts[0], "/1.jpg"] == 0
        crawl(catalog, "--licenses", "any")
        assert set(outcomes(catalog).values()) == {"fetched"}
        crawl(catalog, "--licenses", "cc0")  # one that was forgotten at first
        with Catalog(catalog) as opened:
            assert [len(images) for images in opened.kept_images(unfiltered=True).values()] == [1]
    assert web.asked[web.hosts[0], "/0.jpg"] == 1


def test_a_list_that_is_imported_again_corrects_what_it_said(tmp_path):
    catalog, urls = tmp_path / "c.sqlite", tmp_path / "l.csv"
    with Web(pictures) as web:
        lines = [f"http://{web.hosts[0]}/{i}.jpg,{'kite' if i < 2 else 'owl'},p{i},CC0" for i in range(4)]
        urls.write_text("\n".join(["url,seen,page,license", *lines, *lines]) + "\n")
        refused = crawl(catalog, "--urls", urls)
        assert "does seen hold the labels? Say so with --label-column, or with --label-column none" in refused.stderr
        with Catalog(catalog) as opened:
            assert opened.cut_lists() == []  # nothing of it was taken
        done = crawl(catalog, "--urls", urls, "--label-column", "none")
        assert "8 rows; url=url, license=license, page=page, no label" in done.stdout
        assert "4 rows with a URL that stood before" in done.stdout
        assert categories(catalog) == {"all": ["0.jpg", "1.jpg", "2.jpg", "3.jpg"]}
        done = crawl(catalog, "--urls", urls, "--label-column", "seen", "--page-column", "none")
        assert "0 new URLs, 4 changed" in done.stdout
        assert categories(catalog) == {"kite": ["0.jpg", "1.jpg"], "owl": ["2.jpg", "3.jpg"]}
        with Catalog(catalog) as opened:
            assert {row["page"] for row in opened.candidates([1, 2, 3, 4]).values()} == {""}
        urls.write_text("\n".join(["url,seen,page,license", *lines[1:]]) + "\n")  # remembers which columns
        assert "url=url, label=seen, license=license" in crawl(catalog, "--urls", urls).stdout
    assert sum(n for (_, path), n in web.asked.items() if path != "/robots.txt") == 4  # nothing twice


def test_an_import_that_was_killed_is_said_and_ends_the_next_time(tmp_path):
    catalog, number = tmp_path / "c.sqlite", 60_000
    with Web(pictures) as web:
        # One may be fetched; the others are there to be entered.
        rows = [(f"http://{web.hosts[0]}/{i}.jpg", "kite", "cc0" if i == 7 else "none", "") for i in range(number)]
        urls = write_list(tmp_path / "l.csv", rows)
        words = [*command(catalog, "--urls", urls), "--licenses", "cc0"]
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        entered = 0
        while not entered and process.poll() is None:
            time.sleep(0.005)
            if catalog.exists():
                with contextlib.suppress(ValueError), Catalog(catalog) as opened:  # not made yet
                    entered = opened.num_candidates()
        process.kill()
        process.wait()
        assert 0 < entered < number
        done = crawl(catalog, "--licenses", "cc0")
        assert f"warning: the import of {urls} was interrupted: give --urls {urls} again for the rest" in done.stdout
        done = crawl(catalog, "--urls", urls)
        assert done.returncode == 0
        assert "interrupted" not in crawl(catalog).stdout
        with Catalog(catalog) as opened:
            assert opened.num_candidates() == number
            assert len(opened.listed(1)) == number
    assert {path for _, path in web.asked} == {"/robots.txt", "/7.jpg"}


def test_what_a_list_has_no_more_is_left_out(tmp_path):
    """The wrong column of URLs was named: what it brought goes, and hides nothing that the right one brings."""
    catalog, urls = tmp_path / "c.sqlite", tmp_path / "l.csv"
    # 0: other bytes that look the same, as a thumbnail's do. 1: the same bytes at both places.
    pages = {f"/large{i}.jpg": Answer(jpeg(i)) for i in range(3)}
    pages |= {
        "/small0.jpg": Answer(jpeg(0, quality=40)),
        "/small1.jpg": Answer(jpeg(1)),
        "/small2.jpg": Answer(jpeg(5)),
    }
    with Web(lambda host, path: pages.get(path)) as web:
        at = f"http://{web.hosts[0]}"
        lines = [f"{at}/large{i}.jpg,{at}/small{i}.jpg,kite" for i in range(3)]
        urls.write_text("\n".join(["a,b,label", *lines]) + "\n")
        crawl(catalog, "--urls", urls, "--url-column", "b")
        assert categories(catalog) == {"kite": ["small0.jpg", "small1.jpg", "small2.jpg"]}
        done = crawl(catalog, "--urls", urls, "--url-column", "a")
        assert "3 URLs that stood in this list once and no more, left out" in done.stdout
        left_out = {f"small{i}.jpg": "dropped: no longer in its list" for i in range(3)}
        assert outcomes(catalog) == {f"large{i}.jpg": "fetched" for i in range(3)} | left_out
        with Catalog(catalog) as opened:
            taken = opened.kept_images(unfiltered=True)["kite"]
            assert len({read_image(place).tobytes() for place in taken}) == 3
        urls.write_text("\n".join(["a,b,label", *lines[:2]]) + "\n")
        write_list(tmp_path / "other.csv", [(f"{at}/large1.jpg", "kite", "", "")])
        crawl(catalog, "--urls", tmp_path / "other.csv")
        assert "1 URL that stood in this list once and no more, left out" in crawl(catalog, "--urls", urls).stdout
        urls.write_text("\n".join(["a,b,label", lines[2]]) + "\n")
        done = crawl(catalog, "--urls", urls)
        assert "1 URL that had left this list, taken again" in done.stdout
        # What the other list has too stays.
        assert [outcomes(catalog)[f"large{i}.jpg"] for i in range(3)] == [left_out["small0.jpg"], "fetched", "fetched"]
    assert web.asked[web.hosts[0], "/large2.jpg"] == 1


def test_what_repeats_an_image_takes_its_place(tmp_path):
    catalog = tmp_path / "c.sqlite"
    with Web(lambda host, path: None if path == "/robots.txt" else Answer(jpeg(0))) as web:
        licenses = ("cc0", "cc-by", "cc0")
        rows = [(f"http://{web.hosts[0]}/{i}.jpg", "kite", license, f"Ann {i}") for i, license in enumerate(licenses)]
        crawl(catalog, "--urls", write_list(tmp_path / "l.csv", rows), "--per-host", 1)
        assert list(outcomes(catalog).values()) == ["fetched", "dropped: duplicate", "dropped: duplicate"]
        done = crawl(catalog, "--licenses", "cc-by")
        assert "1 URL is tried again: what had the same image is left out now" in done.stdout
        left_out = "dropped: license is not allowed (--licenses)"
        assert outcomes(catalog) == {"0.jpg": left_out, "1.jpg": "fetched", "2.jpg": "dropped: duplicate"}
        assert categories(catalog) == {"kite": ["1.jpg"]}
        with tarfile.open(sorted((tmp_path / "c_shards").glob("*.tar"))[-1]) as tar:  # with its own license
            (about,) = (json.load(tar.extractfile(member)) for member in tar if member.name.endswith(".json"))
        assert (about["license"], about["attribution"]) == ("cc-by", "Ann 1")
        crawl(catalog, "--licenses", "any")
        assert sorted(outcomes(catalog).values()) == ["dropped: duplicate", "dropped: duplicate", "fetched"]


def test_what_is_taken_back_is_filtered_again_and_repeats_nothing(tmp_path):
    catalog = tmp_path / "c.sqlite"
    pages = {"/0.jpg": Answer(jpeg(0)), "/1.jpg": Answer(jpeg(0, quality=40)), "/2.jpg": Answer(jpeg(2))}
    with Web(lambda host, path: pages.get(path)) as web:
        licenses = ("cc0", "cc-by", "cc0")
        rows = [(f"http://{web.hosts[0]}/{i}.jpg", "kite", license, "") for i, license in enumerate(licenses)]
        crawl(catalog, "--urls", write_list(tmp_path / "l.csv", rows), "--per-host", 1)
        with Catalog(catalog) as opened, opened.transaction():
            opened.judge_images([("kept", "", 0.9, None, 1), ("kept", "", 0.9, None, 3)])
        crawl(catalog, "--licenses", "cc-by")
        with Catalog(catalog) as opened:
            assert opened.status()["image"] == {"new": {"": 1}}
        crawl(catalog, "--licenses", "any")
        assert outcomes(catalog) == {
            "0.jpg": "dropped: near-duplicate (--duplicates)", "1.jpg": "fetched", "2.jpg": "fetched"
        }  # fmt: skip
        with Catalog(catalog) as opened, pytest.raises(ValueError, match=r"2 images of .* were not filtered"):
            opened.kept_images()
    assert web.asked[web.hosts[0], "/2.jpg"] == 1  # it lay in a shard


def test_a_cut_import_with_other_columns_is_taken_back(tmp_path):
    (tmp_path / "l.csv").write_text(
        "a,b,label\n" + "".join(f"https://a.example/{i}.jpg,https://a.example/small{i}.jpg,x\n" for i in range(9000))
    )
    with Catalog(tmp_path / "c.sqlite", create=True) as catalog:
        add_urls(catalog, tmp_path / "l.csv", Asked(url="a"))
        for number, _ in enumerate(UrlList(tmp_path / "l.csv", Asked(url="b"))):
            if number == 0:  # as an import does that is killed after its first batch
                with catalog.transaction():
                    at = catalog.begin_list(tmp_path / "l.csv")
                    kite = catalog.add_category("kite", "kite")
                    catalog.add_candidates([Candidate(kite, "https://a.example/small1.jpg", "a.example:443", "list")])
                    catalog.set_listed(at, [catalog.candidate_of_url("https://a.example/small1.jpg")])
        assert catalog.cut_lists() == [str(tmp_path / "l.csv")]
        added = add_urls(catalog, tmp_path / "l.csv", Asked(url="a"))
        assert "1 URL that stood in this list once and no more, left out" in added.lines
        assert catalog.num_waiting() == 9000
        assert [row["name"] for row in catalog.categories(kept=True)] == ["x"]
        assert catalog.cut_lists() == []


def test_a_url_in_two_lists_is_as_the_one_says_that_still_has_it(tmp_path):
    url = "https://a.example/1.jpg"
    for name, text in (("a", f"url,label,license\n{url},owl,cc0\n"), ("b", f"url,label\n{url},kite\n{url}2,kite\n")):
        (tmp_path / f"{name}.csv").write_text(text)
    with Catalog(tmp_path / "c.sqlite", create=True) as catalog:

        def add(name: str) -> list[str]:
            add_urls(catalog, tmp_path / f"{name}.csv")
            return [catalog.candidate(1)[key] for key in ("category_name", "license", "state")]

        assert add("a") == ["owl", "cc0-1.0", "new"]
        assert add("b") == ["kite", "cc0-1.0", "new"]  # b says nothing of licenses
        (tmp_path / "b.csv").write_text(f"url,label\n{url}2,kite\n")
        add("b")
        assert add("a") == ["owl", "cc0-1.0", "new"]
        (tmp_path / "a.csv").write_text(f"url,label\n{url}3,owl\n")
        add("a")
        assert catalog.candidate(1)["reason"] == "no longer in its list"
        # A source may find it after all.
        kite = catalog.add_category("kite", "kite")
        assert catalog.add_candidates([Candidate(kite, url, "a.example:443", "gbif")]) == 1
        assert catalog.candidate(1)["state"] == "new"


def test_what_a_list_says_no_more_is_taken_back(tmp_path):
    url = "https://a.example/1.jpg"
    with Catalog(tmp_path / "c.sqlite", create=True) as catalog:
        (tmp_path / "a.csv").write_text(f"url,label,license\n{url},owl,cc0\n")
        (tmp_path / "b.csv").write_text(f"url,label\n{url},owl\n")
        for name in "ab":
            add_urls(catalog, tmp_path / f"{name}.csv")
        assert catalog.candidate(1)["license"] == "cc0-1.0"
        (tmp_path / "a.csv").write_text(f"url,label,license\n{url},owl,\n")
        (tmp_path / "sub").mkdir()
        assert add_urls(catalog, tmp_path / "sub" / ".." / "a.csv").changed == 1  # the same list
        assert catalog.candidate(1)["license"] == ""
        assert catalog.listed(1) == catalog.listed(2) == [1]


def test_a_category_that_was_rejected_is_taken_as_a_list_has_it(tmp_path):
    (tmp_path / "l.csv").write_text("url,label\nhttps://a.example/1.jpg,lynx\nhttps://a.example/2.jpg,puma\n")
    with Catalog(tmp_path / "c.sqlite", create=True) as catalog:
        catalog.reject_category(catalog.add_category("lynx", "lynx"), "is a target")
        added = add_urls(catalog, tmp_path / "l.csv")
        assert "categories that were rejected before, taken in as the list has them: lynx" in added.lines
        assert "2 categories: lynx, puma" in added.lines
        assert [row["name"] for row in catalog.categories(kept=True)] == ["lynx", "puma"]


def test_what_a_list_does_not_say_stays(tmp_path):
    with Catalog(tmp_path / "c.sqlite", create=True) as catalog:
        category = catalog.add_category("kite", "kite")
        found = Candidate(category, "https://a.example/1.jpg", "a.example:443", "gbif", "p", "cc-by-4.0", "Ann")
        catalog.add_candidates([found])
    (tmp_path / "l.csv").write_text("url,label\nhttps://a.example/1.jpg,owl\n" + "https://a.example/2.jpg,owl\n" * 9000)
    with Catalog(tmp_path / "c.sqlite") as catalog:
        added = add_urls(catalog, tmp_path / "l.csv")
        assert (added.new, added.changed) == (1, 1)
        assert "8,999 rows with a URL that stood before, whose first row counts" in added.lines
        row = catalog.candidate(1)
    assert [row[key] for key in ("category_name", "page", "license", "attribution")] == ["owl", "p", "cc-by-4.0", "Ann"]


def test_what_an_option_dropped_is_tried_again_without_it(tmp_path):
    catalog = tmp_path / "c.sqlite"
    robots = Answer(b"User-agent: *\nDisallow: /1.jpg\n")
    pages = {"/robots.txt": robots, "/2.jpg": Answer(encoded(photograph(2, size=(40, 30)))), "/3.jpg": Answer(jpeg(3))}
    pages |= {"/1.jpg": Answer(jpeg(1)), "/4.jpg": Answer(jpeg(4), headers={"X-Robots-Tag": "noai"})}
    with Web(lambda host, path: pages.get(path)) as web:
        rows = [(f"http://{web.hosts[0]}/{i}.jpg", "kite", "", "") for i in range(1, 5)]
        urls = write_list(tmp_path / "l.csv", rows)
        words = [word for word in command(catalog, "--urls", urls, "--min-side", 32) if word != "--allow-private"]
        done = subprocess.run(words, capture_output=True, text=True, timeout=120)
        assert done.returncode == 1
        assert set(outcomes(catalog).values()) == {"dropped: not a public address (--allow-private)"}
        done = crawl(catalog, "--urls", urls)
        assert "4 URLs are tried again that were dropped: not a public address (--allow-private)" in done.stdout
        assert outcomes(catalog) == {
            "1.jpg": "dropped: robots.txt forbids it (--ignore-robots)", "2.jpg": "dropped: too small (--min-side)",
            "3.jpg": "fetched", "4.jpg": "dropped: opted out (--ignore-opt-outs)",
        }  # fmt: skip
        crawl(catalog, "--min-side", 20)
        assert outcomes(catalog)["2.jpg"] == "fetched"
        done = crawl(catalog, "--ignore-robots", "--ignore-opt-outs")
        assert "as before in this catalog: --min-side 20" in done.stdout
        assert set(outcomes(catalog).values()) == {"fetched"}
        assert web.asked[web.hosts[0], "/3.jpg"] == 1
