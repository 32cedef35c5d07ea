"""`fastlt encode` as a user types it: what it writes, and what it refuses without leaving a trace."""

import io
import json
import shutil
import subprocess
import sys
import tarfile
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pytest
import webdataset
from fastlt.data_prep.catalog import Catalog
from fastlt.data_prep.check_encoded import check_encoded
from fastlt.data_prep.encode import encode as encode_sources
from fastlt.data_prep.encode_inputs import Sources
from fastlt.data_prep.storage import Storage
from ffcv.reader import Reader
from PIL import Image, ImageColor

from fastlt.beton_format import RAW, read_tables
from fastlt.cli import main
from fastlt.encoded import EncodedDataset
from fastlt.images import BrokenImageError, read_bytes, read_image


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
    with pytest.raises(ValueError, match=r"val\.idx is no index of val\.tar"):
        tars.image_names("val")
    shutil.rmtree(workshop.folder / "tars")


def encode_one_class(folder, images, **storage):
    """{file name: what is stored of it}: (bytes, is raw, width, height)."""
    for split in ("train", "val"):
        (folder / split / "a").mkdir(parents=True, exist_ok=True)
        for name, content in images.items():
            (folder / split / "a" / name).write_bytes(content)
    out = folder / "-".join(map(str, ["out", *storage.values()]))
    encode_sources(out, Sources(folder / "train", folder / "val"), Storage(workers=1, **storage))
    data = EncodedDataset.open(out)
    if data.format != "ffcv":
        stored = []
        for content in map(read_bytes, data.image_names("train")):
            stored.append((content, False, *Image.open(io.BytesIO(content)).size))
    else:
        content = data.file("train").read_bytes()
        reader = Reader(str(data.file("train")))
        sizes = dict(zip(reader.alloc_table["ptr"], reader.alloc_table["size"], strict=True))
        rows = reader.metadata["f0"].tolist()
        stored = [(content[p : p + int(sizes[p])], raw == 1, width, height) for raw, width, height, p in rows]
    return dict(zip(sorted(images), stored, strict=True))


def saved(image, form, **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def photograph(width=64, height=48) -> Image.Image:
    """Something smooth, no two corners of which look alike."""
    across, down = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([across, down, 255 - (across + down) / 2], 2).astype(np.uint8))


@pytest.mark.parametrize("form", ["ffcv", "webdataset"])
def test_clean_jpegs_are_copied_and_others_made(tmp_path, form):
    picture, large = photograph(), photograph(300, 200)
    on_its_side = Image.Exif()
    on_its_side[274] = 6
    images = {
        "0.jpg": saved(picture, "JPEG", quality=97),
        "1.jpg": saved(picture.convert("L"), "JPEG"),
        "2.jpg": saved(large, "JPEG"),
        "3.jpg": saved(picture, "JPEG", exif=on_its_side),
        "4.jpg": saved(picture, "JPEG", progressive=True),
        "5.jpg": saved(picture.convert("CMYK"), "JPEG"),
        "6.png": saved(picture, "PNG"),
    }
    stored = encode_one_class(tmp_path, images, format=form, max_resolution=100)
    assert [name for name in images if stored[name][0] == images[name]] == ["0.jpg"]
    opened = [Image.open(io.BytesIO(content)) for content, *_ in stored.values()]
    assert [image.size for image in opened] == [(width, height) for *_, width, height in stored.values()]
    assert {image.mode for image in opened} == {"RGB"}
    assert not any("progressive" in image.info for image in opened)
    assert [image.size for image in opened] == [(64, 48), (64, 48), (100, 67), (48, 64), *[(64, 48)] * 3]
    small = photograph(300, 200).resize((100, 67), Image.Resampling.BICUBIC)
    assert np.abs(np.asarray(opened[2], float) - np.asarray(small, float)).mean() < 2


def test_smart_takes_pixels_of_small_images_and_jpegs_of_large_ones(tmp_path):
    images = {f"{side}.jpg": saved(photograph(side, side), "JPEG") for side in (100, 182, 183, 400)}
    smart = encode_one_class(tmp_path, images, mode="smart")
    assert [raw for _, raw, *_ in smart.values()] == [True, True, False, False]
    for name in ("100.jpg", "182.jpg"):
        assert smart[name][0] == read_image(tmp_path / "train" / "a" / name).tobytes()
    assert smart["400.jpg"][0] == images["400.jpg"]


