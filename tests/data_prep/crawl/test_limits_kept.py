"""Limits of hosts as the hosts' own logs show them: kept by the crawl, by the next one, and whatever the clock says."""

import os
import re
import shutil
import subprocess
import time
from collections import Counter
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from fastlt.data_prep.catalog import Catalog
from support.crawling import command, jpeg, outcomes, write_list
from support.paths import BIN
from support.source_servers import SourceServers
from support.web import Answer, Web

pytestmark = pytest.mark.medium
SLOTS_OF_A_DAY = 144


class Site:
    """Answers of a web, with its log: (host, path, when) of every request, and the bytes that each host sent."""

    def __init__(self, delay: float = 0.0) -> None:
        self.delay = delay
        self.log: list[tuple[str, str, float]] = []
        self.sent: Counter[str] = Counter()

    def __call__(self, host: str, path: str) -> Answer | None:
        self.log.append((host, path, time.monotonic()))
        if path == "/robots.txt":
            return None
        body = jpeg(int(re.sub(r"\D", "", path)), quality=95)
        self.sent[host] += len(body)
        return Answer(body, delay=self.delay)

    def asked(self, host: str) -> int:
        return sum(host == asked for asked, _, _ in self.log)


def rows(hosts: list[str], number: int) -> list[tuple[str, ...]]:
    return [
        (f"http://{host}/{1000 * i + k}.jpg", "kite", "", "") for i, host in enumerate(hosts) for k in range(number)
    ]


def crawl(folder: Path, policy: str, *words: object, **options) -> subprocess.CompletedProcess:
    (folder / "policy.yaml").write_text(policy)
    run = command(folder / "c.sqlite", "--policy", folder / "policy.yaml", "--duplicates", -1, *words)
    return subprocess.run(run, capture_output=True, text=True, timeout=300, **options)


def states(folder: Path) -> Counter:
    with Catalog(folder / "c.sqlite") as catalog:
        found = catalog.connection.execute("SELECT host, state, count(*) FROM candidate GROUP BY 1, 2")
        return Counter({(host, state): number for host, state, number in found})


def a_day_later(folder: Path) -> None:
    with Catalog(folder / "c.sqlite") as catalog:
        catalog.connection.execute("UPDATE used SET slot = slot - ?", [SLOTS_OF_A_DAY + 2])


def test_rate_and_connections_of_each_host(tmp_path):
    """By the log of the servers: four hosts with limits of their own, one without, and too few connections for all."""
    site = Site(delay=0.15)
    with Web(site, 5) as web:
        slow, single, both, paced, free = web.hosts
        policy = f"""
{slow}: {{requests_per_second: 5, connections: 8}}
{single}: {{connections: 1}}
{both}: {{requests_per_second: 4, connections: 2}}
{paced}: {{bytes_per_second: {4 * len(jpeg(1, quality=95))}}}
nobody.example.org: {{connections: 1}}
"""
        few = ("--connections", 4)
        done = crawl(
            tmp_path, policy, "--urls", write_list(tmp_path / "l.csv", rows(web.hosts, 12)), "--per-host", 6, *few
        )
    assert done.returncode == 0, done.stderr
    assert "policy.yaml names hosts that this crawl has not met: nobody.example.org" in done.stderr
    assert set(states(tmp_path).values()) == {12}
    least, at_once = {}, {}
    for host in web.hosts:
        times = sorted(when for asked, _, when in site.log if asked == host)
        least[host] = min(last - first for first, last in zip(times, times[3:], strict=False))  # for three more
        images = sorted(when for asked, path, when in site.log if asked == host and path != "/robots.txt")
        at_once[host] = max(sum(0 <= begun - other < site.delay - 0.02 for other in images) for begun in images)
        if host == paced:
            paid = images[-1] - images[0] + len(images) / 12  # the last four may begin at once, and take a second
            assert site.sent[host] / paid < 4.4 * len(jpeg(1, quality=95))
    assert least[slow] > 3 / 5 - 0.1
    assert least[both] > 3 / 4 - 0.1
    assert least[single] > 3 * site.delay - 0.1
    assert at_once[single] == 1
    assert at_once[both] <= 2
    assert at_once[free] > 1


def test_a_used_up_day_puts_off_one_host_and_is_remembered(tmp_path):
    site = Site()
    with Web(site, 2) as web:
        one, other = web.hosts
        policy = f"{one}: {{requests_per_day: 12, page: 'https://example.org/terms'}}"
        lists = ("--urls", write_list(tmp_path / "l.csv", rows(web.hosts, 30)))
        done = crawl(tmp_path, policy, *lists)
        assert done.returncode == 0, done.stderr
        assert states(tmp_path) == {(one, "fetched"): 11, (one, "new"): 19, (other, "fetched"): 30}
        said = re.search(
            rf"WARNING: 19 URLs wait until (\S+ \S+) \S+: {one} has given its 12 requests a day "
            r"\(https://example.org/terms\); the same command goes on then\.",
            done.stderr,
        )
        assert said, done.stderr
        until = datetime.fromisoformat(said[1]) - datetime.now()
        assert timedelta(hours=23, minutes=55) < until < timedelta(hours=24, minutes=12)
        assert site.asked(one) == 12
        again = crawl(tmp_path, policy)
        assert again.returncode == 0, again.stderr
        assert "19 URLs wait until" in again.stderr
        assert site.asked(one) == 12
        a_day_later(tmp_path)
        assert crawl(tmp_path, policy).returncode == 0
        assert site.asked(one) == 24
        assert states(tmp_path)[one, "fetched"] == 22
        lifted = crawl(tmp_path, f"{one}: {{requests_per_day: 1000}}")  # counts what was asked under another limit
        assert lifted.returncode == 0
        assert "wait until" not in lifted.stderr
        assert set(outcomes(tmp_path / "c.sqlite").values()) == {"fetched"}


