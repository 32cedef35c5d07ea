"""A catalog in parts: each host has one owner, a dead one's part is gone on with, and the merged set is a crawl's."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from fastlt.data_prep.catalog import Catalog, held_catalog
from fastlt.data_prep.crawl.parts import lease
from fastlt.data_prep.crawl.parts import merge as merging
from fastlt.data_prep.crawl.parts.part import parts_of
from fastlt.data_prep.crawl.parts.shares import Share
from support.crawling import command, jpeg, write_list
from support.paths import BIN
from support.web import Answer, Web

HOSTS, IMAGES = 8, 96


def run(*words: object) -> subprocess.CompletedProcess:
    return subprocess.run([*map(str, words)], capture_output=True, text=True, timeout=300)


def merge(catalog: Path, *words: object) -> subprocess.CompletedProcess:
    return run(BIN / "fastlt", "merge", catalog, *words)


def listed(catalog: Path, web: Web, paths: list[str]) -> None:
    """A catalog with these paths, spread over the hosts, and nothing fetched."""
    rows = [(f"http://{web.hosts[i % len(web.hosts)]}/{path}", f"c{i % 3}", "", "") for i, path in enumerate(paths)]
    done = run(*command(catalog, "--urls", write_list(catalog.with_suffix(".csv"), rows), "--list-only"))
    assert done.returncode == 0, done.stderr
    assert f"{len(rows)} URLs of {len(web.hosts)} hosts wait to be fetched" in done.stdout
    assert not web.asked


def pictures(host: str, path: str) -> Answer | None:
    """/7.jpg and /again/7.jpg are the same image, /broken/... none, /to/HOST/... leads there."""
    if found := re.fullmatch(r"/(?:again/)?(\d+)\.jpg", path):
        return Answer(jpeg(int(found[1])))
    if path.startswith("/broken"):
        return Answer(b"<html>gone</html>")
    if found := re.fullmatch(r"/to/([\d.:]+)(/.*)", path):
        return Answer(status=302, headers={"Location": f"http://{found[1]}{found[2]}"})
    return None


def states(path: Path) -> Counter[tuple[str, str]]:
    with Catalog(path) as catalog:
        return Counter(tuple(row) for row in catalog.connection.execute("SELECT state, reason FROM candidate"))


def contents(path: Path) -> set[bytes]:
    with Catalog(path) as catalog:
        return {bytes(row[0]) for row in catalog.connection.execute("SELECT sha256 FROM image_in_use")}


def require_whole(path: Path) -> None:
    """Every image lies where the catalog says, and no shard has another."""
    with Catalog(path) as catalog:
        rows = catalog.connection.execute("SELECT * FROM image").fetchall()
        assert not catalog.shards("open")
        for row in rows:
            with catalog.shard_path(row["shard"]).open("rb") as shard:
                shard.seek(row["offset"])
                assert shard.read(3) == b"\xff\xd8\xff"
                shard.seek(row["offset"] + row["num_bytes"] - 2)
                assert shard.read(2) == b"\xff\xd9"
        in_shards = sum(
            len(re.findall(rb"\d{9}\.jpg\0", file.read_bytes())) for file in catalog.shards_folder.glob("*.tar")
        )
    assert in_shards == len(rows)


def test_every_host_has_one_owner_and_few_move_when_there_is_a_part_more():
    hosts = [f"host{i}.example.org:443" for i in range(2_000)]
    owners = {host: [n for n in range(1, 5) if Share(n, 4).owns(host)] for host in hosts}
    assert all(len(found) == 1 for found in owners.values())
    assert all(Share(found[0], 4).owns(f"www.{host[:-4]}:80") for host, found in owners.items())
    assert min(Counter(found[0] for found in owners.values()).values()) > 400
    moved = [host for host in hosts if not Share(owners[host][0], 5).owns(host)]
    assert all(Share(5, 5).owns(host) for host in moved)
    assert len(moved) < 500


def test_parts_and_merge_are_one_crawl_and_no_host_has_two_owners(tmp_path):
    paths = [f"{i}.jpg" for i in range(IMAGES)] + [f"again/{i}.jpg" for i in range(10)] + ["broken/a.jpg", "none"]
    with Web(pictures, HOSTS) as web:
        whole, parts = tmp_path / "whole.sqlite", tmp_path / "parts.sqlite"
        listed(parts, web, paths)
        for number in (1, 2, 3):
            done = run(*command(parts, "--part", f"{number}/3"), "--contact", f"part{number}@example.org")
            assert done.returncode == 0, done.stderr
        owners = {host: {agent for _, of, agent in web.log if of == host} for host in web.hosts}
        assert {len(agents) for agents in owners.values()} == {1}
        assert len(set.union(*owners.values())) == 3
        done = merge(parts)
        assert done.returncode == 0, done.stderr
        asked = web.asked.total()
        again = run(*command(parts))
        assert again.returncode == 0, again.stderr
        assert web.asked.total() == asked  # nothing is left
        rows = write_list(
            tmp_path / "l.csv", [(f"http://{web.hosts[i % HOSTS]}/{p}", "c", "", "") for i, p in enumerate(paths)]
        )
        assert run(*command(whole, "--urls", rows)).returncode == 0
    assert states(parts) == states(whole)
    assert contents(parts) == contents(whole)
    assert len(contents(parts)) == IMAGES
    assert not (tmp_path / "parts_parts").exists()
    require_whole(parts)
    with Catalog(parts) as catalog:  # what repeats an image says which
        twins = catalog.connection.execute(
            "SELECT count(*) FROM candidate JOIN image ON image.id = twin WHERE candidate.reason = 'duplicate'"
        ).fetchone()
    assert twins[0] == 10


def test_what_leads_to_a_host_of_another_part_is_left_to_the_whole(tmp_path):
    with Web(pictures, HOSTS) as web:
        shares = {host: next(n for n in (1, 2) if Share(n, 2).owns(host)) for host in web.hosts}
        first, second = (next(host for host in web.hosts if shares[host] == n) for n in (1, 2))
        catalog = tmp_path / "c.sqlite"
        rows = [(f"http://{first}/to/{second}/1.jpg", "a", "", ""), (f"http://{first}/to/{first}/2.jpg", "a", "", "")]
        run(*command(catalog, "--urls", write_list(tmp_path / "l.csv", rows), "--list-only"))
        done = run(*command(catalog, "--part", "1/2"))
        assert "1 failed: redirects to a host of another part" in done.stdout, done.stderr
        assert not [host for _, host, _ in web.log if shares[host] == 2]
        done = merge(catalog)  # the other part has no host
        assert done.returncode == 0, done.stderr
        assert "left: 1 URLs without an outcome" in done.stdout
        assert states(catalog) == {("fetched", ""): 1, ("new", ""): 1}
        assert run(*command(catalog)).returncode == 0
    assert states(catalog) == {("fetched", ""): 2}


def test_a_merge_that_is_killed_when_it_removes_parts_goes_on(tmp_path, monkeypatch):
    """What leads to another part has no outcome, as if its own part were not begun."""
    with Web(pictures, HOSTS) as web:
        first, second = (next(host for host in web.hosts if Share(n, 2).owns(host)) for n in (1, 2))
        catalog = tmp_path / "c.sqlite"
        rows = [(f"http://{first}/to/{second}/1.jpg", "a", "", ""), (f"http://{second}/2.jpg", "a", "", "")]
        run(*command(catalog, "--urls", write_list(tmp_path / "l.csv", rows), "--list-only"))
        for number in (1, 2):
            assert run(*command(catalog, "--part", f"{number}/2")).returncode == 0
    remove, removed = merging._remove, []

    def killed(part: Path) -> None:
        if removed:
            raise KeyboardInterrupt
        removed.append(remove(part))

    monkeypatch.setattr(merging, "_remove", killed)
    with pytest.raises(KeyboardInterrupt):
        merging.merge(catalog)
    done = merge(catalog)
    assert done.returncode == 0, done.stderr
    assert states(catalog) == {("fetched", ""): 1, ("new", ""): 1}
    assert not (tmp_path / "c_parts").exists()


def test_a_host_whose_robots_txt_lies_in_another_part_is_left_to_the_whole(tmp_path):
    """As example.org's often lies at www.example.org."""

    def site(host: str, path: str) -> Answer | None:
        if (host, path) == (first, "/robots.txt"):
            return Answer(status=301, headers={"Location": f"http://{second}/robots.txt"})
        return pictures(host, path)

    with Web(site, HOSTS) as web:
        first, second = (next(host for host in web.hosts if Share(n, 2).owns(host)) for n in (1, 2))
        catalog, rows = tmp_path / "c.sqlite", [(f"http://{first}/{i}.jpg", "a", "", "") for i in range(3)]
        run(*command(catalog, "--urls", write_list(tmp_path / "l.csv", rows), "--list-only"))
        done = run(*command(catalog, "--part", "1/2"))
        assert "3 failed: redirects to a host of another part" in done.stdout, done.stderr
        assert {host for _, host, _ in web.log} == {first}
        assert merge(catalog).returncode == 0
        assert states(catalog) == {("new", ""): 3}
        assert run(*command(catalog)).returncode == 0
    assert states(catalog) == {("fetched", ""): 3}


