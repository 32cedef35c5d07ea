"""`fastlt encode` as a user types it: what it writes, and what it refuses without leaving a trace."""

import io
import json
import shutil
import tarfile

import numpy as np
import pytest
import webdataset
from fastlt.data_prep.catalog import Catalog
from fastlt.data_prep.encode import encode as encode_folders
from fastlt.data_prep.storage import Storage
from PIL import Image

from fastlt.encoded import EncodedDataset
from fastlt.images import read_bytes, read_image


@pytest.fixture
def folders(workshop):
    """A copy of the species that a test may damage; afterwards nothing half-written may lie around."""
    copy = workshop.folder / "copy"
    shutil.copytree(workshop.folder / "species", copy)
    yield copy
    shutil.rmtree(copy)
    leftovers = [p.name for p in workshop.folder.iterdir() if "partial" in p.name or p.name == "refused"]
    assert leftovers == []


def encode_copy(workshop, *options, out="refused", auxiliary=True):
    words = ["--train", "copy/train", "--val", "copy/val"]
    if auxiliary:
        words += ["--auxiliary", "copy/auxiliary", "--neighbors", "copy/neighbors.json"]
    return workshop.fastlt("encode", out, *words, *options)


def refusal(workshop, *options, **keywords) -> str:
    done = encode_copy(workshop, *options, **keywords)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert not (workshop.folder / "refused").exists()
    return done.stderr


def look_alike(one: str, other: str) -> bool:
    """The same picture, but for JPEG's work on drawn noise."""
    coarse = [np.asarray(read_image(name).resize((8, 8), Image.Resampling.BOX), float) for name in (one, other)]
    return np.abs(coarse[0] - coarse[1]).mean() < 8


def test_both_formats_hold_the_same(workshop):
    ffcv, plain = (EncodedDataset.open(workshop.folder / name) for name in ("encoded", "plain"))
    assert ffcv.label_space == plain.label_space
    assert (ffcv.label_space.num_targets, ffcv.label_space.num_classes) == (9, 15)
    assert len(ffcv.label_space.neighbors) == 9 * 2
    assert ffcv.splits["train"].counts == list(ffcv.label_space.counts)
    assert ffcv.splits["val"].counts == [5] * 9
    np.testing.assert_array_equal(plain.split("val").labels(), np.repeat(np.arange(9), 5))


def test_webdataset_holds_the_same_for_dali_and_for_training(workshop, folders):
    done = encode_copy(workshop, "--format", "webdataset", out="tars")
    assert done.returncode == 0, done.stderr
    tars, plain = (EncodedDataset.open(workshop.folder / name) for name in ("tars", "plain"))
    assert tars.label_space == plain.label_space
    for split in ("train", "val"):
        places, originals = tars.image_names(split), plain.image_names(split)
        for place, original in zip(places, originals, strict=True):
            assert look_alike(place, original)
        samples = list(webdataset.WebDataset(str(tars.file(split)), shardshuffle=False))
        assert [int(sample["cls"]) for sample in samples] == tars.split(split).labels().tolist()
        # The index is what NVIDIA's own script would write: places, by name, of each sample's files.
        with tarfile.open(tars.file(split)) as tar:
            members = {member.name: member for member in tar}
        head, *lines = tars.file(split).with_suffix(".idx").read_text().splitlines()
        assert head == f"v1.2 {len(samples)}"
        for line in lines:
            words = line.split()
            for kind, offset, size, name in (words[:4], words[4:]):
                assert name.endswith(f".{kind}")
                assert (int(offset), int(size)) == (members[name].offset_data, members[name].size)
    (workshop.folder / "tars" / "val.idx").write_text("v1.2 7\n")
    with pytest.raises(ValueError, match=r"val\.idx is no index of val\.tar"):
        tars.image_names("val")
    shutil.rmtree(workshop.folder / "tars")


