"""The simulation of crawls on machines that are not there, and the page that tells of it."""

import json
import math
import re
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch

from bench.harness import records, scale_page
from bench.harness.crawl_model import DAY, HostLimit, crawl, owners, seconds_until, zipf
from bench.harness.recorded_machine import CRAWL, IMAGE_BYTES, MANY_HOSTS, START, Recorded
from support.paths import ROOT, SHARED

PAGE = (ROOT / "docs" / "scale.md").read_text()
FOUND = records.of_last_commit(ROOT / "bench" / "results" / "scale-amd-epyc.jsonl")


def ends(requests, speed=math.inf, rate=math.inf, a_day=math.inf, connections=256):
    part = crawl(requests, speed, HostLimit(rate, a_day), connections)
    assert part.done[-1] == pytest.approx(sum(requests))
    return part.seconds[-1]


def test_a_host_takes_as_long_as_its_limit_says():
    assert ends([50], rate=10) == pytest.approx(5)
    assert ends([50, 20, 1], rate=10) == pytest.approx(5)  # beside each other


def test_hosts_share_the_machine_and_end_when_it_has_done_everything():
    assert ends([50, 20, 1], speed=10) == pytest.approx(7.1)
    assert ends([50, 20, 1], speed=10, rate=5) == pytest.approx(10.1)  # 0.3 s of three, 3.8 s of two, 6 s of one


def test_a_host_gives_no_more_than_it_may_in_a_day():
    assert ends([250], rate=10, a_day=100) == pytest.approx(2 * DAY + 5)
    assert ends([250, 8], rate=10, a_day=100, connections=1) == pytest.approx(2 * DAY + 5.8)  # it keeps its place


def test_hosts_wait_for_a_connection_in_their_order():
    assert ends([10, 10, 10], rate=1, connections=1) == pytest.approx(30)
    assert ends([10, 10, 40], rate=1, connections=2) == pytest.approx(50)
    assert ends([40, 10, 10], rate=1, connections=2) == pytest.approx(40)


@pytest.mark.parametrize("seed", range(5))
def test_nothing_is_faster_than_machine_and_hosts_allow(seed):
    """The simulation beside one in steps of a thousandth of the whole."""
    rng = np.random.default_rng(seed)
    requests, speed, rate, connections = rng.integers(1, 60, 20), rng.uniform(5, 60), rng.uniform(1, 9), 6
    left, took, step = requests.astype(float), 0.0, 1e-3
    while (open_ := np.flatnonzero(left > 0)[:connections]).size:
        left[open_] -= step * min(rate, speed / len(open_))
        took += step
    assert ends(requests.tolist(), speed, rate, connections=connections) == pytest.approx(took, rel=0.01)


def test_parts_are_done_when_all_of_them_are():
    parts = [crawl([100], math.inf, HostLimit(10), 1), crawl([100], math.inf, HostLimit(1), 1)]
    assert seconds_until(parts, 0.5) == pytest.approx(100 / 11)
    assert seconds_until(parts, 1.0) == pytest.approx(100)


def test_hosts_are_those_of_the_distribution_that_is_named():
    sizes = zipf(10**8, 70_000, 1.0)
    assert sizes.sum() == 10**8
    assert (np.diff(sizes) <= 1).all()  # but for rounding
    assert sizes[0] / 10**8 == pytest.approx(0.085, abs=0.001)
    assert sizes[:100].sum() / 10**8 == pytest.approx(0.44, abs=0.005)
    assert zipf(100, 1000, 1.0).min() == 1
    assert np.bincount(owners(80_000, 8, 0)).min() > 9_500


def record(suite, case, **about):
    return json.dumps({"suite": suite, "case": case, "impl": "fastlt", "device": "some CPU", **about}) + "\n"


def test_a_machine_is_what_the_newest_records_say(tmp_path, capsys):
    device = torch.device("cpu")
    with pytest.raises(RuntimeError, match=r"has no record of a crawl: run `python bench/run.py crawl` first"):
        Recorded(tmp_path, device)
    crawls = [record("crawl", CRAWL, images_per_s=rate, urls=1000) for rate in (50, 100)]
    (tmp_path / "crawl-some-cpu.jsonl").write_text("".join(crawls))
    with pytest.raises(RuntimeError, match="there is no record of 'start of a crawl"):
        Recorded(tmp_path, device).machine()
    (tmp_path / "crawl-some-cpu.jsonl").write_text("".join([*crawls, record("crawl", START, median_ms=2000)]))
    machine = Recorded(tmp_path, device).machine()
    assert (machine.device, machine.start) == ("some CPU", 2)
    assert machine.per_image == pytest.approx((10 - 2) / 1000)
    assert machine.per_host == 0
    assert "no record of what a new host costs: python bench/run.py hostile" in capsys.readouterr().out
    hostile = record("hostile", MANY_HOSTS, median_ms=20_000, good=2000, hosts=1000)
    (tmp_path / "hostile-some-cpu.jsonl").write_text(hostile)
    assert Recorded(tmp_path, device).machine().per_host == pytest.approx((20 - 2 - 16) / 900)
    assert Recorded(tmp_path, device).find("embed", "anything") is None


