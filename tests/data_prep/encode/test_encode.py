"""`fastlt encode` as a user types it: what it writes, and what it refuses without leaving a trace."""

import io
import json
import shutil
import subprocess
import sys
import tarfile
from contextlib import chdir, redirect_stderr, redirect_stdout

import numpy as np
import pytest
import webdataset
from PIL import Image

from fastlt.cli import main
from fastlt.data_prep.catalog import Catalog
from fastlt.data_prep.encode.check import check_encoded
from fastlt.dataset.encoded import EncodedDataset
from fastlt.dataset.images import read_image
from support.catalogs import make_catalog

pytestmark = pytest.mark.medium


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
    return encode_here(workshop, out, *words, *options)


def encode_here(workshop, *words) -> subprocess.CompletedProcess:
    """The command as it is typed, without waiting for a process of its own."""
    said = io.StringIO(), io.StringIO()
    with chdir(workshop.folder), redirect_stdout(said[0]), redirect_stderr(said[1]):
        status = main(["encode", *map(str, words)])
    return subprocess.CompletedProcess(words, status, *(stream.getvalue() for stream in said))


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
    with pytest.raises(ValueError, match=r"val\.idx is not the index of val\.tar"):
        tars.image_names("val")
    shutil.rmtree(workshop.folder / "tars")


@pytest.fixture
def catalog(workshop, folders):
    """A catalog with the auxiliary species in a shard, as crawl leaves it: filter kept all but one of each."""
    neighbors = json.loads((folders / "neighbors.json").read_text())
    path = workshop.folder / "catalog.sqlite"
    species = [(f.name, image) for f in sorted((folders / "auxiliary").iterdir()) for image in sorted(f.iterdir())]
    make_catalog(path, [(name, image.read_bytes()) for name, image in species], neighbors)
    with Catalog(path) as catalog, catalog.transaction():
        names = [name for name, _ in species]
        states = ["dropped" if names.index(name) == n else "kept" for n, name in enumerate(names)]
        catalog.judge_images([(state, "", None, None, n) for n, state in enumerate(states, 1)])
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


def test_one_class_is_warned_of_and_not_trained(workshop, capsys):
    """As it comes out where the folder above that of the classes is given."""
    (workshop.folder / "above").mkdir()
    (workshop.folder / "above" / "images").symlink_to(workshop.folder / "species" / "val")
    done = encode_here(workshop, "one-class", "--train", "above", "--val", "above", "--format", "plain")
    assert done.returncode == 0, done.stderr
    assert "warning: above has one class, images: a classifier needs two" in done.stdout
    with chdir(workshop.folder):
        assert main(["train", "recipe.yaml", "data.path=one-class", "output=refused"]) == 1
    assert "one-class has one target class, 'images', and a classifier needs two: encode" in capsys.readouterr().err
    assert not (workshop.folder / "refused").exists()
    shutil.rmtree(workshop.folder / "one-class")
    shutil.rmtree(workshop.folder / "above")


def test_neighbors_of_a_list_under_any_of_their_names(workshop, catalog, folders):
    """A catalog that `crawl --urls` made has categories, and no pairs: the user's file has them as the list did."""
    pairs = json.loads((folders / "neighbors.json").read_text())
    titled = pairs["genus00_species0"][0]
    with Catalog(catalog) as opened, opened.transaction():
        opened.connection.execute("DELETE FROM neighbor")
        opened.connection.execute("UPDATE category SET title = 'Fine Title' WHERE name = ?", [titled])
        opened.add_category("imageless", "imageless")
    options = ["--catalog", catalog, "--format", "plain"]
    done = encode_copy(workshop, *options, out="crawled", auxiliary=False)
    assert done.returncode == 0, done.stderr
    assert "there are no neighbor pairs, so nothing is silenced" in done.stdout
    shutil.rmtree(workshop.folder / "crawled")

    def written(name: str) -> str:
        return "Fine Title" if name == titled else name.replace("_", " - ").title()

    said = {target.upper().replace("_", " "): [*map(written, names), "Imageless"] for target, names in pairs.items()}
    (folders / "neighbors.json").write_text(json.dumps(said))
    done = encode_copy(workshop, *options, "--neighbors", "copy/neighbors.json", out="crawled", auxiliary=False)
    assert done.returncode == 0, done.stderr
    assert "9 neighbor pairs are left out, as no image of their auxiliary class was kept" in done.stdout
    whole = EncodedDataset.open(workshop.folder / "plain")
    assert EncodedDataset.open(workshop.folder / "crawled").label_space.neighbors == whole.label_space.neighbors
    shutil.rmtree(workshop.folder / "crawled")
    (folders / "neighbors.json").write_text(json.dumps({"genus00_species0": ["Unheard of"]}))
    said = refusal(workshop, *options, "--neighbors", "copy/neighbors.json", auxiliary=False)
    assert "names 'Unheard of', which is not an auxiliary class" in said


