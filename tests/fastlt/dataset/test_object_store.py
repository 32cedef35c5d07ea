"""A data set in an object store: copied to the node by one process, gone on with after a kill, whole or not at all."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fastlt.dataset import object_store
from fastlt.dataset.staging import copy_of, described, staged
from fastlt.places import as_place
from fastlt.recipe import load_recipe
from support.made_sets import made_set, with_split
from support.paths import ROOT
from support.store import WebStore, web_store

MB = 10**6
# Blocks are small, so that a set of a few MB is as long on its way as a large one.
STAGE = """
import sys
from pathlib import Path
from fastlt.dataset import object_store, staging
object_store.BLOCK = 2**16
print(staging.staged(sys.argv[1], Path(sys.argv[2])).path)
"""


@pytest.fixture
def made(tmp_path) -> Path:
    made = made_set(tmp_path / "store" / "birds", 3 * MB)
    (made / "ATTRIBUTION.csv").write_text("whom images are owed to goes along")
    return made


@pytest.fixture
def store(made, monkeypatch):
    monkeypatch.setattr(object_store, "BLOCK", 2**16)
    monkeypatch.setattr(object_store, "_FIRST_WAIT", 0.01)
    with web_store(made.parent) as served:
        yield served


@pytest.fixture
def disk(tmp_path) -> Path:
    return tmp_path / "disk"


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def start(url: str, disk: Path) -> subprocess.Popen:
    words = [sys.executable, "-c", STAGE, url, str(disk)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(words, env=os.environ | {"PYTHONPATH": str(ROOT)}, **pipes)


def images_sent(store: WebStore) -> list[tuple[str, int]]:
    """But for the byte by which a server's knowledge of ranges is tried."""
    return [(name, first) for name, first in store.sent if name.endswith(".beton") and first != 1]


@pytest.mark.parametrize("ranges", [True, False])
def test_a_copy_is_made_once(store, made, disk, ranges, capsys):
    store.ranges = ranges
    data = staged(f"{store.url}/birds", disk)
    assert contents(data.path) == contents(made)
    assert data.where == f"{store.url}/birds"
    said = capsys.readouterr().out
    assert f"copying {store.url}/birds to {data.path} on " in said
    assert "6 MB" in said
    assert "done in" in said
    store.sent.clear()
    assert staged(f"{store.url}/birds", disk).path == data.path
    assert images_sent(store) == []
    assert {path.name for path in disk.iterdir()} == {data.path.name, f".{data.path.name}.lock"}


@pytest.mark.parametrize("url", ["memory://{made}", "file://{made}"])
def test_other_stores_of_fsspec(made, disk, url):
    import fsspec

    url = url.format(made=made)
    if url.startswith("memory"):
        fsspec.filesystem("memory").put(f"{made}/", url.removeprefix("memory://"), recursive=True)
    assert contents(staged(url, disk).path) == contents(made)


def test_a_package_with_other_parameters(made, disk):
    """s3fs has a version between path and start."""
    import fsspec
    from fsspec.implementations.local import LocalFileSystem

    class Versioned(LocalFileSystem):
        protocol = "versioned"

        @classmethod
        def _strip_protocol(cls, path):
            return path.removeprefix("versioned://")

        def cat_file(self, path, version_id=None, start=None, end=None, **options):
            assert version_id is None
            return super().cat_file(path, start=start, end=end, **options)

    fsspec.register_implementation("versioned", Versioned, clobber=True)
    assert contents(staged(f"versioned://{made}", disk).path) == contents(made)


def test_requests_that_fail_are_made_again(store, made, disk):
    store.failing, store.cut = 2, 2  # of five tries
    assert contents(staged(f"{store.url}/birds", disk).path) == contents(made)


def test_a_store_that_stays_away_is_one_sentence(store, disk):
    described(f"{store.url}/birds")
    store.failing = 10**6
    with pytest.raises(ValueError, match=r"/birds/manifest.json cannot be read: 503, message='Service Unavailable'"):
        staged(f"{store.url}/birds", disk)