def kinds_of_images():
    """{file name: (bytes, the RGB pixels that it stands for)}, made by Pillow."""
    rgb = photograph()
    gray = rgb.convert("L")
    deep = np.asarray(gray).astype(np.uint16) * 257  # 16 bits; pixels above 255 must not all be white
    red = np.array([255, 0, 0], np.uint8)
    holes = np.zeros((48, 64), bool)
    holes[:20, :30] = True
    see_through = rgb.copy()
    see_through.putalpha(Image.fromarray(np.where(holes, 0, 255).astype(np.uint8)))
    on_white = np.where(holes[..., None], 255, np.asarray(rgb))
    palette = Image.fromarray(holes.astype(np.uint8))
    palette.putpalette([*red, 0, 0, 255])
    on_its_side = Image.Exif()
    on_its_side[274] = 6
    cmyk = rgb.convert("CMYK")
    return {
        "gray.png": (saved(gray, "PNG"), np.asarray(gray.convert("RGB"))),
        "gray16.png": (saved(Image.fromarray(deep), "PNG"), np.asarray(gray.convert("RGB"))),
        "gray16.tif": (saved(Image.fromarray(deep), "TIFF"), np.asarray(gray.convert("RGB"))),
        "gray16.ppm": (saved(Image.fromarray(deep).convert("I"), "PPM"), np.asarray(gray.convert("RGB"))),
        "cmyk.tif": (saved(cmyk, "TIFF"), np.asarray(cmyk.convert("RGB"))),
        "alpha.png": (saved(see_through, "PNG"), on_white),
        "palette.png": (saved(palette, "PNG", transparency=1), np.where(holes[..., None], 255, red)),
        "palette.gif": (saved(palette, "GIF"), np.where(holes[..., None], [0, 0, 255], red)),
        "rotated.png": (saved(rgb, "PNG", exif=on_its_side), np.rot90(np.asarray(rgb), -1)),
        "rotated16.tif": (saved(Image.fromarray(deep), "TIFF", exif=on_its_side), np.rot90(gray.convert("RGB"), -1)),
    }


def test_every_kind_of_image_is_the_same_in_all_formats(tmp_path):
    images = kinds_of_images()
    contents = {name: content for name, (content, _) in images.items()}
    pixels = encode_one_class(tmp_path, contents, mode="raw")
    jpegs = encode_one_class(tmp_path, contents, format="webdataset", quality=100)
    also = encode_one_class(tmp_path, contents, quality=100)
    encode_one_class(tmp_path, contents, format="plain")
    for name, (_, expected) in images.items():
        height, width = expected.shape[:2]
        np.testing.assert_array_equal(np.asarray(read_image(tmp_path / "train" / "a" / name)), expected, err_msg=name)
        assert pixels[name] == (expected.astype(np.uint8).tobytes(), True, width, height), name
        assert also[name] == jpegs[name]
        decoded = np.asarray(Image.open(io.BytesIO(jpegs[name][0])), float)
        assert np.median(np.abs(decoded - expected)) <= 2, name