def test_nothing_is_forgotten_by_a_crawl_that_is_killed(tmp_path):
    """SIGKILL again and again, and two days that are used up to the last request or to those that were under way."""
    site = Site(delay=0.05)
    with Web(site, 2) as web:
        one, other = web.hosts
        policy = f"{one}: {{requests_per_day: 40, requests_per_second: 20}}"
        (tmp_path / "policy.yaml").write_text(policy)
        lists = ["--urls", write_list(tmp_path / "l.csv", rows(web.hosts, 60)), "--duplicates", -1]
        run = command(tmp_path / "c.sqlite", "--policy", tmp_path / "policy.yaml", *lists)
        kills = 0
        for until in (6, 14, 25):
            process = subprocess.Popen(run, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            while site.asked(one) < until and process.poll() is None:
                time.sleep(0.005)
            kills += process.poll() is None
            process.kill()
            process.wait()
        assert kills == 3
        done = crawl(tmp_path, policy, *lists)
        assert done.returncode == 0, done.stderr
        assert "has given its 40 requests a day" in done.stderr
        assert 40 - kills * 4 <= site.asked(one) <= 40
        assert states(tmp_path)[other, "fetched"] == 60


def test_parts_and_the_whole_know_what_the_other_has_asked(tmp_path):
    site = Site()
    with Web(site) as web:
        (one,) = web.hosts
        policy = f"{one}: {{requests_per_day: 12}}\nb.example.org: {{connections: 1}}"
        listed = crawl(tmp_path, policy, "--list-only", "--urls", write_list(tmp_path / "l.csv", rows([one], 30)))
        assert listed.returncode == 0, listed.stderr
        assert site.log == []
        for _ in range(2):
            part = crawl(tmp_path, policy, "--part", "1/1")
            assert part.returncode == 0, part.stderr
            assert "part 1 of 1: 19 URLs wait until" in part.stdout
            assert "b.example.org" not in part.stderr  # which may be another part's
            assert site.asked(one) == 12
        merge = [str(BIN / "fastlt"), "merge", str(tmp_path / "c.sqlite"), "--unfinished"]
        assert subprocess.run(merge, capture_output=True, timeout=300).returncode == 0
        assert "19 URLs wait until" in crawl(tmp_path, policy).stderr
        assert site.asked(one) == 12
        assert states(tmp_path) == {(one, "fetched"): 11, (one, "new"): 19}
        assert "leave out --part" in crawl(tmp_path, policy, "--plan", "--part", "1/1").stderr


def test_bytes_of_a_day_and_of_an_hour(tmp_path):
    size = len(jpeg(1, quality=95))
    site = Site()
    with Web(site, 2) as web:
        daily, hourly = web.hosts
        most = 10 * size
        policy = f"{daily}: {{bytes_per_day: {most}}}\n{hourly}: {{bytes_per_hour: {most}}}"
        (tmp_path / "policy.yaml").write_text(policy)
        lists = ["--urls", write_list(tmp_path / "l.csv", rows(web.hosts, 30)), "--duplicates", -1]
        run = command(tmp_path / "c.sqlite", "--policy", tmp_path / "policy.yaml", *lists)
        process = subprocess.Popen(run, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        told = ""  # an hour is waited out
        while "is asked again in" not in told:
            told = process.stderr.readline()
            assert told, "it ended"
        deadline = time.monotonic() + 60
        while states(tmp_path)[daily, "fetched"] < 8 and time.monotonic() < deadline:
            time.sleep(0.2)
        process.terminate()
        process.wait()
    assert re.search(rf"{hourly} has given its \S+ KB an hour: it is asked again in [67]\d min", told)
    for host in web.hosts:
        assert 8 * size < site.sent[host] <= most
    assert states(tmp_path)[daily, "fetched"] >= 8


def test_an_image_that_leads_to_a_host_that_rests_waits_alone(tmp_path):
    site = Site()

    def answer(host: str, path: str) -> Answer | None:
        if host.startswith("127.0.0.1:") and path.endswith("7.jpg"):
            return Answer(status=302, headers={"Location": f"http://127.0.0.2:{host.split(':')[1]}{path}"})
        return site(host, path)

    with Web(answer, 2) as web:
        one, limited = web.hosts
        policy = f"{limited}: {{requests_per_day: 2}}"
        done = crawl(tmp_path, policy, "--urls", write_list(tmp_path / "l.csv", rows([one], 40)))
    assert done.returncode == 0, done.stderr
    assert states(tmp_path) == {(one, "fetched"): 37, (one, "new"): 3}  # robots.txt, one of four images
    assert site.asked(limited) == 2
    assert "3 URLs that lead there wait until" in done.stderr


def test_searches_of_an_api_wait_too(tmp_path):
    site = Site()
    with Web(lambda host, path: site(host, path)) as web, SourceServers(images=f"http://{web.hosts[0]}") as servers:
        url = servers.base_url("inaturalist")
        with Catalog(tmp_path / "c.sqlite", create=True) as catalog, catalog.transaction():
            for title in ("black kite", *(f"unknown {i}" for i in range(9))):
                catalog.add_category(title.replace(" ", "_"), title)
        policy = f"{url.split('/')[2]}: {{requests_per_day: 6}}"
        words = ("--source", "inaturalist", "--source-url", f"inaturalist={url}")
        planned = crawl(tmp_path, policy, *words, "--plan", "--contact", "")
        assert planned.returncode == 0, planned.stderr
        assert not servers.requests
        assert site.log == []
        row = next(line for line in planned.stdout.splitlines() if line.startswith("127.0.0.1"))
        assert row.split()[1:3] == ["-", "20"]  # a lookup and a page for each
        assert "6 requests/day" in row
        done = crawl(tmp_path, policy, *words)
        assert done.returncode == 0, done.stderr
        assert len(servers.requests) == 6
        assert re.search(r"WARNING: \d searches wait until", done.stderr)
        with Catalog(tmp_path / "c.sqlite") as catalog:
            assert set(catalog.status()["search"]) == {"open"} | {"done"} & set(catalog.status()["search"])


SHIFTED = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>

int clock_gettime(clockid_t id, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int failed = real(id, now);
    const char *seconds = getenv("SHIFTED_BY");
    if (!failed && id == CLOCK_REALTIME && seconds) now->tv_sec += atol(seconds);
    return failed;
}
"""


@pytest.fixture(scope="module")
def shifted(tmp_path_factory):
    """The environment of a process whose clock is off by so many seconds, as if somebody had set it."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if not compiler:
        pytest.skip("needs a C compiler, to set the clock of a process")
    folder = tmp_path_factory.mktemp("clock")
    (folder / "shifted.c").write_text(SHIFTED)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", folder / "s.so", folder / "shifted.c", "-ldl"], check=True)
    return lambda seconds: os.environ | {"LD_PRELOAD": str(folder / "s.so"), "SHIFTED_BY": str(seconds)}


def test_a_clock_that_jumps_frees_nothing_and_waits_for_no_year(tmp_path, shifted):
    year = 365 * 86_400
    site = Site()
    with Web(site) as web:
        (one,) = web.hosts
        policy = f"{one}: {{requests_per_day: 10}}"
        lists = ("--urls", write_list(tmp_path / "l.csv", rows([one], 30)))
        assert crawl(tmp_path, policy, *lists).returncode == 0
        assert site.asked(one) == 10
        for seconds, starts_anew in ((3 * 86_400, False), (-5 * year, False), (-5 * year, True)):
            if starts_anew:  # of the machine: only its clock says how long that took
                with Catalog(tmp_path / "c.sqlite") as catalog:
                    catalog.remember("clock", "{}")
            done = crawl(tmp_path, policy, env=shifted(seconds))
            assert done.returncode == 0, done.stderr
            until = datetime.fromisoformat(re.search(r"21 URLs wait until (\S+ \S+)", done.stderr)[1])
            left = until - datetime.now() - timedelta(seconds=seconds)
            assert timedelta(hours=23) < left < timedelta(hours=25)
        assert site.asked(one) == 10
        a_day_later(tmp_path)
        assert crawl(tmp_path, policy, env=shifted(-5 * year)).returncode == 0
        assert site.asked(one) == 20


def test_a_plan_asks_nobody(tmp_path):
    site = Site()
    with Web(site, 30) as web:
        policy = f"{web.hosts[3]}: {{requests_per_day: 10}}\nnobody.example.org: {{connections: 1}}"
        urls = write_list(tmp_path / "l.csv", rows(web.hosts, 25))
        done = crawl(tmp_path, policy, "--urls", urls, "--plan", "--contact", "", "--rate", 2)
    assert done.returncode == 0, done.stderr
    assert site.log == []
    table = done.stdout.splitlines()
    first = next(i for i, line in enumerate(table) if line.startswith("host "))
    assert table[first + 1].split()[:6] == [web.hosts[3], "25", "26", "3.75", "MB", "48.0"]
    assert "10 requests/day" in table[first + 1]
    assert re.match(r"and 10 hosts more +250 +260 +37.5 MB", table[first + 21])
    assert f"[1] {tmp_path / 'policy.yaml'}" in table
    assert "names hosts that do not occur here: nobody.example.org" in done.stdout
    assert states(tmp_path).total() == 0