def test_a_part_that_is_worked_on_is_left_alone_and_one_that_stands_still_is_gone_on_with(tmp_path):
    seconds, delays = 12.0, [2.0]

    def slow(host: str, path: str) -> Answer | None:
        answer = pictures(host, path)
        return answer and Answer(answer.body, delay=delays[-1])

    with Web(slow, 2) as web:
        catalog = tmp_path / "c.sqlite"
        listed(catalog, web, [f"{i}.jpg" for i in range(IMAGES)])
        words = command(catalog, "--part", "1/1", "--per-host", 1, "--lease", seconds, "--ignore-robots")
        first = subprocess.Popen([*words, "--contact", "first@a.org"], stderr=subprocess.PIPE, text=True)
        try:
            while web.asked.total() < 4:
                assert first.poll() is None
                time.sleep(0.02)
            second = run(*words, "--contact", "second@a.org")
            assert second.returncode == 1
            assert re.search(r"0001-of-0001\.sqlite is in use: \S+ process \d+ .*works on it\.", second.stderr)
            first.send_signal(signal.SIGSTOP)
            delays.append(0.0)
            done = run(*words, "--contact", "second@a.org")
            assert done.returncode == 0, done.stderr
            taken_over = time.monotonic()
            first.send_signal(signal.SIGCONT)
            _, said = first.communicate(timeout=60)
        finally:
            first.kill()
        assert first.returncode == 1
        assert "nothing more is asked or written here" in said
        assert "Traceback" not in said
        assert not [agent for at, _, agent in web.log if at > taken_over]
        assert merge(catalog).returncode == 0
    assert states(catalog) == {("fetched", ""): IMAGES}
    require_whole(catalog)


