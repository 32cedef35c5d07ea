"""Links that another user planted under the names of our temporary and lock files: what they point to stays."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fastlt.cli import main
from fastlt.data_prep.catalog import Candidate, Catalog
from support.crawling import encoded, photograph, write_list
from support.paths import ROOT

KEPT = b"what somebody wants to keep\n" * 200
CRAWL = ["--contact", "test@example.org", "--allow-private"]


@pytest.fixture
def victim(tmp_path) -> Path:
    """A folder with a file, neither of which any command may touch."""
    folder = tmp_path / "victim"
    folder.mkdir()
    (folder / "file").write_bytes(KEPT)
    return folder


def unharmed(victim: Path) -> bool:
    return [path.name for path in victim.iterdir()] == ["file"] and (victim / "file").read_bytes() == KEPT


def refused(words: list[object], capsys) -> str:
    """The one sentence that a command ends with."""
    assert main(list(map(str, words))) == 1
    said = capsys.readouterr().err
    assert said.startswith("fastlt: error: ")
    assert said.count("\n") == 1
    return said


@pytest.fixture
def classes(tmp_path) -> Path:
    for i, name in enumerate(("a", "b")):
        (tmp_path / "classes" / name).mkdir(parents=True)
        (tmp_path / "classes" / name / "1.jpg").write_bytes(encoded(photograph(i)))
    return tmp_path / "classes"


@pytest.fixture
def catalog(tmp_path) -> Path:
    """With an open shard of 100 bytes, and a URL that nobody answers at."""
    path = tmp_path / "c.sqlite"
    with Catalog(path, create=True) as opened, opened.transaction():
        opened.shards_folder.mkdir()
        (opened.shards_folder / ".00000.tar.partial").write_bytes(bytes(100))
        opened.set_open_shard(0, 1, 100)
        category = opened.add_category("kite", "kite")
        opened.add_candidates([Candidate(category, "http://127.0.0.1:9/1.jpg", "127.0.0.1:9", "list")])
    return path


def test_the_lock_of_a_catalog(catalog, victim, capsys):
    lock = Path(f"{catalog}.lock")
    lock.symlink_to(victim / "file")
    urls = write_list(catalog.with_name("list.csv"), [("http://127.0.0.1:9/2.jpg", "kite", "", "")])
    assert f"{lock} is no file" in refused(["crawl", catalog, "--urls", urls, *CRAWL], capsys)
    assert unharmed(victim)
    lock.unlink()
    os.mkfifo(lock)
    assert f"{lock} is no file" in refused(["crawl", catalog, "--urls", urls, *CRAWL], capsys)


def test_an_open_shard(catalog, victim, capsys):
    shard = catalog.with_name("c_shards") / ".00000.tar.partial"
    shard.unlink()
    shard.symlink_to(victim / "file")
    assert f"{shard} is no file" in refused(["crawl", catalog, *CRAWL], capsys)
    assert unharmed(victim)


@pytest.mark.parametrize("form", ["ffcv", "webdataset", "plain"])
@pytest.mark.parametrize(
    "name", ["train", "train.journal", "train.idx", ".inputs.sha256.partial", ".manifest.json.partial"]
)
def test_files_of_an_encode(tmp_path, classes, victim, capsys, form, name):
    suffix = {"ffcv": ".beton", "webdataset": ".tar", "plain": ".json"}[form]
    partial = tmp_path / ".out.partial"
    partial.mkdir()
    (partial / (f"train{suffix}" if name == "train" else name)).symlink_to(victim / "file")
    words = ["encode", tmp_path / "out", "--train", classes, "--val", classes, "--format", form, "--workers", 1]
    assert f"{partial} holds a link" in refused(words, capsys)
    assert unharmed(victim)


def test_the_folder_of_an_encode(tmp_path, classes, victim, capsys):
    (tmp_path / ".out.partial").symlink_to(victim)
    words = ["encode", tmp_path / "out", "--train", classes, "--val", classes, "--workers", 1]
    assert f"{tmp_path / '.out.partial'} is no folder" in refused(words, capsys)
    assert unharmed(victim)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to somebody else")
def test_the_folder_that_another_user_left(tmp_path, classes, capsys):
    partial = tmp_path / ".out.partial"
    partial.mkdir()
    (partial / "train.beton").write_bytes(b"")
    os.chown(partial, 12345, -1)
    words = ["encode", tmp_path / "out", "--train", classes, "--val", classes, "--workers", 1]
    assert f"{partial} belongs to user 12345" in refused(words, capsys)


@pytest.mark.medium
def test_folders_and_files_that_appear_whole(workshop, trained, tmp_path, victim, capsys):
    """What a link is planted for is written beside it, or the command ends: never through it."""
    for words, link, to in (
        (["export", trained, "--out", tmp_path / "export"], ".export.partial", victim),
        (["report", trained, "--out", tmp_path / "page.html"], ".page.html.partial", victim / "file"),
    ):
        (tmp_path / link).symlink_to(to)
        assert main(list(map(str, words))) == 0
        assert unharmed(victim)
    assert (tmp_path / "export" / "model.safetensors").is_file()
    assert (tmp_path / "page.html").read_text().startswith("<!doctype html>")
    log = tmp_path / "run" / "log.jsonl"
    log.parent.mkdir()
    log.symlink_to(victim / "new")
    done = workshop.train("data.path=encoded", f"output={log.parent}", "optimizer.epochs=1", ranks=1)
    assert unharmed(victim)
    assert done.returncode == 1
    assert f"fastlt: error: {log} is no file" in done.stderr


HOSTILE = """#include <stdio.h>
__attribute__((constructor)) static void run(void) { fclose(fopen(MARKER, "w")); }
"""


@pytest.mark.medium
@pytest.mark.skipif(not shutil.which("cc"), reason="there is no C compiler")
@pytest.mark.parametrize("named", ["shared", "shared/of-others"])
def test_compiled_code_in_a_folder_of_everybody(tmp_path, named):
    """What lies there is not run, and why all is compiled anew is said."""
    folder = tmp_path / named
    if named != "shared" and os.geteuid() != 0:
        pytest.skip("only root can give a folder to somebody else")
    folder.mkdir(parents=True)
    about = "import fastlt.loaders.compiled as c; print(c.own_folder() and c.folder().name)"
    words = {"NUMBA_CACHE_DIR": str(folder), "PYTHONPATH": str(ROOT)}
    found = subprocess.run([sys.executable, "-c", about], capture_output=True, text=True, env=os.environ | words)
    kept = folder / found.stdout.strip()
    kept.mkdir()
    (tmp_path / "hostile.c").write_text(HOSTILE)
    marker = tmp_path / "ran"
    library = ["cc", "-shared", "-fPIC", f'-DMARKER="{marker}"', "-o", kept / "jpeg.so", tmp_path / "hostile.c"]
    subprocess.run(library, check=True)
    if named == "shared":
        folder.chmod(0o1777)
    else:
        os.chown(folder, 12345, -1)
    code = "import fastlt.loaders.ffcv.jpeg, fastlt.loaders.compiled as c; c.say_that_nothing_is_kept()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | words)
    assert not marker.exists()
    assert f"others can write to {folder}, and what lies there is run" in done.stderr