def test_who_is_killed_goes_on_where_it_was(store, made, disk):
    store.delay = 0.1
    process = start(f"{store.url}/birds", disk)
    deadline = time.monotonic() + 100
    while not any(part.stat().st_size >= 2**18 for part in disk.glob(".birds-*.partial/.val.beton.part")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    (partial,) = disk.glob(".birds-*.partial")
    there = {file.name: file.stat().st_size for file in partial.iterdir()}
    assert there.keys() == {"train.beton", ".val.beton.part"}
    assert 2**18 <= there[".val.beton.part"] < 3 * MB

    store.delay = 0.0
    store.sent.clear()
    copy = staged(f"{store.url}/birds", disk).path
    assert contents(copy) == contents(made)
    assert min(images_sent(store)) == ("val.beton", there[".val.beton.part"]), "what was there came once"
    assert not partial.exists()


def test_what_a_power_cut_leaves_is_found(store, made, disk):
    copy = staged(f"{store.url}/birds", disk).path
    partial = copy.with_name(f".{copy.name}.partial")
    copy.rename(partial)
    (partial / "train.beton").unlink()
    (partial / ".train.beton.part").write_bytes(bytes(MB))  # of the right length, but nothing of it was written
    assert contents(staged(f"{store.url}/birds", disk).path) == contents(made)


def test_ranks_of_a_node_copy_once(store, made, disk):
    store.delay = 0.02
    started = [start(f"{store.url}/birds", disk) for _ in range(3)]
    said = [process.communicate()[0] for process in started]
    assert not any(process.returncode for process in started)
    assert sum("done in" in lines for lines in said) == 1
    sent = images_sent(store)
    assert len(sent) == len(set(sent)) == 2 * -(-3 * MB // 2**16)
    assert contents(Path(said[0].splitlines()[-1])) == contents(made)


def test_what_is_not_whole_is_not_copied(store, made, disk):
    whole = (made / "train.beton").read_bytes()
    os.truncate(made / "train.beton", MB)
    truncated = rf"{store.url}/birds/train.beton has 1,000,000 bytes, its manifest says 3,000,000"
    with pytest.raises(ValueError, match=truncated):
        described(f"{store.url}/birds")  # as `fastlt train` does before any rank starts
    with pytest.raises(ValueError, match=truncated):
        staged(f"{store.url}/birds", disk)
    assert images_sent(store) == []
    (made / "train.beton").write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ValueError, match=r"birds/train.beton has other bytes than its checksum says"):
        staged(f"{store.url}/birds", disk)
    assert not list(disk.glob("birds-*"))
    (made / "manifest.json").unlink()
    with pytest.raises(ValueError, match="is not an encoded data set"):
        staged(f"{store.url}/birds", disk)


@pytest.mark.parametrize(
    "name", ["../train.beton", "/tmp/train.beton", "manifest.json", "label_space.json", "train.tar"]
)
def test_no_name_of_a_manifest_leads_elsewhere(store, made, disk, name):
    with_split(made, file=name)
    with pytest.raises(ValueError, match=rf"^{store.url}/birds/manifest.json is damaged"):
        staged(f"{store.url}/birds", disk)
    assert not disk.exists()


def test_a_link_planted_for_a_copy_is_not_written_through(store, disk, tmp_path):
    copy = staged(f"{store.url}/birds", disk).path
    shutil.rmtree(copy)
    partial = copy.with_name(f".{copy.name}.partial")
    partial.mkdir()
    (tmp_path / "precious").write_text("mine")
    (partial / ".train.beton.part").symlink_to(tmp_path / "precious")
    with pytest.raises(ValueError, match="is or holds a link"):
        staged(f"{store.url}/birds", disk)
    assert (tmp_path / "precious").read_text() == "mine"


def test_no_room_is_told_before_a_byte_comes(store, made, disk):
    staged(f"{store.url}/birds", disk)
    with_split(made, num_bytes=2**60)
    os.truncate(made / "train.beton", 2**43)
    with_split(made, num_bytes=2**43)
    store.sent.clear()
    with pytest.raises(ValueError, match=r"but of http.* 8\.8 TB are to be copied there.*\(there are copies of birds-"):
        staged(f"{store.url}/birds", disk)
    assert images_sent(store) == []


def test_a_disk_that_fills_meanwhile(store, made, tmp_path):
    unshare = ["unshare", "--mount"]
    if os.geteuid() or not shutil.which("unshare") or subprocess.run([*unshare, "true"]).returncode:
        pytest.skip("needs root and unshare, to make a disk of its own")
    script = f"""
mount -t tmpfs -o size=10m tmpfs "$2"
(until ls "$2"/.birds-*.partial/.val.beton.part; do sleep 0.01; done; head -c 9m /dev/zero > "$2/filler") 2> /dev/null &
"{sys.executable}" -c "$3" "$1/birds" "$2"; echo "status $?"
wait; rm "$2/filler"
"{sys.executable}" -c "$3" "$1/birds" "$2" && cp -r "$2"/birds-* "$2/../copied"
"""
    (tmp_path / "small").mkdir()
    store.delay = 0.02
    words = [*unshare, "sh", "-c", script, "sh", store.url, str(tmp_path / "small"), STAGE]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=300)
    said = done.stdout + done.stderr
    assert "status 1" in done.stdout
    assert f"the disk of {tmp_path}/small is full, " in said
    assert "the same command goes on from there" in said
    assert "are there" in done.stdout.partition("status 1")[2]
    assert contents(tmp_path / "copied") == contents(made)