@pytest.mark.slow
def test_killed_again_and_again_parts_and_merge_lose_nothing(tmp_path):
    with Web(pictures, HOSTS) as web:
        catalog = tmp_path / "c.sqlite"
        paths = [f"{i}.jpg" for i in range(4 * IMAGES)] + [f"again/{i}.jpg" for i in range(40)]
        listed(catalog, web, paths)
        for number in (1, 2):
            words = command(catalog, "--part", f"{number}/2", "--images-per-shard", 50)
            for _ in range(3):
                until = web.asked.total() + 60
                killed = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                while web.asked.total() < until and killed.poll() is None:
                    time.sleep(0.01)
                killed.kill()
                killed.wait()
            if number == 1:  # the last kill of the second part is left to be merged
                assert run(*words).returncode == 0
        said = merge(catalog)
        assert said.returncode == 1
        assert "part 2 of 2 has" in said.stderr
        for delay in (1.5, 2.0, 2.5):
            killed = subprocess.Popen([BIN / "fastlt", "merge", catalog, "--unfinished"], stdout=subprocess.DEVNULL)
            time.sleep(delay)
            killed.kill()
            killed.wait()
        merge(catalog, "--unfinished")
        assert run(*command(catalog)).returncode == 0  # what was left
    assert states(catalog).total() == len(paths)
    assert len(contents(catalog)) == 4 * IMAGES
    require_whole(catalog)


