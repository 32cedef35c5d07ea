"""What an encoded data set holds of each kind of image, and that FFCV itself reads it so."""

import io
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest
from PIL import Image, ImageColor

from fastlt.data_prep.encode.encode import encode as encode_sources
from fastlt.data_prep.encode.inputs import EncodeInputs
from fastlt.data_prep.encode.options import EncodeOptions
from fastlt.dataset.beton import RAW, read_tables
from fastlt.dataset.encoded import EncodedDataset
from fastlt.dataset.images import read_bytes, read_image
from support.odd_images import kinds_of_images, photograph, saved

pytestmark = pytest.mark.medium

needs_ffcv = pytest.mark.skipif(find_spec("ffcv") is None, reason="FFCV is not installed: it could not be built here")


def encode_one_class(folder, images, **storage):
    """{file name: what is stored of it}: (bytes, is raw, width, height)."""
    for split in ("train", "val"):
        (folder / split / "a").mkdir(parents=True, exist_ok=True)
        for name, content in images.items():
            (folder / split / "a" / name).write_bytes(content)
    out = folder / "-".join(map(str, ["out", *storage.values()]))
    encode_sources(out, EncodeInputs(folder / "train", folder / "val"), EncodeOptions(workers=1, **storage))
    data = EncodedDataset.open(out)
    if data.format != "ffcv":
        stored = []
        for content in map(read_bytes, data.image_names("train")):
            stored.append((content, False, *Image.open(io.BytesIO(content)).size))
    else:
        content = data.file("train").read_bytes()
        rows, allocations = read_tables(data.file("train"))
        sizes = dict(zip(allocations["ptr"].tolist(), allocations["size"].tolist(), strict=True))
        stored = [(content[p : p + sizes[p]], mode == RAW, w, h) for mode, w, h, p in rows["image"].tolist()]
    return dict(zip(sorted(images), stored, strict=True))


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


@pytest.mark.slow
@needs_ffcv
def test_ffcv_itself_reads_pages_of_any_size(tmp_path):
    """Page by page, as it does without the system's cache; images of more than its usual 8 MiB need larger pages."""
    colors = {"a": ["red", "green", "blue"], "b": ["white", "black", "gray", "yellow"]}
    sizes = [(1700, 1000), (40, 30), (2000, 1500), (1700, 1000)]
    for split in ("train", "val"):
        for name, fills in colors.items():
            (tmp_path / split / name).mkdir(parents=True)
            for i, (size, fill) in enumerate(zip(sizes, fills, strict=False)):
                Image.new("RGB", size, fill).save(tmp_path / split / name / f"{i}.png")
    encode_sources(tmp_path / "out", EncodeInputs(tmp_path / "train", tmp_path / "val"), EncodeOptions(mode="raw"))
    from ffcv.reader import Reader  # slow to import

    reader = Reader(str(tmp_path / "out" / "train.beton"))
    rows, allocations = read_tables(tmp_path / "out" / "train.beton")
    assert reader.page_size == 1 << 24
    assert reader.metadata["f0"].tolist() == rows["image"].tolist()
    assert reader.alloc_table.tolist() == allocations.tolist()
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


@needs_ffcv
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
