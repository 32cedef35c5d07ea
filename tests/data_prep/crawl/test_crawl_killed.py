"""A crawl of 20,000 real images that is killed with SIGKILL again and again: nothing lost, nothing twice."""

import hashlib
import io
import os
import random
import subprocess
import tarfile
import time
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fastlt.data_prep.catalog import Catalog
from fastlt.data_prep.crawl import reasons
from fastlt.data_prep.perceptual.index import HashIndex
from support.crawling import command, write_list
from support.paths import SHARED
from support.web import Answer, Web

ARCHIVE = SHARED / "data" / "tin_lt.zip"
URLS, KILLS, HOSTS = 20_000, 10, 4


@pytest.fixture(scope="module")
def images():
    """{path: bytes} of all different JPEGs in the archive."""
    if not ARCHIVE.is_file():
        pytest.skip(f"needs {ARCHIVE.name}, real images that are not part of this project")
    with zipfile.ZipFile(ARCHIVE) as archive:
        names = [name for name in archive.namelist() if name.lower().endswith((".jpg", ".jpeg"))]
        contents = {archive.read(name): name for name in names}
    return {name: content for content, name in contents.items()}


@pytest.mark.slow
def test_killed_ten_times_it_ends_with_each_image_once(tmp_path, images):
    rng = random.Random(0)
    names = sorted(images)
    good = names[: URLS * 8 // 10]
    twice = rng.choices(good, k=URLS // 10)
    broken = [f"broken{i}.jpg" for i in range(URLS // 10)]
    plan = [(name, f"{i}-{name.replace('/', '_')}") for i, name in enumerate([*good, *twice])]
    plan += [(name, name) for name in broken]
    rng.shuffle(plan)
    slow = {path for _, path in rng.sample(plan, URLS // 20)}
    moved = {path for _, path in rng.sample(plan, URLS // 20)}
    content = {path: images.get(name, b"") for name, path in plan}
    for i, path in enumerate(broken):
        whole = images[good[i]]
        content[path] = (whole[: len(whole) // 2], b"<html>gone</html>", b"")[i % 3]

    def answer(host: str, path: str) -> Answer | None:
        name = path[1:]
        if name in moved and not path.startswith("//"):
            return Answer(status=302, headers={"Location": f"http://{host}/moved/{name}"})
        name = name.removeprefix("moved/")
        return Answer(content[name], delay=0.1 if name in slow else 0) if name in content else None

    with Web(answer, HOSTS) as web:
        rows = [(f"http://{web.hosts[i % HOSTS]}/{path}", "a", "", "") for i, (_, path) in enumerate(plan)]
        catalog = tmp_path / "c.sqlite"
        words = ["--per-host", 32, "--size", 48, "--images-per-shard", 1000, "--duplicates", 2]
        run = [*command(catalog, *words), "--urls", str(write_list(tmp_path / "list.csv", rows))]
        for _ in range(KILLS):
            until = web.asked.total() + rng.randrange(1, 2 * URLS // (KILLS + 5))
            process = subprocess.Popen(run, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
            while web.asked.total() < until:
                assert process.poll() is None
                time.sleep(0.005)
            process.kill()
            process.wait()
        last = subprocess.run(run, capture_output=True, text=True, timeout=300)
        assert last.returncode == 0, last.stderr
        most_asked = max(n for (_, path), n in web.asked.items() if path != "/robots.txt")
    assert most_asked <= KILLS + 1
    contents = {hashlib.sha256(images[name]).digest() for name in good}
    check(catalog, {row[0] for row in rows}, contents, len(broken), len(twice))


def check(path: Path, urls: set[str], contents: set[bytes], num_broken: int, num_twice: int) -> None:
    """Every URL has one outcome, every different content is there or looks like one that is, every shard is whole."""
    with Catalog(path) as catalog:
        one = catalog.connection.execute
        candidates = one("SELECT * FROM candidate").fetchall()
        images = {row["id"]: row for row in one("SELECT * FROM image")}
        assert {row["url"] for row in candidates} == urls
        states = Counter((row["state"], row["reason"]) for row in candidates)
        damaged = sum(n for (state, why), n in states.items() if why in ("damaged image", "not an image"))
        assert damaged == num_broken
        assert states["fetched", ""] == len(images)
        assert states["dropped", reasons.DUPLICATE] + states["dropped", reasons.NEAR_DUPLICATE] + len(images) == (
            len(contents) + num_twice
        )
        assert states.total() == len(urls)
        # Each image once: no bytes twice, no two that look alike, and what was dropped looks like one that was kept.
        kept = {bytes(row["sha256"]) for row in images.values()}
        assert len(kept) == len(images)
        assert kept <= contents
        index = HashIndex(2)
        for row in images.values():
            one = np.array([row["hash"]])
            assert index.nearest(one)[0] == -1
            index.add(one)
        assert all(row["twin"] in images for row in candidates if row["reason"].endswith("duplicate"))
        assert len(contents) - len(kept) <= states["dropped", reasons.NEAR_DUPLICATE]
        # The shards have exactly these images, each decodable where the catalog says that it lies.
        names = Counter()
        for shard in range(max(row["shard"] for row in images.values()) + 1):
            with tarfile.open(catalog.shard_path(shard)) as tar:
                for member in tar:
                    names[member.name] += 1
                    if member.name.endswith(".jpg"):
                        row = images[int(member.name.split(".")[0])]
                        assert (row["shard"], row["offset"], row["num_bytes"]) == (
                            shard, member.offset_data, member.size,
                        )  # fmt: skip
                        Image.open(io.BytesIO(tar.extractfile(member).read())).load()
        assert set(names.values()) == {1}
        assert len(names) == 2 * len(images)
        assert not [name for name in os.listdir(catalog.shards_folder) if "partial" in name]
        assert catalog.status()["shard"] == {"done": shard + 1}