def test_a_category_that_is_a_target_is_left_out(workshop, catalog, folders):
    """A list may have images of the targets too, under their plain names."""
    for split in ("train", "val"):
        (folders / split / "genus00_species0").rename(folders / split / "n01440764-Fine_Title")
    pairs = json.loads((folders / "neighbors.json").read_text())
    titled = pairs["genus00_species0"][0]
    with Catalog(catalog) as opened, opened.transaction():
        opened.connection.execute("UPDATE category SET title = 'fine titles' WHERE name = ?", [titled])
        opened.connection.execute("UPDATE target SET name = 'n01440764-Fine_Title' WHERE name = 'genus00_species0'")
    done = encode_copy(workshop, "--catalog", catalog, "--format", "plain", out="crawled", auxiliary=False)
    assert done.returncode == 0, done.stderr
    assert f"1 auxiliary classes are left out, as they are targets: {titled} is n01440764-Fine_Title" in done.stdout
    assert titled not in EncodedDataset.open(workshop.folder / "crawled").label_space.auxiliary_names


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
    assert "was interrupted: run `fastlt crawl` again" in refusal(workshop, *options, auxiliary=False)


def test_a_category_that_no_class_can_be_called_is_told_before_anything_is_encoded(workshop, catalog):
    with Catalog(catalog) as opened:
        opened.connection.execute("UPDATE category SET name = 'a\x1b[31m' WHERE id = 1")
    said = refusal(workshop, "--catalog", catalog, "--unfiltered", auxiliary=False)
    assert "is no name of a class" in said
    assert str(catalog) in said


def test_missing_and_empty_folders(workshop, folders):
    assert "does not exist" in refusal(workshop, "--test", "copy/test")
    (folders / "train" / "genus99_species0").mkdir()
    assert "genus99_species0 has no image in it" in refusal(workshop)
    (folders / "train" / "genus99_species0").rmdir()
    (folders / "val" / "genus00_species0").rename(folders / "val" / "genus99_species0")
    assert "have class 'genus99_species0', which the training images do not have" in refusal(workshop)


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


@pytest.mark.parametrize("form", ["ffcv", "webdataset", "plain"])
def test_broken_images(workshop, folders, form):
    """All are named; what was done is kept, for when they are repaired or left out."""
    broken = sorted((folders / "train" / "genus00_species1").iterdir())[:2]
    contents = [path.read_bytes() for path in broken]
    broken[0].write_bytes(contents[0][:200])
    broken[1].write_text("no image")
    said = refusal(workshop, "--format", form)
    assert "2 broken images" in said
    assert all(str(path) in said for path in broken)
    assert "with other images or settings" in refusal(workshop, "--format", form, "--val", "copy/train")
    done = encode_copy(workshop, "--format", form, "--skip-broken")
    assert done.returncode == 0, done.stderr
    assert "of which 201 are done" in done.stdout
    data = EncodedDataset.open(workshop.folder / "refused")
    whole = EncodedDataset.open(workshop.folder / "encoded")
    assert sum(whole.label_space.counts) - sum(data.label_space.counts) == 2
    assert check_encoded(workshop.folder / "refused") == sum(whole.label_space.counts) - 2 + 45
    shutil.rmtree(workshop.folder / "refused")

    refusal(workshop, "--format", form)
    for path, content in zip(broken, contents, strict=True):
        path.write_bytes(content)
    assert encode_copy(workshop, "--format", form).returncode == 0
    assert encode_copy(workshop, "--format", form, out="unbroken").returncode == 0
    for file in (workshop.folder / "unbroken").iterdir():
        assert file.read_bytes() == (workshop.folder / "refused" / file.name).read_bytes()
    for name in ("refused", "unbroken"):
        shutil.rmtree(workshop.folder / name)


def test_options_that_make_no_sense(workshop, folders):
    for options, sentence in (
        (["--quality", "0"], "--quality is 0; it must lie in 1..100"),
        (["--max-resolution", "0"], "--max-resolution is 0"),
        (["--workers", "-1"], "--workers is -1"),
        (["--format", "webdataset", "--mode", "raw"], "--mode raw is for --format ffcv alone"),
        (["--format", "plain", "--max-resolution", "9"], "--format plain keeps the images as they are"),
        (["--images", "copy"], "--images is for split files, and none is given"),
    ):
        assert sentence in refusal(workshop, *options)
    assert "--train is missing" in encode_here(workshop, "refused").stderr
    assert "give one of them" in encode_here(workshop, "refused", "--train", "copy/train").stderr


def test_without_validation_images(workshop, folders):
    words = ["--train", "copy/train", "--test", "copy/val", "--format", "plain"]
    done = encode_here(workshop, "tested", *words)
    assert done.returncode == 0, done.stderr
    assert list(EncodedDataset.open(workshop.folder / "tested").splits) == ["train", "test"]
    shutil.rmtree(workshop.folder / "tested")


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


def test_encoding_waits_for_no_large_library():
    """torch and FFCV take seconds to import, as long as a small data set takes to encode."""
    program = "import sys, fastlt.data_prep.encode.encode, fastlt.data_prep.encode.check; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not {"torch", "ffcv", "numba"} & set(done.stdout.split())
