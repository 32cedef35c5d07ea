"""Images made to hurt decoders: each costs little, is counted by its reason, and many of them cost their host."""

import io
import itertools
import os
import subprocess
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from bench.inputs import hostile_images as hostile
from support.crawling import command, encoded, jpeg, outcomes, photograph, write_list
from support.web import Answer, Web

pytestmark = pytest.mark.medium

TOO_LARGE = "dropped: too large to decode (--max-megapixels)"
TOO_SLOW = "dropped: too slow to decode"
GIVEN_UP = "failed: host serves images that are too much for decoders"
TILES = Answer(hostile.tiff_of_huge_tiles())


def crawl(folder: Path, urls: list[str], *words: object, **variables: str) -> dict[str, str]:
    rows = [(url, "a", "", "") for url in urls]
    words = ["--urls", write_list(folder / "l.csv", rows), "--ignore-robots", "--workers", 2, *words]
    done = subprocess.run(
        command(folder / "c.sqlite", *words), capture_output=True, text=True, timeout=300, env=os.environ | variables
    )
    assert "Traceback" not in done.stderr
    return outcomes(folder / "c.sqlite")


def test_bombs_of_every_format_are_stopped_and_cost_nobody_else_an_image(tmp_path):
    bombs = {
        "canvas.webp": (hostile.huge_webp(), TOO_LARGE),
        "canvas-wide.webp": (hostile.huge_webp(16_000, 6_200), TOO_LARGE),
        "tiles.tif": (hostile.tiff_of_huge_tiles(), TOO_LARGE),
        "tiles-small.tif": (hostile.tiff_of_huge_tiles(12_000), TOO_LARGE),
        "scans.jpg": (hostile.jpeg_of_many_scans(), TOO_SLOW),
        "comments.gif": (hostile.gif_of_comments(), TOO_SLOW),
        "says-so.webp": (hostile.huge_webp(16_384, 16_384), "dropped: too many pixels (--max-megapixels)"),
        "says-so.png": (hostile.huge_png(), "dropped: too many pixels (--max-megapixels)"),
        "text.png": (hostile.text_bomb(b"zTXt", 100), "dropped: not an image"),
        "profile.png": (hostile.text_bomb(b"iCCP", 100), "dropped: not an image"),
    }
    good = {f"good{i}.jpg": jpeg(i) for i in range(40)}
    pages = {f"/{name}": Answer(body) for name, body in good.items()}
    pages |= {f"/{name}": Answer(body) for name, (body, _) in bombs.items()}
    with Web(lambda host, path: pages.get(path), 12) as web:
        # A host for each bomb, with good images beside it.
        urls = [f"http://{web.hosts[at]}/{name}" for at, name in enumerate(bombs)]
        urls += [f"http://{web.hosts[at % 12]}/{name}" for at, name in enumerate(good)]
        found = crawl(tmp_path, urls)
    assert {name: found[name] for name in bombs} == {name: reason for name, (_, reason) in bombs.items()}
    assert {found[name] for name in good} == {"fetched"}


@pytest.mark.slow
def test_the_largest_image_that_is_allowed_is_decoded(tmp_path):
    """Everything that a decoder holds at once fits: colors with transparency, and a turn."""
    wide = photograph(1, size=(5_000, 4_990))
    exif = wide.getexif()
    exif[274] = 6
    large = wide.convert("RGBA")
    large.putalpha(100)
    pages = {
        "/wide.jpg": Answer(encoded(wide, progressive=True, subsampling=0)),
        "/clear.png": Answer(encoded(large, "PNG", compress_level=1)),
        "/turned.png": Answer(encoded(wide, "PNG", compress_level=1, exif=exif)),
        "/wide.tif": Answer(encoded(wide, "TIFF", compression="tiff_deflate")),
    }
    with Web(lambda host, path: pages.get(path)) as web:
        urls = [f"http://{web.hosts[0]}{path}" for path in pages]
        found = crawl(tmp_path, urls, "--max-megabytes", 200, "--max-megapixels", 25, "--duplicates", -1)
    assert set(found.values()) == {"fetched"}


@pytest.mark.slow
def test_what_was_too_large_is_tried_again_with_a_higher_limit(tmp_path):
    with Web(lambda host, path: TILES if "tif" in path else Answer(hostile.huge_webp(9000, 9000))) as web:
        urls = [f"http://{web.hosts[0]}/2.webp", f"http://{web.hosts[0]}/tiles.tif"]
        found = crawl(tmp_path, urls, "--duplicates", -1)
        assert (found["2.webp"], found["tiles.tif"]) == (TOO_LARGE, TOO_LARGE)
        found = crawl(tmp_path, urls, "--duplicates", -1, "--max-megapixels", 150)
        assert (found["2.webp"], found["tiles.tif"]) == ("fetched", TOO_LARGE)


def test_a_host_of_such_images_is_given_up(tmp_path):
    with Web(lambda host, path: TILES, 2) as web:
        urls = [f"http://{web.hosts[0]}/{i}.tif" for i in range(100)]
        found = crawl(tmp_path, urls)
        asked = web.asked.total()
    assert Counter(found.values()).keys() == {TOO_LARGE, GIVEN_UP}
    assert asked < 20


