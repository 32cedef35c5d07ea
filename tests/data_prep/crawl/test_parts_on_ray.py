"""Four parts on a Ray cluster of three nodes, of which two are killed: one outcome for each URL, and manners kept."""

import bisect
import random
import subprocess
import time
import zipfile
from collections import Counter
from pathlib import Path

import pytest

from fastlt.data_prep.catalog import Catalog
from fastlt.data_prep.crawl.parts import one_part
from fastlt.data_prep.crawl.parts.lease import InUseError, LeaseLostError
from fastlt.data_prep.crawl.parts.part import parts_of
from fastlt.data_prep.crawl.parts.shares import Share
from support.crawling import command, jpeg, write_list
from support.paths import BIN, SHARED
from support.web import Answer, Web

ARCHIVE = SHARED / "data" / "tin_lt.zip"
URLS, DRAWN, HOSTS, PARTS, RATE = 20_000, 2_000, 12, 4, 40


def images() -> dict[str, bytes]:
    """{path: JPEG}: real ones, of which some are there twice, or drawn ones where these are not at hand."""
    if not ARCHIVE.is_file():
        return {f"{i}.jpg": jpeg(i % (DRAWN - 100)) for i in range(DRAWN)}
    with zipfile.ZipFile(ARCHIVE) as archive:
        names = [name for name in archive.namelist() if name.lower().endswith((".jpg", ".jpeg"))]
        chosen = random.Random(0).sample(names, min(URLS, len(names)))
        return {name.replace("/", "_"): archive.read(name) for name in chosen}


@pytest.mark.slow
def test_nodes_are_killed_and_every_url_has_one_outcome(tmp_path, cluster):
    content = images()
    rng = random.Random(1)
    with Web(lambda _, path: Answer(content[path[1:]]) if path[1:] in content else None, HOSTS) as web:
        listed = [(f"http://{web.hosts[i % HOSTS]}/{name}", "a", "", "") for i, name in enumerate(content)]
        rows = write_list(tmp_path / "l.csv", listed)
        catalog, alone = tmp_path / "c.sqlite", tmp_path / "alone.sqlite"
        words = ["--size", 48, "--duplicates", -1, "--ignore-robots"]
        entered = subprocess.run(
            [*command(catalog, *words), "--urls", str(rows), "--list-only"], capture_output=True, text=True
        )
        assert entered.returncode == 0, entered.stderr
        polite = ["--rate", RATE, "--per-host", 8, "--lease", 20, "--workers", 1]
        run = command(catalog, *words, *polite, "--ray", cluster.address, "--parts", PARTS)
        driver = subprocess.Popen(run, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for kill in (1, 2):
            until = len(content) * kill // 4
            while web.asked.total() < until:
                assert driver.poll() is None, driver.communicate()
                time.sleep(0.05)
            workers = [node for node in cluster.list_all_nodes() if node is not cluster.head_node]
            cluster.remove_node(rng.choice(workers), allow_graceful=False)
            cluster.add_node(num_cpus=2)
        _, error = driver.communicate(timeout=900)
        assert driver.returncode == 0, error
        require_manners(web.log)
        ended = outcomes_of_parts(catalog)
        assert set(ended) <= {"fetched", "dropped"}
        assert ended.total() == len(content)
        merged = subprocess.run([BIN / "fastlt", "merge", catalog], capture_output=True, text=True)
        assert merged.returncode == 0, merged.stderr
        done = subprocess.run([*command(alone, *words), "--urls", str(rows)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    with Catalog(catalog) as one, Catalog(alone) as other:
        assert contents(one) == contents(other)
        assert one.num_waiting() == 0
        assert one.num_candidates() == len(content)


@pytest.mark.slow
def test_parts_that_were_begun_are_gone_on_with(tmp_path):
    """However many machines the cluster has by now."""
    pytest.importorskip("ray")
    with Web(lambda _, path: Answer(jpeg(int(path[1]))) if path[2:] == ".jpg" else None, 4) as web:
        listed = [(f"http://{web.hosts[i % 4]}/{i}.jpg", "a", "", "") for i in range(8)]
        catalog, rows = tmp_path / "c.sqlite", write_list(tmp_path / "l.csv", listed)
        for words in (["--urls", rows, "--list-only"], ["--part", "1/2"], ["--ray", "local"]):
            done = subprocess.run(command(catalog, *words), capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
        assert [share.parts for share in parts_of(catalog)] == [2, 2]
        assert outcomes_of_parts(catalog) == {"fetched": 8}


def test_a_part_whose_process_stood_still_is_run_again(monkeypatch):
    monkeypatch.setattr(one_part, "_AGAIN", 0.0)
    lost = [LeaseLostError("this process stood still"), InUseError("another one works on it")]

    def fetch(share: Share) -> None:
        if lost:
            raise lost.pop(0)
        print(share)

    assert one_part.fetch_part(fetch, Share(1, 2)) == ("part 1 of 2\n", "")


def require_manners(log: list[tuple[float, str, str]]) -> None:
    """No host was asked more often in any second than it was to be, as two owners would have."""
    for host in {host for _, host, _ in log}:
        times = sorted(at for at, of, _ in log if of == host)
        most = max(bisect.bisect_right(times, at + 1.0) - i for i, at in enumerate(times))
        assert most <= 1.25 * RATE + 2, (host, most)


def outcomes_of_parts(catalog: Path) -> Counter[str]:
    """{state: candidates} over all parts."""
    found: Counter[str] = Counter()
    for path in parts_of(catalog).values():
        with Catalog(path) as part:
            found.update(row[0] for row in part.connection.execute("SELECT state FROM candidate"))
    return found


def contents(catalog: Catalog) -> set[bytes]:
    return {bytes(row[0]) for row in catalog.connection.execute("SELECT sha256 FROM image_in_use")}
