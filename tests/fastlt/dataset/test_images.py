"""Every color mode means the same to every reader: decoder, crawler, filter, encoder in all formats, loaders."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fastlt.data_prep.crawl.options import ImageOptions
from fastlt.data_prep.crawl.prepare import UnusableImageError, prepare
from fastlt.data_prep.encode.encode import encode
from fastlt.data_prep.encode.inputs import EncodeInputs
from fastlt.data_prep.encode.options import EncodeOptions
from fastlt.data_prep.filter.embed import EmbeddedImages
from fastlt.dataset.encoded import EncodedDataset
from fastlt.dataset.images import BrokenImageError, plain_jpeg_size, read_image
from fastlt.loaders.readers import open_reader
from fastlt.loaders.sample_keys import join_keys
from fastlt.loaders.transform import Transform
from support.odd_images import kinds_of_images, photograph, saved

pytestmark = pytest.mark.medium

KINDS = kinds_of_images()
AS_IT_IS = ImageOptions(size=0, quality=100, min_side=1)
SIDE = 32
SEEN = {"input_size": SIDE, "crop_pct": 1.0, "interpolation": "bicubic", "crop_mode": "center"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Class folders with a class for each kind, encoded in every format."""
    folder = tmp_path_factory.mktemp("kinds")
    for split in ("train", "val"):
        for name, (content, _) in KINDS.items():
            (folder / split / name).mkdir(parents=True)
            (folder / split / name / name).write_bytes(content)
    inputs = EncodeInputs(folder / "train", folder / "val")
    for out, options in {
        "raw": {"mode": "raw"},
        "jpg": {"quality": 100},
        "webdataset": {"format": "webdataset", "quality": 100},
        "plain": {"format": "plain"},
    }.items():
        encode(folder / out, inputs, EncodeOptions(workers=1, **options))
    return folder


def test_only_a_jpeg_that_needs_nothing_else_is_plain():
    image, turned = photograph(), Image.Exif()
    turned[274] = 6
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><tiff:Orientation>6</tiff:Orientation></x:xmpmeta>'
    plain = [saved(image, "JPEG"), saved(image, "JPEG", progressive=True, icc_profile=b"x" * 3000)]
    plain.append(plain[0] + b"Exif")  # after the pixels it means nothing
    assert [plain_jpeg_size(content) for content in plain] == [image.size] * 3
    several = {"save_all": True, "append_images": [image]}
    for content in (
        saved(image, "JPEG", exif=turned),
        saved(image, "JPEG", xmp=xmp),
        saved(image, "MPO", **several),
        saved(image.convert("L"), "JPEG"),
        saved(image.convert("CMYK"), "JPEG"),
        saved(image, "PNG"),
        plain[0][:150],
        b"\xff\xd8" + b"\xff\xe5\x00\x02" * 10_000,
        b"",
    ):
        assert plain_jpeg_size(content) is None


@pytest.mark.parametrize("name", KINDS)
def test_decoder_crawler_and_filter_see_the_same(name, folder):
    content, expected = KINDS[name]
    file = folder / "train" / name / name
    np.testing.assert_array_equal(np.asarray(read_image(file)), expected)
    made = prepare(content, AS_IT_IS, 10**9)
    pixels = np.asarray(Image.open(io.BytesIO(made.jpeg)), float)
    assert pixels.shape == expected.shape
    assert np.median(np.abs(pixels - expected)) <= 2
    seen, _, why = EmbeddedImages(SEEN)[str(file)]
    assert why == ""
    height, width = expected.shape[:2]
    small = Image.fromarray(expected.astype(np.uint8)).resize(
        (SIDE * width // min(width, height), SIDE * height // min(width, height)), Image.Resampling.BICUBIC
    )
    left, top = round((small.width - SIDE) / 2), round((small.height - SIDE) / 2)
    window = np.asarray(small.crop((left, top, left + SIDE, top + SIDE)), float)
    assert np.abs(seen.permute(1, 2, 0).numpy() - window).max() <= 1


def test_loaders_see_the_same_of_every_format(folder):
    """Evaluation's pixels; those of JPEGs at quality 100 differ from stored pixels by rounding."""
    keys = join_keys(np.arange(len(KINDS)))
    found = {}
    for out in ("plain", "raw", "jpg", "webdataset"):
        reader = open_reader(EncodedDataset.open(folder / out), "val", Transform(SIDE, train=False), 64, 1)
        (images,) = reader.batches([keys])
        found[out] = images.float().clone()
    assert (found["raw"] - found["plain"]).abs().max() <= 1
    for out in ("jpg", "webdataset"):
        difference = (found[out] - found["plain"]).abs().flatten(1)
        assert difference.median(dim=1).values.max() <= 2, out


@pytest.mark.parametrize(
    ("name", "image"),
    {
        "float.tif": Image.fromarray(np.ones((40, 40), np.float32)),
        "int32.tif": Image.fromarray(np.ones((40, 40), np.int32)),
    }.items(),
)
def test_gray_of_32_bits_is_refused_by_all(name, image, tmp_path):
    file = tmp_path / name
    image.save(file)
    with pytest.raises(BrokenImageError, match="no white that all agree on"):
        read_image(file)
    with pytest.raises(UnusableImageError, match="unsupported colors"):
        prepare(file.read_bytes(), AS_IT_IS, 10**9)
    assert "no white that all agree on" in EmbeddedImages(SEEN)[str(file)][2]
    for split in ("train", "val"):
        (tmp_path / split / "a").mkdir(parents=True)
        (tmp_path / split / "a" / name).write_bytes(file.read_bytes())
    with pytest.raises(ValueError, match="no white that all agree on"):
        encode(tmp_path / "out", EncodeInputs(tmp_path / "train", tmp_path / "val"), EncodeOptions(workers=1))


def test_no_other_format_is_opened(tmp_path):
    """An EPS file would start Ghostscript, whatever it is called."""
    content = saved(photograph(), "EPS")
    (tmp_path / "x.jpg").write_bytes(content)
    with pytest.raises(BrokenImageError, match="cannot identify image file"):
        read_image(tmp_path / "x.jpg")
    with pytest.raises(UnusableImageError, match="not an image"):
        prepare(content, AS_IT_IS, 10**9)
