"""Shards go to an object store and come back, whole or not at all; encode then reads them as if they had stayed."""

import io
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from fsspec.implementations.local import LocalFileSystem
from PIL import Image

from fastlt.data_prep.catalog import Catalog
from fastlt.data_prep.shard_store import pull, push
from fastlt.dataset.images import read_bytes, read_image
from support.catalogs import make_catalog
from support.command import run_here
from support.crawling import encoded
from support.store import web_store


def jpeg(number: int) -> bytes:
    stream = io.BytesIO()
    Image.effect_noise((32, 32), 50 + number).convert("RGB").save(stream, "JPEG")
    return stream.getvalue()


@pytest.fixture
def catalog(tmp_path) -> Path:
    images = [("wren", jpeg(i)) for i in range(4)]
    return make_catalog(tmp_path / "here" / "birds.sqlite", images, {"robin": ["wren"]})


@pytest.fixture(autouse=True)
def folders(tmp_path):
    (tmp_path / "here").mkdir()
    (tmp_path / "elsewhere").mkdir()


def moved(catalog: Path, to: Path) -> Path:
    """The catalog alone, on another machine."""
    return Path(shutil.copy(catalog, to / catalog.name))


def files(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_shards_come_back_as_they_were(catalog, tmp_path, capsys):
    (tmp_path / "store").mkdir()
    words = ["push", str(catalog), f"file://{tmp_path}/store"]
    assert run_here(words, tmp_path).returncode == 0
    sent = (tmp_path / "store" / "00000.tar").stat().st_mtime_ns
    again = run_here(words, tmp_path)
    assert "sending 0 shards" in again.stdout
    assert "1 finished shards are there" in again.stdout
    assert (tmp_path / "store" / "00000.tar").stat().st_mtime_ns == sent

    there = moved(catalog, tmp_path / "elsewhere")
    with web_store(tmp_path / "store") as store:
        assert run_here(["pull", str(there), store.url], tmp_path).returncode == 0
        with Catalog(catalog) as ours, Catalog(there) as theirs:
            assert files(ours.shards_folder) == files(theirs.shards_folder)
            row = theirs.images().fetchone()
            read_image(f"{theirs.shard_path(0)}#{row['offset']}+{row['num_bytes']}")
            store.sent.clear()
            assert pull(theirs, store.url) == 1
            assert store.sent == []


def test_a_push_that_was_cut_off_is_gone_on_with_and_not_pulled(catalog, tmp_path):
    url, store = f"file://{tmp_path}/store", tmp_path / "store"
    with Catalog(catalog) as ours, Catalog(moved(catalog, tmp_path / "elsewhere")) as theirs:
        push(ours, url)
        (store / "00000.tar.sha256").unlink()  # it comes last
        (store / "00000.tar").write_bytes(b"half")
        with pytest.raises(ValueError, match=r"has no whole 00000\.tar: `fastlt push`"):
            pull(theirs, url)
        assert push(ours, url) == 1
        pull(theirs, url)
        assert files(ours.shards_folder) == files(theirs.shards_folder)


def test_what_is_not_a_shard_of_this_catalog_is_one_sentence(catalog, tmp_path):
    url, tar = f"file://{tmp_path}/store", tmp_path / "store" / "00000.tar"
    with Catalog(catalog) as ours, Catalog(moved(catalog, tmp_path / "elsewhere")) as theirs:
        push(ours, url)
        content = bytearray(tar.read_bytes())
        content[1000] ^= 1
        tar.write_bytes(content)
        with pytest.raises(ValueError, match="has other bytes than its checksum says"):
            pull(theirs, url)
        assert not theirs.shard_path(0).exists()
        tar.write_bytes(content + bytes(512))
        with pytest.raises(ValueError, match="it is of another catalog, or damaged"):
            push(ours, url)
        assert tar.read_bytes() == content + bytes(512)
        ours.shard_path(0).unlink()
        shutil.rmtree(tmp_path / "store")
        with pytest.raises(ValueError, match="is neither here nor at"):
            push(ours, url)
    for words in (["push", str(catalog), "birds"], ["pull", str(catalog), "birds"]):
        assert "birds is no URL such as s3://" in run_here(words, tmp_path).stderr


def test_a_shard_is_sent_again_after_images_were_removed_from_it(catalog, tmp_path):
    url, tar = f"file://{tmp_path}/store", tmp_path / "store" / "00000.tar"
    with Catalog(catalog) as ours, Catalog(moved(catalog, tmp_path / "elsewhere")) as theirs:
        names = [f"{ours.shard_path(0)}#{row['offset']}+{row['num_bytes']}" for row in ours.images()]
        kept, removed = read_bytes(names[1]), read_bytes(names[2])
        push(ours, url)
        assert removed in tar.read_bytes()
        done = run_here(["remove", str(catalog), "--url", "http://images.test/2"], tmp_path)
        assert done.returncode == 0, done.stderr
        push(ours, url)
        assert removed not in tar.read_bytes()
        assert kept in tar.read_bytes()
        sent = tar.stat().st_mtime_ns
        push(ours, url)
        assert tar.stat().st_mtime_ns == sent
        pull(theirs, url)
        assert theirs.shard_path(0).read_bytes() == ours.shard_path(0).read_bytes()


def test_what_is_removed_while_its_shard_is_sent_is_sent_again(catalog, tmp_path, monkeypatch):
    url, tar = f"file://{tmp_path}/store", tmp_path / "store" / "00000.tar"
    send, removals = LocalFileSystem.put_file, [["remove", str(catalog), "--url", "http://images.test/2"]]

    def slowly(store, path, *given, **options):
        send(store, path, *given, **options)
        if path.endswith(".tar") and removals:
            assert run_here(removals.pop(), tmp_path).returncode == 0

    monkeypatch.setattr(LocalFileSystem, "put_file", slowly)
    with Catalog(catalog) as ours:
        removed = read_bytes([f"{ours.shard_path(0)}#{row['offset']}+{row['num_bytes']}" for row in ours.images()][2])
        push(ours, url)
        assert removed in tar.read_bytes()
        push(ours, url)
        assert removed not in tar.read_bytes()


def test_a_shard_that_ends_too_early_is_neither_sent_nor_taken_for_one(catalog, tmp_path):
    url = f"file://{tmp_path}/store"
    with Catalog(catalog) as ours:
        shard = ours.shard_path(0)
        content = shard.read_bytes()
        with ours.transaction():
            ours.connection.execute("UPDATE shard SET num_bytes = ?", [len(content)])
        shard.write_bytes(content[:1000])
        for stage in (push, pull):
            with pytest.raises(ValueError, match=r"00000\.tar is damaged: it has 1,000 bytes, and its images take"):
                stage(ours, url)
        assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("lost", ["tar", "checksum", "both"])
def test_what_was_lost_in_the_store_is_sent_again(catalog, tmp_path, lost):
    url, store = f"file://{tmp_path}/store", tmp_path / "store"
    with Catalog(catalog) as ours:
        push(ours, url)
        if lost != "checksum":
            (store / "00000.tar").unlink()
        if lost != "tar":
            (store / "00000.tar.sha256").write_bytes(b"")
        assert push(ours, url) == 1
        assert (store / "00000.tar").read_bytes() == ours.shard_path(0).read_bytes()
        assert (store / "00000.tar.sha256").stat().st_size > 64


def test_removed_images_do_not_come_back_from_a_store(catalog, tmp_path):
    """The overwritten shard was deleted before it was pushed: the store still has the images."""
    url = f"file://{tmp_path}/store"
    with Catalog(catalog) as ours:
        push(ours, url)
        assert run_here(["remove", str(catalog), "--url", "http://images.test/2"], tmp_path).returncode == 0
        shard = ours.shard_path(0).rename(tmp_path / "aside.tar")
        for stage in (push, pull):
            with pytest.raises(ValueError, match=r"is not as `fastlt remove` left .* images that were removed may be"):
                stage(ours, url)
        assert not ours.shard_path(0).exists()
        shard.rename(ours.shard_path(0))
        push(ours, url)
        content = ours.shard_path(0).read_bytes()
        ours.shard_path(0).unlink()
        push(ours, url)
        pull(ours, url)
        assert ours.shard_path(0).read_bytes() == content


_PULL_ONTO_A_FULL_DISK = """
import shutil, subprocess, sys
from types import SimpleNamespace
from fastlt.cli import main
catalog, disk, url = sys.argv[1:]
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", disk], check=True)
shutil.copy(catalog, disk)
shutil.disk_usage = lambda _: SimpleNamespace(free=2**30)  # another process takes the room meanwhile
sys.exit(main(["pull", f"{disk}/birds.sqlite", url]))
"""


@pytest.mark.skipif(
    os.geteuid() != 0 or subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode != 0,
    reason="needs root and unshare, to make a disk of its own",
)
def test_a_disk_that_gets_full_is_one_sentence(tmp_path):
    images = [("wren", Image.effect_noise((700, 700), 90).convert("RGB")) for _ in range(3)]
    catalog = make_catalog(
        tmp_path / "here" / "birds.sqlite",
        [(name, encoded(image)) for name, image in images],
        {"robin": ["wren"]},
        in_shard=1,
    )
    with Catalog(catalog) as ours:
        push(ours, f"file://{tmp_path}/store")
    words = [sys.executable, "-c", _PULL_ONTO_A_FULL_DISK, catalog, tmp_path / "elsewhere", f"file://{tmp_path}/store"]
    done = subprocess.run(["unshare", "--mount", *words], capture_output=True, text=True, timeout=100)
    assert done.returncode == 1
    assert re.search(r"birds_shards is full, \d of 3 shards have come: make room, and the same", done.stderr), (
        done.stderr
    )