def test_an_image_has_as_many_bytes_as_those_that_were_crawled():
    archive = SHARED / "data" / "jpeg_sample.zip"
    if not archive.is_file():
        pytest.skip("real images are not at hand")
    with zipfile.ZipFile(archive) as zipped:
        sizes = [entry.file_size for entry in zipped.infolist() if entry.filename.endswith((".jpg", ".jpeg", ".JPEG"))]
    assert round(np.mean(sizes)) == IMAGE_BYTES


def lines_of(text):
    return [line for line in text.splitlines() if line.startswith("|") and not set(line) <= set("|- ")]


@pytest.mark.parametrize("title", scale_page.page(FOUND))
def test_the_pages_tables_are_the_records(title):
    rows = ["| " + " | ".join(row) + " |" for row in scale_page.page(FOUND)[title]]
    assert rows[0] in PAGE
    assert len([row for row in rows[1:] if row in PAGE]) >= min(3, len(rows) - 1)


def test_the_page_has_no_row_that_no_record_has():
    known = {"| " + " | ".join(row) + " |" for rows in scale_page.page(FOUND).values() for row in rows}
    assert set(lines_of(PAGE)) <= known


def test_what_the_page_says_in_words_is_in_the_records():
    by = {(r["urls"], r["machines"]): r for r in FOUND if "machines" in r and not r["changed"]}
    told = next(r for r in FOUND if r["case"] == "the machine")
    held = next(r for r in FOUND if "candidate_bytes" in r)
    errors = [abs(r["error"]) for r in FOUND if "error" in r and "at once" in r["case"]]
    claims = [
        f"{1 / told['per_image_s']:.0f} images/s",
        f"below {told['gbits']:.1f} Gbit/s",
        f"{held['candidate_bytes']:.0f} bytes as a candidate, {held['catalog_bytes']:.0f} as an image",
        f"{held['index_bytes']:.0f} bytes an image",
        f"{by[10**8, 256]['images_per_s']:.0f} images/s on 256 machines, at {by[10**8, 1]['images_per_s']:.0f} on one",
        f"longer than {math.floor(25600 * told['per_image_s']) / 100} s",
        f"{by[10**9, 256]['hours']['all'] / 24:.0f} days",
        "the model is right to 4%",
    ]
    flat = re.sub(r"\s+", " ", PAGE)
    assert [claim for claim in claims if claim not in flat] == []
    assert max(errors) < 0.04


def run(*words):
    command = [sys.executable, str(ROOT / "bench" / "run.py"), "scale", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=900)


@pytest.mark.medium
def test_hosts_that_cannot_be_are_one_clear_sentence(tmp_path):
    done = run("--hosts", "0", "--results", tmp_path)
    assert done.returncode == 1
    assert done.stderr == (
        "nothing could be fetched: give --hosts of 1 or more, --gbits and --transfer above 0, and --rate and "
        "--exponent not below 0.\n"
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_quick_simulation_leaves_whole_records_and_a_picture(tmp_path):
    done = run("--quick", "--hosts", "5000", "--results", tmp_path)
    assert done.returncode == 0, done.stderr
    (file,) = tmp_path.glob("scale-*.jsonl")
    found = [json.loads(line) for line in file.read_text().splitlines()]
    simulated = {r["machines"]: r for r in found if "machines" in r}
    assert simulated.keys() == {1, 4}
    assert simulated[4]["hours"]["all"] < simulated[1]["hours"]["all"]
    assert simulated[1]["case"] == "1,000,000 URLs, 1 machines, hosts 5,000"
    held = next(r for r in found if "candidate_bytes" in r)
    assert 200 < held["candidate_bytes"] < held["catalog_bytes"] < 1000
    assert 88 < held["index_bytes"] < 400
    (crawled,) = [r for r in found if "at once" in r["case"]]
    assert crawled["simulated_s"] > 0.5 * crawled["measured_s"] > 0
    (picture,) = tmp_path.glob("scale-*.png")
    assert picture.read_bytes().startswith(b"\x89PNG")