def test_mistakes_are_one_sentence(tmp_path):
    with Web(pictures, 4) as web:
        catalog = tmp_path / "c.sqlite"
        listed(catalog, web, [f"{i}.jpg" for i in range(8)])
        for words, sentence in (
            (["--part", "0/4"], "--part 0/4: give a number and how many parts there are, such as 3/64."),
            (["--part", "5/4"], "--part 5/4: give a number and how many parts there are, such as 3/64."),
            (["--part", "1/4", "--urls", "x.csv"], "--part fetches what the catalog has: enter it first"),
            (["--parts", "2", "--part", "1/2"], "--part is one part and --parts is all of them: give one of the two."),
            (["--parts", "2", "--urls", "x.csv"], "--parts fetches what the catalog has: enter it first"),
            (["--parts", "-1"], "--parts is -1; give a number up to 4,096."),
            (["--part", "1/4", "--lease", "0"], "--lease is 0.0; give a number of seconds above 0."),
        ):
            done = run(*command(catalog, *words))
            assert done.returncode != 0
            assert sentence in done.stderr
        assert "is in no parts: `fastlt crawl" in merge(catalog).stderr
        assert "there is no catalog at" in run(*command(tmp_path / "none.sqlite", "--part", "1/4")).stderr
        assert not list(tmp_path.glob("none*"))
        Catalog(tmp_path / "empty.sqlite", create=True).connection.close()
        assert "has no URLs to share out" in run(*command(tmp_path / "empty.sqlite", "--part", "1/4")).stderr
        assert not list(tmp_path.glob("empty_parts"))
        owner = next(n for n in (1, 2) if Share(n, 2).owns("127.0.0.1:80"))
        assert run(*command(catalog, "--part", f"{owner}/2")).returncode == 0
        asked = web.asked.total()
        for words in (["--part", "1/3"], []):
            done = run(*command(catalog, *words))
            assert "is in 2 parts: give --part K/2, or join them first" in done.stderr
            assert done.returncode == 1
        assert web.asked.total() == asked
        assert run(*command(catalog, "--list-only")).returncode == 0
        if any(not Share(owner, 2).owns(host) for host in web.hosts):
            assert f"part {3 - owner} of 2 is not begun: run `fastlt crawl" in merge(catalog).stderr


def test_two_numbers_of_parts_at_the_same_time_are_one(tmp_path):
    """Each host would have two owners."""
    with Web(pictures, 2) as web:
        catalog = tmp_path / "c.sqlite"
        listed(catalog, web, ["1.jpg", "2.jpg"])
        with held_catalog(catalog, "something else"):
            both = [
                subprocess.Popen(command(catalog, "--part", f"1/{n}"), stderr=subprocess.PIPE, text=True)
                for n in (1, 2)
            ]
            for one in both:
                assert one.stderr.readline().startswith("waiting for something else")
        said = [one.communicate(timeout=60)[1] for one in both]
    assert sorted(one.returncode for one in both) == [0, 1]
    assert "is in " in "".join(said)
    assert "parts: give --part K/" in "".join(said)


def test_parts_of_another_catalog_are_not_taken_for_this_ones(tmp_path):
    """A catalog was made anew, or brought back from before more was entered, beside the parts of the old one."""
    with Web(pictures, 1) as web:
        catalog = tmp_path / "c.sqlite"
        listed(catalog, web, [f"{i}.jpg" for i in range(4)])
        assert run(*command(catalog, "--part", "1/1")).returncode == 0
        fetched = web.asked.total()
        for file in tmp_path.glob("c.sqlite*"):
            file.unlink()
        rows = [(f"http://{web.hosts[0]}/{i}.jpg", "d", "cc-by-4.0", "Ann") for i in range(10, 14)]
        entered = command(catalog, "--urls", write_list(tmp_path / "l.csv", rows), "--list-only")
        assert run(*entered).returncode == 0
        for done in (merge(catalog), merge(catalog, "--unfinished"), run(*command(catalog, "--part", "1/1"))):
            assert done.returncode == 1, done.stdout
            assert "0001-of-0001.sqlite is a part of another catalog than" in done.stderr
            assert len(done.stderr.splitlines()) == 1, done.stderr
        assert web.asked.total() == fetched
    assert states(catalog) == {("new", ""): 4}
    assert len(contents(tmp_path / "c_parts" / "0001-of-0001.sqlite")) == 4