def test_gray_of_32_bits_is_refused(tmp_path):
    Image.fromarray(np.ones((4, 4), np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(BrokenImageError, match="no white that all agree on"):
        read_image(tmp_path / "a.tif")


FFCV_READS = """
import sys
import numpy as np
from ffcv.fields.basics import IntDecoder
from ffcv.fields.rgb_image import CenterCropRGBImageDecoder
from ffcv.loader import Loader, OrderOption
pipelines = {"image": [CenterCropRGBImageDecoder((8, 8), 1.0)], "label": [IntDecoder()]}
options = {"os_cache": False, "drop_last": False, "order": OrderOption.SEQUENTIAL}
loader = Loader(sys.argv[1], 3, num_workers=1, pipelines=pipelines, **options)
batches = [(np.array(images), np.array(labels)) for images, labels in loader]
np.savez(sys.argv[2], images=np.concatenate([b[0] for b in batches]), labels=np.concatenate([b[1] for b in batches]))
"""


def test_ffcv_itself_reads_pages_of_any_size(tmp_path):
    """Page by page, as it does without the system's cache; images of more than its usual 8 MiB need larger pages."""
    colors = {"a": ["red", "green", "blue"], "b": ["white", "black", "gray", "yellow"]}
    sizes = [(1700, 1000), (40, 30), (2000, 1500), (1700, 1000)]
    for split in ("train", "val"):
        for name, fills in colors.items():
            (tmp_path / split / name).mkdir(parents=True)
            for i, (size, fill) in enumerate(zip(sizes, fills, strict=False)):
                Image.new("RGB", size, fill).save(tmp_path / split / name / f"{i}.png")
    encode_sources(tmp_path / "out", Sources(tmp_path / "train", tmp_path / "val"), Storage(mode="raw"))
    assert Reader(str(tmp_path / "out" / "train.beton")).page_size == 1 << 24
    words = [sys.executable, "-c", FFCV_READS, str(tmp_path / "out" / "train.beton"), str(tmp_path / "read.npz")]
    subprocess.run(words, check=True, timeout=120)
    read = np.load(tmp_path / "read.npz")
    assert read["labels"].ravel().tolist() == [0, 0, 0, 1, 1, 1, 1]
    for image, fill in zip(read["images"], [*colors["a"], *colors["b"]], strict=True):
        assert (image == np.array(ImageColor.getrgb(fill))).all()


FFCV_WRITES = """
import sys
import numpy as np
from ffcv.fields import IntField, RGBImageField
from ffcv.writer import DatasetWriter
samples = [(np.full((4 + i, 6, 3), i, np.uint8), 7 * i) for i in range(5)]
fields = {"image": RGBImageField(write_mode="raw"), "label": IntField()}
DatasetWriter(sys.argv[1], fields, num_workers=1).from_indexed_dataset(samples)
"""


def test_what_ffcv_writes_is_read(tmp_path):
    file = tmp_path / "ffcv.beton"
    subprocess.run([sys.executable, "-c", FFCV_WRITES, str(file)], check=True, timeout=120, capture_output=True)
    rows, allocations = read_tables(file)
    assert rows["label"].tolist() == [0, 7, 14, 21, 28]
    sizes = dict(zip(allocations["ptr"].tolist(), allocations["size"].tolist(), strict=True))
    content = file.read_bytes()
    for i, (mode, width, height, start) in enumerate(rows["image"].tolist()):
        assert (mode, width, height) == (RAW, 6, 4 + i)
        assert content[start : start + sizes[start]] == bytes([i]) * (width * height * 3)
    for damaged, sentence in {b"beton" * 1000: "no header of an FFCV file", content[:-10]: "is cut off"}.items():
        file.write_bytes(damaged)
        with pytest.raises(ValueError, match=sentence):
            read_tables(file)


DAMAGES = {
    ("ffcv", "train.beton", 5): "sha256",
    ("ffcv", "train.beton", "middle"): "sha256",
    ("ffcv", "val.beton", "label"): r"val\.beton, sample 0: its label is 1, its manifest says 0",
    ("webdataset", "train.tar", "middle"): "sha256",
    ("webdataset", "train.tar", "jpeg"): r"train\.tar, sample 0: broken image",
    ("webdataset", "val.idx", 9): r"val\.idx:\d+: it says",
    ("webdataset", "val.idx", "short"): r"val\.idx:\d+: it says",
    ("plain", "train.json", "middle"): "sha256",
    ("plain", "manifest.json", 30): "manifest",
    ("ffcv", "train.beton", "short"): "bytes, its manifest says",
    ("webdataset", "train.tar", "short"): "bytes, its manifest says",
}


@pytest.fixture(scope="module")
def checked(tmp_path_factory):
    """A small data set in each format."""
    folder = tmp_path_factory.mktemp("checked")
    for split in ("train", "val"):
        for name in ("a", "b"):
            (folder / split / name).mkdir(parents=True)
            for i in range(3):
                photograph(60 + i, 50).save(folder / split / name / f"{i}.jpg")
    for form in ("ffcv", "webdataset", "plain"):
        encode_sources(folder / form, Sources(folder / "train", folder / "val"), Storage(format=form, workers=1))
        assert check_encoded(folder / form, workers=1) == 12
    return folder


@pytest.mark.parametrize(("form", "name", "damage"), DAMAGES)
def test_check_finds_what_was_damaged(checked, form, name, damage):
    file = checked / form / name
    whole = file.read_bytes()
    content = bytearray(whole)
    if damage == "short":
        del content[-10:]
    elif damage == "label":
        reader = Reader(str(file))
        first = len(content) - reader.alloc_table.nbytes - reader.alloc_table["size"].sum() - reader.metadata.nbytes
        content[first + reader.metadata.dtype.fields["f1"][1]] ^= 1
    elif damage == "jpeg":
        content[512] ^= 1
    else:
        content[len(content) // 2 if damage == "middle" else damage] ^= 1
    try:
        file.write_bytes(content)
        with pytest.raises(ValueError, match=DAMAGES[form, name, damage]) as caught:
            check_encoded(checked / form, workers=1)
        assert str(file) in str(caught.value)
    finally:
        file.write_bytes(whole)


def test_check_as_a_user_types_it(workshop, checked):
    assert "all 12 images are whole" in workshop.fastlt("encode", "--check", checked / "plain").stdout
    names = EncodedDataset.open(checked / "plain").image_names("val")
    Path(names[4]).rename(Path(names[4]).with_suffix(".gone"))
    done = encode_here(workshop, "--check", checked / "plain")
    Path(names[4]).with_suffix(".gone").rename(names[4])
    assert done.returncode == 1
    assert "val.json, sample 4: broken image" in done.stderr
    assert "is not an encoded data set" in encode_here(workshop, "--check", checked / "train").stderr


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
    assert "have no image of 1 of the 9 classes, the first of which is 'genus00_species0'" in refusal(workshop)
    shutil.copytree(folders / "train", folders / "val", dirs_exist_ok=True)
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
    assert "other settings" in refusal(workshop, "--format", form, "--val", "copy/train")
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
    program = "import sys, fastlt.data_prep.encode, fastlt.data_prep.check_encoded; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not {"torch", "ffcv", "numba"} & set(done.stdout.split())