def test_what_is_no_image_makes_up_for_none(tmp_path):
    with Web(lambda host, path: TILES if path.endswith("tif") else Answer(b"a"), 1) as web:
        names = [f"{i}.{'tif' if i % 13 == 12 else 'jpg'}" for i in range(300)]
        found = crawl(tmp_path, [f"http://{web.hosts[0]}/{name}" for name in names])
    assert GIVEN_UP in found.values()


@pytest.mark.medium
def test_a_large_webp_that_is_worth_its_bytes_is_decoded(tmp_path):
    """libwebp takes half as much memory again as other decoders do."""
    file = io.BytesIO()
    tile = photograph(1, size=(500, 500))
    image = Image.new("RGB", (8_000, 7_500))
    for at in itertools.product(range(0, 8_000, 500), range(0, 7_500, 500)):
        image.paste(tile, at)
    image.save(file, "WEBP", quality=30, method=0)
    with Web(lambda host, path: Answer(file.getvalue())) as web:
        found = crawl(tmp_path, [f"http://{web.hosts[0]}/1.webp"], "--max-megapixels", 61)
    assert found == {"1.webp": "fetched"}


def test_broken_images_cost_their_host_nothing(tmp_path):
    damaged = Answer(jpeg(1)[:-700])
    with Web(lambda host, path: damaged if "bad" in path else Answer(jpeg(int(path[1:-4])))) as web:
        names = [f"bad{i}.jpg" for i in range(100)] + [f"{i}.jpg" for i in range(20)]
        found = crawl(tmp_path, [f"http://{web.hosts[0]}/{name}" for name in names])
    assert Counter(found.values()) == {"dropped: damaged image": 100, "fetched": 20}


def test_a_host_with_many_good_images_is_kept(tmp_path):
    with Web(lambda host, path: TILES if "bad" in path else Answer(jpeg(int(path[1:-4])))) as web:
        names = [f"{i}.jpg" for i in range(90)] + [f"bad{i}.tif" for i in range(7)] + ["90.jpg", "91.jpg", "92.jpg"]
        found = crawl(tmp_path, [f"http://{web.hosts[0]}/{name}" for name in names])
    assert Counter(found.values()) == {"fetched": 93, TOO_LARGE: 7}


def test_who_redirects_to_such_a_host_is_not_to_blame(tmp_path):
    def answer(host: str, path: str) -> Answer:
        if "good" in path:
            return Answer(jpeg(int(path[5:-4])), delay=0.05)
        if host.startswith("127.0.0.1:"):
            return Answer(status=302, headers={"Location": f"http://127.0.0.2:{host.split(':')[1]}{path}"})
        return TILES

    with Web(answer, 2) as web:
        names = [f"{i}.tif" for i in range(60)] + [f"good{i}.jpg" for i in range(20)]
        found = crawl(tmp_path, [f"http://{web.hosts[0]}/{name}" for name in names])
    assert {found[f"good{i}.jpg"] for i in range(20)} == {"fetched"}
    assert {found[f"{i}.tif"] for i in range(60)} == {TOO_LARGE, GIVEN_UP}


def test_what_comes_beside_a_body_has_an_end(tmp_path):
    """Chunks of a byte, and the size of a chunk that has no end, are work for the crawler and no bytes of a body."""
    how = {"headers": {"Transfer-Encoding": "chunked"}, "length": -1, "endless": True}
    pages = {"/good.jpg": Answer(jpeg(0)), "/bytes.jpg": Answer(b"1\r\na\r\n" * 1000, **how)}
    pages |= {"/size.jpg": Answer(b"0" * 10_000, **how)}
    with Web(lambda host, path: pages.get(path)) as web:
        found = crawl(tmp_path, [f"http://{web.hosts[0]}{path}" for path in pages], "--timeout", 20)
    too_many = "dropped: too many bytes (--max-megabytes)"
    assert found == {"good.jpg": "fetched", "bytes.jpg": too_many, "size.jpg": too_many}


def test_no_image_starts_ghostscript(tmp_path):
    """An EPS is no image, whatever it is called: Pillow would hand it to the first `gs` of PATH."""
    started = tmp_path / "started"
    (tmp_path / "bin").mkdir()
    for name in ("gs", "gswin32c", "gswin64c"):
        script = tmp_path / "bin" / name
        script.write_text(f"#!/bin/sh\ntouch {started}\n")
        script.chmod(0o755)
    path = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
    pages = {"/good.jpg": Answer(jpeg(0)), "/eps.jpg": Answer(hostile.eps_that_writes(started))}
    with Web(lambda host, path: pages.get(path)) as web:
        found = crawl(tmp_path, [f"http://{web.hosts[0]}{path}" for path in pages], PATH=path)
    assert found == {"good.jpg": "fetched", "eps.jpg": "dropped: not an image"}
    assert not started.exists()