@pytest.mark.parametrize("left", [1500, None, *(pytest.param(n, marks=pytest.mark.slow) for n in (0, 100, 20_000))])
def test_a_damaged_shard_of_a_part_is_one_sentence_and_the_part_can_be_run_again(tmp_path, left):
    with Web(pictures, 1) as web:
        catalog, folder = tmp_path / "c.sqlite", tmp_path / "c_parts"
        listed(catalog, web, [f"{i}.jpg" for i in range(8)])
        assert run(*command(catalog, "--part", "1/1")).returncode == 0
        (shard,) = folder.rglob("00000.tar")
        content = shard.read_bytes()
        if left is None:
            shard.unlink()
        else:
            shard.write_bytes(content[:left] + bytes(len(content) - left) * (left == 20_000))
        done = merge(catalog)
        assert done.returncode == 1
        assert re.search(r"00000\.tar is missing or damaged: it has no image at byte [\d,]+\. Restore it", done.stderr)
        assert len(done.stderr.splitlines()) == 1, done.stderr
        part = folder / "0001-of-0001.sqlite"
        assert f"or remove {part} and {shard.parent}, and run that part again" in done.stderr
        part.unlink()
        shutil.rmtree(shard.parent)
        assert run(*command(catalog, "--part", "1/1")).returncode == 0
        done = merge(catalog)
        assert done.returncode == 0, done.stderr
    assert states(catalog) == {("fetched", ""): 8}
    require_whole(catalog)


_PARTS_ON_FULL_DISKS = """
import subprocess, sys
from pathlib import Path
from fastlt.cli import sentence
from fastlt.data_prep.catalog import Catalog
from fastlt.data_prep.crawl.parts.part import _make
disk = Path(sys.argv[1])
for pages in range(1, 120, 2):
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={pages * 4}k", "tmpfs", disk], check=True)
    path, made = disk / "part.sqlite", True
    try:
        _make(path)
    except (ValueError, OSError) as error:
        made = False
        assert "make room" in sentence(error).lower(), error
    assert path.exists() == made
    kept = path.read_bytes() if made else b""
    subprocess.run(["umount", disk], check=True)
    if made:
        (disk / "copy.sqlite").write_bytes(kept)
        Catalog(disk / "copy.sqlite").connection.close()
    print("made" if made else "refused")
"""


@pytest.mark.skipif(
    os.geteuid() != 0 or subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode != 0,
    reason="needs root and unshare, to make a disk of its own",
)
def test_a_part_that_a_full_disk_has_no_room_for_is_not_made(tmp_path):
    done = run("unshare", "--mount", sys.executable, "-c", _PARTS_ON_FULL_DISKS, tmp_path)
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) == {"made", "refused"}


def test_a_lease_holds_as_long_as_its_owner_was_told_whatever_others_were(tmp_path):
    stem = tmp_path / "part"
    with lease.held(stem, 12) as first:  # which beats once a second
        with pytest.raises(lease.InUseError), lease.held(stem, 0.3):
            pass
        first.check()


def test_a_lease_that_was_not_renewed_in_time_is_lost_for_good(tmp_path):
    stem = tmp_path / "part"
    with lease.held(stem, 0.9) as first:
        first.check()
        first._ended.set()  # it beats no more, as if its folder were gone
        time.sleep(0.5)
        with pytest.raises(lease.LeaseLostError, match="stood still"):
            first.check()
        with lease.held(stem, 0.9) as second:
            second.check()
            assert second.epoch == first.epoch + 1
            with pytest.raises(lease.LeaseLostError):
                first.check()
    with lease.held(stem, 60) as third:  # the second said that it has ended
        assert third.epoch == second.epoch + 1


def test_all_parts_on_this_machine_are_one_crawl_though_a_process_is_killed(tmp_path):
    def slow(host: str, path: str) -> Answer | None:
        answer = pictures(host, path)
        return answer and Answer(answer.body, delay=0.1)

    with Web(slow, HOSTS) as web:
        catalog = tmp_path / "c.sqlite"
        listed(catalog, web, [f"{i}.jpg" for i in range(4 * IMAGES)])
        words = command(catalog, "--parts", 2, "--lease", 2, "--per-host", 1, "--ignore-robots")
        driver = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        wait_until(lambda: web.asked.total() > IMAGES, driver)
        os.kill(fetchers(driver.pid)[0], signal.SIGKILL)
        said, wrong = driver.communicate(timeout=300)
        assert driver.returncode == 0, wrong
        assert re.search(r"WARNING: part \d of 2: its process ended with status -9; it is begun again\.", wrong)
        assert re.search(r"part 1 of 2: [\d,]+ URLs of \d hosts\n", said)
        assert re.search(r"part 2 of 2: [\d,]+ URLs of \d hosts\n", said)
        assert web.asked.total() < 4.5 * IMAGES  # what the killed one had done, it had done
        assert merge(catalog).returncode == 0
    assert states(catalog) == {("fetched", ""): 4 * IMAGES}
    require_whole(catalog)


