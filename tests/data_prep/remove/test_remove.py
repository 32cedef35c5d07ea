"""`fastlt remove` as a user types it: gone everywhere, back never, and nothing else moved; killed at any step."""

import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest
import webdataset

from fastlt.data_prep.catalog import Catalog
from fastlt.data_prep.encode.check import check_encoded
from fastlt.data_prep.filter.embedding_store import RowStore, image_keys
from fastlt.data_prep.remove.remove import remove
from fastlt.data_prep.remove.wanted import Wanted
from fastlt.dataset.attribution import read_credits
from fastlt.dataset.encoded import EncodedDataset
from fastlt.dataset.images import read_bytes
from support.command import run_here
from support.crawling import command, jpeg, outcomes, write_list
from support.web import Answer, Web

pytestmark = pytest.mark.medium

# Of each: label, license, whom to credit. 3.jpg shows what 0.jpg does.
IMAGES = [
    ("lynx", "cc-by-4.0", "(c) Ann Lee, some rights reserved"),
    ("lynx", "cc-by-nc-4.0", "Joann Leeds"),
    ("wolf", "cc-by-nc-2.0", "Bob"),
    ("wolf", "cc0-1.0", "who copied it"),
    ("fox", "cc-by-4.0", "by ANN  LEE (flickr)"),
    ("wolf", "", "Dan"),
    ("lynx", "cc0-1.0", "Eve"),
]
PICTURES = [jpeg(0 if n == 3 else n) for n in range(len(IMAGES))]


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A folder with a crawled catalog `c.sqlite` of shards of two images, embeddings, and a set in each format."""
    folder = tmp_path_factory.mktemp("made")
    for split in ("train", "val"):
        for number, name in enumerate(("cat", "dog")):
            (folder / split / name).mkdir(parents=True)
            (folder / split / name / "0.jpg").write_bytes(jpeg(100 + number + 10 * len(split)))
    with Web(site) as web:
        rows = [(f"http://{web.hosts[0]}/{n}.jpg", *row) for n, row in enumerate(IMAGES)]
        write_list(folder / "list.csv", [row[:3] + (f'"{row[3]}"',) for row in rows])
        options = ["--images-per-shard", 2, "--keep-original", "--connections", 1, "--per-host", 1]
        words = command(folder / "c.sqlite", "--urls", folder / "list.csv", *options)
        done = subprocess.run(words, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr
        (folder / "host").write_text(web.hosts[0])
    assert outcomes(folder / "c.sqlite")["3.jpg"] == "dropped: duplicate"
    with Catalog(folder / "c.sqlite") as catalog:
        rows = list(catalog.images())
    for name, width in (("embeddings", 8), ("nearest-1", 3)):
        with RowStore(folder / "c_embeddings" / "vit", name, np.dtype(("<f4", (width,)))) as store:
            store.append(np.append(image_keys(row["sha256"] for row in rows), 5), np.ones((len(rows) + 1, width)))
    for form in ("ffcv", "webdataset", "plain"):
        status, said = type_here(folder, *encode_words(form), "--format", form)
        assert status == 0, said
    return folder


@pytest.fixture
def folder(made, tmp_path) -> Path:
    """A copy. A plain set has the names of its files in it."""
    shutil.copytree(made, tmp_path / "copy")
    for name in ("plain/train.json", "plain/val.json"):
        file = tmp_path / "copy" / name
        file.write_text(file.read_text().replace(str(made), str(tmp_path / "copy")))
    manifest = json.loads((tmp_path / "copy" / "plain" / "manifest.json").read_text())
    for split in manifest["splits"].values():
        content = (tmp_path / "copy" / "plain" / split["file"]).read_bytes()
        split |= {"num_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (tmp_path / "copy" / "plain" / "manifest.json").write_text(json.dumps(manifest))
    return tmp_path / "copy"


def site(host: str, path: str) -> Answer | None:
    name = path.strip("/").removesuffix(".jpg").removeprefix("again")
    return Answer(PICTURES[int(name)]) if name.isdecimal() else None


def type_here(folder: Path, *words: object) -> tuple[int, str]:
    done = run_here([*map(str, words)], folder)
    return done.returncode, done.stdout + done.stderr


def encode_words(out: str) -> list[object]:
    return ["encode", out, "--train", "train", "--val", "val", "--catalog", "c.sqlite", "--unfiltered", "--workers", 1]


def contents(folder: Path) -> dict[str, bytes]:
    files = (file for file in sorted(folder.rglob("*")) if file.is_file() and not file.name.startswith("c.sqlite"))
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def bytes_left(folder: Path, number: int) -> list[str]:
    """The files in which a picture can still be found, as it was fetched or as it was stored."""
    with Catalog(folder.parent / "before.sqlite") as catalog:
        query = "SELECT shard, offset, image.num_bytes FROM image JOIN candidate USING (id) WHERE url LIKE ?"
        row = catalog.connection.execute(query, [f"%/{number}.jpg"]).fetchone()
    shard = folder.parent / "before_shards" / f"{row['shard']:05d}.tar"
    stored = shard.read_bytes()[row["offset"] : row["offset"] + row["num_bytes"]]
    return [name for name, content in contents(folder).items() if stored in content or PICTURES[number] in content]


def keep_before(folder: Path) -> None:
    shutil.copy(folder / "c.sqlite", folder.parent / "before.sqlite")
    shutil.copytree(folder / "c_shards", folder.parent / "before_shards")


def all_sets(folder: Path) -> dict[str, list[str]]:
    """What each set has of crawled images, by the end of their URLs; and that it is whole and right."""
    found = {}
    for form in ("ffcv", "webdataset", "plain"):
        rows = list(read_credits(folder / form))
        found[form] = [row.url.rpartition("/")[2] for row in rows]
        data = EncodedDataset.open(folder / form)
        check_encoded(folder / form, 1)
        if form != "ffcv":
            names = data.image_names("train")
            assert len(names) == 2 + len(rows)
            for row in rows:
                assert data.label_space.names[data.split("train").labels()[row.sample]] == row.class_name
                stored = webdataset_sample(folder, row.url)
                assert read_bytes(names[row.sample]) == stored
    return found


def webdataset_sample(folder: Path, url: str) -> bytes:
    for shard in sorted((folder / "c_shards").glob("*.tar")):
        for sample in webdataset.WebDataset(str(shard), shardshuffle=False, empty_check=False):
            if json.loads(sample["json"])["url"] == url:
                return sample["jpg"]
    raise AssertionError(url)


def test_an_author_is_gone_everywhere_and_stays_gone(folder):
    keep_before(folder)
    assert len(bytes_left(folder, 0)) == 3
    sets = ["--encoded", "ffcv", "webdataset", "plain"]
    status, said = type_here(folder, "remove", "c.sqlite", "--author", "ann lee", *sets)
    assert status == 0, said
    assert "--author means the attributions (c) Ann Lee, some rights reserved (1), by ANN LEE (flickr) (1)" in said
    assert "c.sqlite: 3 URLs dropped, which are not fetched again" in said  # one is a duplicate
    assert "2 images overwritten, in 00000.tar, 00001.tar" in said
    assert "embeddings: 2 rows overwritten" in said
    assert "ffcv: 2 of 8 training images removed; fox has none left and is no class any more" in said
    assert bytes_left(folder, 0) == bytes_left(folder, 4) == []
    assert all_sets(folder) == {form: ["1.jpg", "6.jpg", "2.jpg", "5.jpg"] for form in ("ffcv", "webdataset", "plain")}
    assert EncodedDataset.open(folder / "ffcv").label_space.auxiliary_names == ("lynx", "wolf")
    assert "2 images were removed later, on request" in (folder / "ffcv" / "README.md").read_text()
    removed = {"0.jpg", "3.jpg", "4.jpg"}
    found = outcomes(folder / "c.sqlite")
    assert {name for name, state in found.items() if state == "dropped: removed on request"} == removed
    statistics = json.loads((folder / "c_shards" / "00000_stats.json").read_text())
    assert statistics["images"] == 1

    # The list again, and the same pictures from other places.
    host = (folder / "host").read_text()
    with Web(site, [host.partition(":")[0]]) as web:
        rows = [(f"http://{web.hosts[0]}/again{n}.jpg", "lynx", "cc-by-4.0", "somebody") for n in (0, 1, 4)]
        rows += [(f"http://{host}/{n}.jpg", "wolf", "cc0-1.0", "new words") for n in range(7)]
        write_list(folder / "list.csv", rows)
        done = subprocess.run(
            command(folder / "c.sqlite", "--urls", folder / "list.csv", "--retry"), capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
    found = outcomes(folder / "c.sqlite")
    assert found["again0.jpg"] == found["again4.jpg"] == "dropped: removed on request"
    assert found["again1.jpg"] == "dropped: duplicate"
    assert {name for name, state in found.items() if "removed" in state} == removed | {"again0.jpg", "again4.jpg"}
    assert bytes_left(folder, 0) == bytes_left(folder, 4) == []
    write_list(folder / "list.csv", rows[:1])  # what a list has no more stays removed, and so when it has it again
    for listed in (rows[:1], rows):
        write_list(folder / "list.csv", listed)
        subprocess.run(command(folder / "c.sqlite", "--urls", folder / "list.csv"), capture_output=True, timeout=120)
        assert outcomes(folder / "c.sqlite")["0.jpg"] == "dropped: removed on request"


def test_a_duplicate_takes_the_image_with_it_that_it_repeats(folder):
    """The picture was kept under another address: whoever wants it away knows the one that was dropped."""
    keep_before(folder)
    url = f"http://{(folder / 'host').read_text()}/3.jpg"
    status, said = type_here(folder, "remove", "c.sqlite", "--url", url, "--dry-run")
    assert "c.sqlite: 2 URLs would be dropped, with 1 images in shards" in said
    sets = ["--encoded", "ffcv", "webdataset", "plain"]
    status, said = type_here(folder, "remove", "c.sqlite", "--url", url, *sets)
    assert status == 0, said
    assert bytes_left(folder, 0) == []
    found = outcomes(folder / "c.sqlite")
    assert sorted(name for name, state in found.items() if "removed" in state) == ["0.jpg", "3.jpg"]


@pytest.mark.parametrize(
    ("words", "gone", "reason"),
    [
        (["--license", "cc-by-nc"], ["1.jpg", "2.jpg"], "removed on request (license)"),
        (["--license", "CC BY-NC 2.0", "none"], ["2.jpg", "5.jpg"], "removed on request (license)"),
        (["--category", "Lynx"], ["0.jpg", "1.jpg", "6.jpg"], "removed on request (category)"),
        (["--url", "http://HOST/6.jpg"], ["6.jpg"], "removed on request"),
    ],
)
def test_what_else_may_be_asked_for(folder, words, gone, reason):
    words = [word.replace("HOST", (folder / "host").read_text()) for word in words]
    keep_before(folder)
    status, said = type_here(folder, "remove", "c.sqlite", *words, "--encoded", "webdataset")
    assert status == 0, said
    found = outcomes(folder / "c.sqlite")
    assert sorted(name for name, state in found.items() if "removed" in state) == gone
    assert {found[name] for name in gone} == {f"dropped: {reason}"}
    assert [row.url[-5:] for row in read_credits(folder / "webdataset") if row.url[-5:] in gone] == []
    for name in gone:
        left = bytes_left(folder, int(name[0]))
        assert {file.partition("/")[0] for file in left} <= {"ffcv", "plain"}, "sets that were not named"
    with Catalog(folder / "c.sqlite") as catalog:
        names = {row["name"] for row in catalog.categories(kept=True)}
    assert ("lynx" in names) == ("--category" not in words)


def test_a_dry_run_changes_nothing(folder):
    before = contents(folder), outcomes(folder / "c.sqlite")
    status, said = type_here(folder, "remove", "c.sqlite", "--author", "Ann Lee", "--dry-run", "--encoded", "ffcv")
    assert status == 0, said
    assert "c.sqlite: 3 URLs would be dropped, with 2 images in shards" in said
    assert "/4.jpg\n" in said
    assert "ffcv: 2 images would be removed" in said
    assert (contents(folder), outcomes(folder / "c.sqlite")) == before


def test_removals_of_before_are_carried_into_another_set(folder):
    assert type_here(folder, "remove", "c.sqlite", "--author", "Ann Lee")[0] == 0
    status, said = type_here(folder, "remove", "c.sqlite", "--encoded", "ffcv")
    assert status == 0, said
    assert "ffcv: 2 of 8 training images removed" in said
    status, said = type_here(folder, "remove", "c.sqlite", "--encoded", "ffcv")
    assert status == 0, said
    assert "ffcv: holds none of what was removed" in said


def test_an_odd_url_is_found_in_a_set(folder):
    """ATTRIBUTION.csv has no two spaces beside each other, the catalog has."""
    odd = "http://images.test/two  spaces\u202e.jpg"
    with Catalog(folder / "c.sqlite") as catalog:
        catalog.connection.execute(
            "UPDATE candidate SET url = ? WHERE id = (SELECT max(id) FROM image_in_use WHERE state != 'dropped')", [odd]
        )
    assert type_here(folder, *encode_words("odd"), "--format", "webdataset")[0] == 0
    status, said = type_here(folder, "remove", "c.sqlite", "--url", odd, "--encoded", "odd", "--dry-run")
    assert "odd: 1 images would be removed" in said
    status, said = type_here(folder, "remove", "c.sqlite", "--url", odd, "--encoded", "odd")
    assert status == 0, said
    assert "odd: 1 of 8 training images removed" in said


def test_what_filter_drew_is_left_to_do_until_it_is_drawn_anew(folder):
    (folder / "c_filter.csv").write_text("image,url\n")
    os.utime(folder / "c_filter.csv", (1e9, 1e9))
    assert type_here(folder, "remove", "c.sqlite")[0] == 0, "nothing was ever removed"
    for words in (["--author", "Dan"], []):
        status, said = type_here(folder, "remove", "c.sqlite", *words)
        assert status == 1
        assert "left to do: c_filter.csv may show what was removed: `fastlt filter` writes them anew." in said
    os.utime(folder / "c_filter.csv")
    status, said = type_here(folder, "remove", "c.sqlite")
    assert status == 0, said


def test_a_set_of_which_nothing_crawled_is_left(folder):
    sets = ["--encoded", "webdataset"]
    status, said = type_here(folder, "remove", "c.sqlite", "--category", "lynx", "wolf", "fox", *sets)
    assert status == 0, said
    assert "webdataset: 6 of 8 training images removed" in said
    for words in (sets, [*sets, "--dry-run"]):
        status, said = type_here(folder, "remove", "c.sqlite", *words)
        assert status == 0, said
    assert "webdataset: 0 images would be removed" in said


@pytest.mark.slow
def test_killed_before_any_step_that_lasts(folder, tmp_path):
    """A process that is killed at its first fsync, rename or commit, at its second, ...; then the command again."""
    wanted, sets = Wanted(author=("Ann Lee",), category=("wolf",)), ("ffcv", "plain")

    def run(copy: Path, steps: int | None) -> bool:
        """Whether it came to its end."""
        child = os.fork()
        if child == 0:
            try:
                if steps is not None:
                    _kill_at(steps)
                os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
                with Catalog(copy / "c.sqlite") as catalog, catalog.lock("remove"):
                    remove(catalog, wanted, [copy / name for name in sets], dry_run=False)
                os._exit(0)
            except BaseException:
                import traceback

                traceback.print_exc()
                os._exit(1)
        status = os.waitpid(child, 0)[1]
        assert not os.WIFEXITED(status) or os.WEXITSTATUS(status) == 0
        return os.WIFEXITED(status)

    def state(copy: Path) -> tuple:
        with Catalog(copy / "c.sqlite") as catalog:
            rows = catalog.connection.execute("SELECT id, state, reason, num_bytes FROM image ORDER BY id").fetchall()
        files = contents(copy)
        for form in ("ffcv", "plain"):  # names of the folder are in it
            del files[f"{form}/manifest.json"], files[f"{form}/train.{'beton' if form == 'ffcv' else 'json'}"]
            check_encoded(copy / form, 1)
        return [tuple(row) for row in rows], outcomes(copy / "c.sqlite"), files

    unbroken = tmp_path / "unbroken"
    shutil.copytree(folder, unbroken)
    assert run(unbroken, None)
    expected, steps = state(unbroken), 0
    while True:
        copy = tmp_path / f"killed{steps}"
        shutil.copytree(folder, copy)
        if run(copy, steps):
            break
        assert run(copy, None)
        assert state(copy) == expected, f"killed at step {steps}"
        shutil.rmtree(copy)
        steps += 1
    assert steps > 20


def _kill_at(steps: int) -> None:
    """Has this process killed when it comes to a step that the disk would know of."""
    left = [steps]

    def counted(call):
        def step(*args, **keywords):
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left[0] -= 1
            return call(*args, **keywords)

        return step

    os.fsync, os.rename = counted(os.fsync), counted(os.rename)
    Path.rename, Path.unlink, shutil.rmtree = counted(Path.rename), counted(Path.unlink), counted(shutil.rmtree)
    Catalog.forget_erased = counted(Catalog.forget_erased)
    Catalog.mark_removed, Catalog.reject_category = counted(Catalog.mark_removed), counted(Catalog.reject_category)


def test_what_is_still_to_be_overwritten_is_not_forgotten(folder):
    """Remove was killed after it marked an image; a crawl meets the same bytes elsewhere; remove again."""
    keep_before(folder)
    with Catalog(folder / "c.sqlite") as catalog, catalog.transaction():
        catalog.mark_removed([6], "license")
    with Web(site) as web:
        write_list(folder / "list.csv", [(f"http://{web.hosts[0]}/again5.jpg", "wolf", "cc0-1.0", "Dan")])
        words = command(folder / "c.sqlite", "--urls", folder / "list.csv")
        assert subprocess.run(words, capture_output=True, timeout=120).returncode == 0
        assert outcomes(folder / "c.sqlite")["again5.jpg"] == "dropped: duplicate"
        assert type_here(folder, "remove", "c.sqlite")[0] == 0
        assert not [name for name in bytes_left(folder, 5) if name.startswith("c_shards")]
        assert subprocess.run(words, capture_output=True, timeout=120).returncode == 0
        assert outcomes(folder / "c.sqlite")["again5.jpg"] == "fetched"


def test_an_unfinished_shard(folder):
    """A crawl that was killed left it open, with bytes at its end that were not committed."""
    shard = folder / "c_shards" / "00002.tar"
    with Catalog(folder / "c.sqlite") as catalog, catalog.transaction():
        catalog.connection.execute("UPDATE shard SET state = 'open' WHERE id = 2")
        row = catalog.connection.execute("SELECT num_bytes FROM shard WHERE id = 2").fetchone()
    content = shard.read_bytes()[: row["num_bytes"]]
    (folder / "c_shards" / ".00002.tar.partial").write_bytes(content + b"half a header")
    shard.unlink()
    keep_before(folder)
    status, said = type_here(folder, "remove", "c.sqlite", "--author", "Dan")
    assert status == 0, said
    assert "1 images overwritten, in .00002.tar.partial" in said
    left = (folder / "c_shards" / ".00002.tar.partial").read_bytes()
    assert PICTURES[5] not in left
    assert len(left) == len(content) + 13
    assert left.endswith(b"half a header")


def test_what_cannot_be_done_is_told_before_anything_is(folder):
    before = outcomes(folder / "c.sqlite")
    shutil.copytree(folder / "ffcv", folder / "older")
    (folder / "older" / "ATTRIBUTION.csv").unlink()
    for words, sentence in (
        (["--author", "Nobody"], "c.sqlite has nothing that --author Nobody means: nothing was removed."),
        (["--author", ""], "--author is empty"),
        (["--author", "Dan", "--encoded", "train"], "train is not an encoded data set"),
        (["--author", "Dan", "--encoded", "s3://b/c"], "s3://b/c: --encoded names folders on a disk here. Remove from"),
    ):
        status, said = type_here(folder, "remove", "c.sqlite", *words)
        assert (status, outcomes(folder / "c.sqlite")) == (1, before), said
        assert sentence in said
    with Catalog(folder / "c.sqlite") as catalog, catalog.lock("crawl"):
        holder = subprocess.run(
            [command(folder)[0], "remove", "c.sqlite", "--author", "Dan"], cwd=folder, capture_output=True, text=True
        )
    assert "c.sqlite is in use: crawl" in holder.stderr
    (folder / "c_parts").mkdir()
    shutil.copy(folder / "c.sqlite", folder / "c_parts" / "0001-of-0002.sqlite")
    status, said = type_here(folder, "remove", "c.sqlite", "--author", "Dan")
    assert "c.sqlite is in parts, which have images of their own: `fastlt merge` it first" in said
    shutil.rmtree(folder / "c_parts")
    (folder / "c_shards" / "00002.tar").rename(folder / "moved.tar")
    status, said = type_here(folder, "remove", "c.sqlite", "--author", "Dan", "--encoded", "older", "ffcv")
    assert status == 1
    assert "the shard" in said
    assert "00002.tar is missing" in said
    (folder / "moved.tar").rename(folder / "c_shards" / "00002.tar")  # what was begun is finished
    status, said = type_here(folder, "remove", "c.sqlite", "--author", "Nobody", "Dan", "--encoded", "older", "ffcv")
    assert status == 1
    assert "1 images overwritten" in said
    assert "ffcv: 1 of 8 training images removed" in said
    assert "left to do: --author Nobody means nothing in c.sqlite; older does not say where its images come" in said


def test_rows_of_an_older_store_go_with_it(tmp_path):
    from fastlt.data_prep.filter.embedding_store import erase_rows

    for name in ("old", "new"):
        with RowStore(tmp_path / name, "embeddings", np.dtype("<f4")) as store:
            store.append(np.arange(5), np.ones(5))
    (tmp_path / "old" / "embeddings.width").unlink()
    assert erase_rows(tmp_path, np.array([7])) == {}
    said = erase_rows(tmp_path, np.array([1, 3]))
    assert sorted(said.values()) == ["2 rows overwritten", "deleted, `fastlt filter` embeds again"]
    with RowStore(tmp_path / "new", "embeddings", np.dtype("<f4")) as store:
        assert store.find(np.array([0, 1, 2, 3, 4])).tolist() == [0, -1, 2, -1, 4]
        assert store.rows().tolist() == [1, 0, 1, 0, 1]
        store.append(np.array([1]), np.array([2.0]))
        assert store.rows()[store.find(np.array([1]))].tolist() == [2]
    assert io.BytesIO((tmp_path / "new" / "embeddings.keys").read_bytes()).read(8) == bytes(8)