def test_small_jpegs_are_copied_and_others_made(tmp_path):
    """What is a clean JPEG already loses nothing; what is too large, gray or on its side is made anew."""
    pictures = {name: Image.new("RGB", (64, 48), color) for name, color in (("a", "red"), ("b", "blue"))}
    on_its_side = Image.Exif()
    on_its_side[274] = 6
    for split in ("train", "val"):
        for name, picture in pictures.items():
            (tmp_path / split / name).mkdir(parents=True)
            picture.save(tmp_path / split / name / "0.jpg", quality=95)
            picture.convert("L").save(tmp_path / split / name / "1.jpg")
            picture.resize((300, 200)).save(tmp_path / split / name / "2.jpg")
            picture.save(tmp_path / split / name / "3.jpg", exif=on_its_side)
    storage = Storage(format="webdataset", max_resolution=100, workers=1)
    encode_folders(tmp_path / "out", tmp_path / "train", tmp_path / "val", storage=storage)
    names = EncodedDataset.open(tmp_path / "out").image_names("train")
    assert read_bytes(names[0]) == (tmp_path / "train" / "a" / "0.jpg").read_bytes()
    stored = [Image.open(io.BytesIO(read_bytes(name))) for name in names[:4]]
    assert [image.size for image in stored] == [(64, 48), (64, 48), (100, 67), (48, 64)]
    assert {image.mode for image in stored} == {"RGB"}


@pytest.fixture
def catalog(workshop, folders):
    """A catalog with the auxiliary species in a shard, as crawl leaves it: filter kept all but one of each."""
    neighbors = json.loads((folders / "neighbors.json").read_text())
    path = workshop.folder / "catalog.sqlite"
    with Catalog(path, create=True) as catalog, catalog.transaction() as sql:
        for name in neighbors:
            sql.execute("INSERT INTO target (name, title, count) VALUES (?, ?, 1)", [name, name])
        sql.execute("INSERT INTO shard VALUES (0, 'done', 1, 1)")
        catalog.shards_folder.mkdir()
        with tarfile.open(catalog.shard_path(0), "w", format=tarfile.USTAR_FORMAT) as tar:
            for folder in sorted((folders / "auxiliary").iterdir()):
                category = catalog.add_category(folder.name, folder.name)
                for target in (t for t, names in neighbors.items() if folder.name in names):
                    sql.execute("INSERT INTO neighbor SELECT id, ? FROM target WHERE name = ?", [category, target])
                for i, file in enumerate(sorted(folder.iterdir())):
                    url = f"http://a/{folder.name}/{file.name}"
                    catalog.add_candidates([(category, url, "a", "list", "", "", "")])
                    (candidate,) = sql.execute("SELECT id FROM candidate WHERE url = ?", [url]).fetchone()
                    start = tar.offset
                    tar.add(file, f"{candidate}.jpg")
                    place = (start + 512, file.stat().st_size, 32, 32)
                    row = [candidate, category, 0, *place, b"%d" % candidate, 0, "kept" if i else "dropped"]
                    sql.execute(
                        "INSERT INTO image (id, category, shard, offset, num_bytes, width, height, sha256, hash, state)"
                        f" VALUES ({', '.join('?' * 10)})",
                        row,
                    )
    yield path
    shutil.rmtree(workshop.folder / "catalog_shards")
    for file in workshop.folder.glob("catalog.sqlite*"):
        file.unlink()


@pytest.mark.parametrize("form", ["ffcv", "webdataset", "plain"])
def test_a_catalog_gives_what_filter_kept(workshop, catalog, form):
    options = ["--catalog", catalog, "--format", form]
    done = encode_copy(workshop, *options, out="crawled", auxiliary=False)
    assert done.returncode == 0, done.stderr
    data, whole = (EncodedDataset.open(workshop.folder / name) for name in ("crawled", "plain"))
    assert data.label_space.auxiliary_names == whole.label_space.auxiliary_names
    assert data.label_space.neighbors == whole.label_space.neighbors
    assert data.label_space.counts[9:] == tuple(n - 1 for n in whole.label_space.counts[9:])
    if form != "ffcv":
        first = sum(data.label_space.counts[:9])
        assert look_alike(data.image_names("train")[first], whole.image_names("train")[first + 1])
        assert not look_alike(data.image_names("train")[first], whole.image_names("train")[first])
    shutil.rmtree(workshop.folder / "crawled")