@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow), signal.SIGKILL]
)
def test_fetchers_of_this_machine_end_with_the_command(tmp_path, number):
    with Web(lambda host, path: Answer(pictures(host, path).body, delay=0.2), HOSTS) as web:
        catalog = tmp_path / "c.sqlite"
        listed(catalog, web, [f"{i}.jpg" for i in range(4 * IMAGES)])
        words = command(catalog, "--parts", 2, "--per-host", 1, "--ignore-robots")
        driver = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        wait_until(lambda: web.asked.total() > IMAGES // 2, driver)
        running = fetchers(driver.pid)
        assert len(running) == 2
        driver.send_signal(number)
        _, wrong = driver.communicate(timeout=60)
        assert driver.returncode == (-signal.SIGKILL if number == signal.SIGKILL else 130)
        assert "Traceback" not in wrong
        wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in running))
    with Catalog(parts_of(catalog)[Share(1, 2)]) as part:
        assert not part.shards("open")  # it ended cleanly


def test_sigterm_may_come_again_and_the_end_is_as_clean(tmp_path):
    """As to the child of a process with threads, each of which is its parent for a moment when all of it is killed."""
    with Web(lambda host, path: Answer(pictures(host, path).body, delay=0.2), HOSTS) as web:
        catalog = tmp_path / "c.sqlite"
        listed(catalog, web, [f"{i}.jpg" for i in range(4 * IMAGES)])
        words = command(catalog, "--per-host", 1, "--ignore-robots")
        crawling = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        wait_until(lambda: web.asked.total() > IMAGES // 2, crawling)
        for _ in range(3):
            crawling.send_signal(signal.SIGTERM)
            time.sleep(0.005)  # signals of one kind that wait are one
        assert "stopped; " in crawling.communicate(timeout=60)[1]
    with Catalog(catalog) as left:
        assert left.has_images()
        assert not left.shards("open")


def fetchers(driver: int) -> list[int]:
    """The processes that fetch parts."""
    children = Path(f"/proc/{driver}/task/{driver}/children").read_text().split()
    return [int(pid) for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def wait_until(happened: Callable[[], bool], running: subprocess.Popen | None = None) -> None:
    ends = time.monotonic() + 60
    while not happened():
        assert running is None or running.poll() is None, running.communicate()
        assert time.monotonic() < ends
        time.sleep(0.02)


HOLD = """
import sys
from pathlib import Path
from fastlt.data_prep.crawl.parts import lease

with lease.held(Path(sys.argv[1]), 6.0):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_process_that_cannot_be_seen_is_not_taken_for_dead(tmp_path):
    """Of another container: the machine has the same name, and no process of that number, or another one."""
    apart = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
    if not shutil.which("unshare") or subprocess.run([*apart, "true"], capture_output=True).returncode:
        pytest.skip("needs root, to give a process numbers of its own")
    words = [*apart, sys.executable, "-c", HOLD, str(tmp_path / "part")]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        said = r"part is in use: \S+ process 1 works on it"
        with pytest.raises(lease.InUseError, match=said), lease.held(tmp_path / "part", 6.0):
            pass
        other.stdin.close()
    with lease.held(tmp_path / "part", 6.0) as mine:
        assert mine.epoch == 2


def test_a_process_that_has_ended_is_not_waited_for(tmp_path):
    words = [sys.executable, "-c", HOLD, str(tmp_path / "part")]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        other.kill()
    started = time.monotonic()
    with lease.held(tmp_path / "part", 60.0) as mine:
        assert mine.epoch == 2
    assert time.monotonic() - started < 30