def test_a_missing_package_is_named(disk):
    pytest.importorskip("fsspec")
    for url, package in (("s3://bucket/birds", "s3fs"), ("gs://bucket/birds", "gcsfs")):
        try:
            __import__(package)
        except ImportError:
            with pytest.raises(ValueError, match=rf"^{url} needs {package}, .*: pip install {package}\.$"):
                staged(url, disk)
    with pytest.raises(ValueError, match="Protocol not known: nowhere"):
        staged("nowhere://bucket/birds", disk)


def test_urls_are_taken_and_credentials_in_them_are_not():
    def recipe(path: str):
        return load_recipe("demo/species", [f"data.path={path}", "output=x"])

    assert recipe("s3://bucket/birds/").data.path == "s3://bucket/birds"
    assert load_recipe("demo/species", ["data.path=~/birds", "output=x"]).data.path == Path.home() / "birds"
    assert "path: s3://bucket/birds\n" in recipe("S3://bucket/birds").text()
    for url in ("s3://AKIA:Se/cret@bucket/birds", "https://Se:cret@host/birds", "https://host/birds?sig=Se/cret"):
        with pytest.raises(ValueError, match="has a user, a password or a query in it") as said:
            recipe(url)
        assert "cret" not in str(said.value)
        with pytest.raises(ValueError) as said:
            as_place(url)
        assert "cret" not in str(said.value)
    with pytest.raises(ValueError, match="output: must lie on a disk here"):
        load_recipe("demo/species", ["data.path=x", "output=s3://bucket/run"])


@pytest.mark.slow
def test_a_run_from_a_store(workshop, tmp_path):
    """Trained, evaluated, and shown with pictures, by what a user types."""
    disk = tmp_path / "disk"
    with web_store(workshop.folder) as store:
        url = f"{store.url}/encoded"
        words = [f"data.path={url}", f"data.stage_to={disk}", "optimizer.epochs=1", "output=from-store"]
        done = workshop.fastlt("train", "recipe.yaml", *words)
        assert done.returncode == 0, done.stdout + done.stderr
        copy = copy_of(url, disk).path
        assert f"images are read from {copy}, a copy of {url}" in done.stdout
        assert done.stdout.count("done in") == 1
        before = len(images_sent(store))
        assert workshop.fastlt("evaluate", "from-store").returncode == 0
        assert len(images_sent(store)) == before
    evaluated = json.loads((workshop.folder / "from-store" / "evaluation_val.json").read_text())
    assert evaluated["data"] == url
    assert workshop.fastlt("report", "from-store", "--out", "store.html").returncode == 0  # the store is gone
    assert "data:image/jpeg" in (workshop.folder / "store.html").read_text()