def test_a_catalog_before_its_time(workshop, catalog):
    with Catalog(catalog) as opened:
        opened.connection.execute("UPDATE image SET state = 'new'")
    options = ["--catalog", catalog, "--format", "plain"]
    assert "were not filtered" in refusal(workshop, *options, auxiliary=False)
    done = encode_copy(workshop, *options, "--unfiltered", out="unfiltered", auxiliary=False)
    assert done.returncode == 0, done.stderr
    whole = EncodedDataset.open(workshop.folder / "plain")
    assert EncodedDataset.open(workshop.folder / "unfiltered").label_space.counts == whole.label_space.counts
    shutil.rmtree(workshop.folder / "unfiltered")
    assert "leave out --auxiliary" in refusal(workshop, *options)
    with Catalog(catalog) as opened:
        opened.connection.execute("UPDATE image SET state = 'dropped'")
    assert "no image of" in refusal(workshop, *options, auxiliary=False)
    with Catalog(catalog) as opened:
        opened.connection.execute("UPDATE shard SET state = 'open'")
    assert "did not end" in refusal(workshop, *options, auxiliary=False)


def test_missing_and_empty_folders(workshop, folders):
    assert "does not exist" in refusal(workshop, "--test", "copy/test")
    (folders / "train" / "genus99_species0").mkdir()
    assert "genus99_species0 has no image in it" in refusal(workshop)
    (folders / "train" / "genus99_species0").rmdir()
    shutil.rmtree(folders / "val" / "genus00_species0")
    assert "has no folder for class 'genus00_species0'" in refusal(workshop)


def test_unknown_neighbors(workshop, folders):
    for neighbors, sentence in (
        ({"genus00_species0": ["genus77_species0"]}, "names 'genus77_species0', which is not an auxiliary class"),
        ({"genus77_species0": []}, "names 'genus77_species0', which is not a target class"),
        (["genus00_species0"], "must be a JSON object"),
    ):
        (folders / "neighbors.json").write_text(json.dumps(neighbors))
        assert sentence in refusal(workshop)
    (folders / "neighbors.json").write_text("{")
    assert "cannot be read" in refusal(workshop)


def test_class_that_is_target_and_auxiliary(workshop, folders):
    shutil.copytree(folders / "train" / "genus00_species0", folders / "auxiliary" / "genus00_species0")
    assert "'genus00_species0' occurs twice" in refusal(workshop)


@pytest.mark.parametrize(
    "options",
    [["--mode", "jpg"], ["--format", "plain"], ["--format", "webdataset"]],
    ids=["ffcv", "plain", "webdataset"],
)
def test_broken_images(workshop, folders, options):
    broken = sorted((folders / "train" / "genus00_species1").iterdir())[:2]
    broken[0].write_bytes(broken[0].read_bytes()[:200])
    broken[1].write_text("no image")
    said = refusal(workshop, *options)
    assert "2 broken images" in said
    assert all(str(path) in said for path in broken)
    done = encode_copy(workshop, *options, "--skip-broken", out="skipped")
    assert done.returncode == 0, done.stderr
    data = EncodedDataset.open(workshop.folder / "skipped")
    whole = EncodedDataset.open(workshop.folder / "encoded")
    assert sum(whole.label_space.counts) - sum(data.label_space.counts) == 2
    shutil.rmtree(workshop.folder / "skipped")


def test_existing_output_is_left_alone(workshop, folders):
    before = (workshop.folder / "encoded" / "manifest.json").read_bytes()
    done = encode_copy(workshop, out="encoded")
    assert done.returncode == 1
    assert "exists already" in done.stderr
    assert (workshop.folder / "encoded" / "manifest.json").read_bytes() == before


def test_truncated_and_contradicting_data_sets(workshop):
    copy = workshop.folder / "damaged"
    shutil.copytree(workshop.folder / "encoded", copy)
    with (copy / "train.beton").open("r+b") as file:
        file.truncate(1000)
    with pytest.raises(ValueError, match="has 1,000 bytes, its manifest says"):
        EncodedDataset.open(copy)
    shutil.rmtree(copy)
    shutil.copytree(workshop.folder / "encoded", copy)
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["splits"]["val"]["counts"].extend([0] * 6 + [1])
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="labels up to 15, outside its label space of 15 classes"):
        EncodedDataset.open(copy)
    shutil.rmtree(copy)


def test_without_ffcv(workshop, folders, tmp_path):
    """FFCV hidden as if it were not installed: one sentence that names the way out."""
    import os
    import subprocess
    import sys

    (tmp_path / "ffcv.py").write_text("raise ImportError('libopencv_core.so: cannot open shared object file')")
    code = "import sys; from fastlt.cli import main; sys.exit(main(sys.argv[1:]))"
    words = ["encode", "refused", "--train", "copy/train", "--val", "copy/val"]
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        cwd=workshop.folder, env=os.environ | {"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "--format plain, which needs no FFCV" in done.stderr
