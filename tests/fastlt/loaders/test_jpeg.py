"""Windows of JPEGs: the pixels that Pillow has there, whatever lies around; damage anywhere is told."""

import io
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from fastlt.data_prep.encode.encode import encode
from fastlt.data_prep.encode.inputs import EncodeInputs
from fastlt.data_prep.encode.options import EncodeOptions
from fastlt.dataset.encoded import EncodedDataset
from fastlt.loaders.choices import Choices
from fastlt.loaders.ffcv import jpeg
from fastlt.loaders.ffcv.jpeg import decode_window
from fastlt.loaders.readers import open_reader
from fastlt.loaders.sample_keys import join_keys
from fastlt.loaders.transform import Transform, eval_transform, train_transform
from fastlt.recipe import load_recipe

pytestmark = pytest.mark.medium

compiled_here = pytest.mark.skipif(bool(jpeg.MISSING), reason=jpeg.MISSING)

SIZES = [(61, 47), (200, 133), (333, 500), (16, 16), (1, 1), (5, 300)]


def drawn(size: tuple[int, int], mode: str, rng: np.random.Generator, **how) -> tuple[np.ndarray, np.ndarray]:
    """(the file uint8 [bytes], the pixels uint8 [H, W, 3] that Pillow decodes) of many colors."""
    few = rng.integers(0, 256, (size[1] // 4 + 1, size[0] // 4 + 1, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(few).resize(size, Image.Resampling.BICUBIC).convert(mode).save(stream, "JPEG", quality=90, **how)
    return np.frombuffer(stream.getvalue(), np.uint8).copy(), np.array(Image.open(stream).convert("RGB"))


@compiled_here
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("sampling", ["4:4:4", "4:2:2", "4:2:0", "gray"])
def test_window_has_the_pixels_of_the_whole(sampling, progressive):
    rng = np.random.default_rng(0)
    gray = sampling == "gray"
    how = {"progressive": progressive} | ({} if gray else {"subsampling": sampling})
    for size in SIZES:
        content, whole = drawn(size, "L" if gray else "RGB", rng, **how)
        height, width = whole.shape[:2]
        memory = np.empty(whole.size, np.uint8)
        for _ in range(40):
            h, w = rng.integers(1, height + 1), rng.integers(1, width + 1)
            top, left = rng.integers(height - h + 1), rng.integers(width - w + 1)
            pixels, first, decoded = decode_window(content, height, width, 1, top, left, h, w, memory)
            assert decoded
            window = pixels[:, left - first : left - first + w]
            np.testing.assert_array_equal(window, whole[top : top + h, left : left + w])


@compiled_here
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("sampling", ["4:4:4", "4:2:2", "4:2:0", "gray"])
@pytest.mark.parametrize("shrink", [2, 4, 8])
def test_window_of_a_shrunk_image_has_the_pixels_of_the_whole(shrink, sampling, progressive):
    """Those of Pillow, which has libjpeg do the same."""
    rng = np.random.default_rng(0)
    gray = sampling == "gray"
    how = {"progressive": progressive} | ({} if gray else {"subsampling": sampling})
    for size in [(61, 47), (200, 133), (333, 500), (16, 16), (9, 300)]:
        content, _ = drawn(size, "L" if gray else "RGB", rng, **how)
        opened = Image.open(io.BytesIO(content.tobytes()))
        opened.draft(None, (size[0] // shrink, size[1] // shrink))
        whole = np.array(opened.convert("RGB"))
        assert whole.shape[:2] == (-(-size[1] // shrink), -(-size[0] // shrink))
        memory = np.empty(3 * size[0] * size[1], np.uint8)
        for _ in range(40):
            h, w = (rng.integers(1, side + 1) for side in whole.shape[:2])
            top, left = (rng.integers(side - part + 1) for side, part in zip(whole.shape[:2], (h, w), strict=True))
            pixels, first, decoded = decode_window(content, size[1], size[0], shrink, top, left, h, w, memory)
            assert decoded
            np.testing.assert_array_equal(
                pixels[:, left - first : left - first + w], whole[top : top + h, left : left + w]
            )


@compiled_here
def test_damage_is_told_wherever_it_lies():
    content, whole = drawn((200, 133), "RGB", np.random.default_rng(1))
    height, width = whole.shape[:2]
    memory = np.empty(whole.size, np.uint8)
    window = height, width, 1, 20, 30, 40, 50
    assert decode_window(content, *window, memory)[2]
    assert not decode_window(content, width, height, 1, 20, 30, 40, 50, memory)[2], "it is of another size"
    assert not decode_window(np.zeros(1000, np.uint8), *window, memory)[2]
    for length in (0, 100, len(content) // 8, len(content) // 2, len(content) * 7 // 8):
        assert not decode_window(content[:length], *window, memory)[2]
    for place in (len(content) // 4, len(content) // 2, len(content) * 7 // 8):  # above, in and below the window
        damaged = content.copy()
        damaged[place : place + 100] = 0
        assert not decode_window(damaged, *window, memory)[2]


READS = """
import sys
from pathlib import Path
import numpy as np
from fastlt.dataset.encoded import EncodedDataset
from fastlt.loaders.readers import open_reader
from fastlt.loaders.sample_keys import join_keys
from fastlt.loaders.transform import Transform
data = EncodedDataset.open(Path(sys.argv[1]))
random = Transform(24, train=True, rand_augment="rand-m9-mstd0.5-inc1", color_jitter=0.2)
found = {}
for split, transform in (("train", random), ("val", Transform(24, train=False))):
    keys = join_keys(np.arange(sum(data.split(split).counts)), 3)
    (images,) = open_reader(data, split, transform, len(keys), 2).batches([keys])
    found[split] = images.numpy()
np.savez(sys.argv[2], **found)
"""


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """An encoded data set of JPEGs of many sizes, and one of pixels."""
    folder, rng = tmp_path_factory.mktemp("photographs"), np.random.default_rng(2)
    for split in ("train", "val"):
        for c in range(2):
            (folder / split / str(c)).mkdir(parents=True)
            for i, size in enumerate(SIZES):
                (folder / split / str(c) / f"{i}.jpg").write_bytes(drawn(size, "RGB", rng)[0].tobytes())
    encode(folder / "encoded", EncodeInputs(folder / "train", folder / "val"), EncodeOptions(mode="smart", workers=1))
    return folder


def read_crops(data: EncodedDataset, keys: np.ndarray, size: int, **how) -> np.ndarray:
    """Training images int [N, H, W, 3] without flips."""
    transform = Transform(size, train=True, flip=0.0, seed=5, **how)
    (images,) = open_reader(data, "train", transform, len(keys), 2).batches([keys])
    return images.permute(0, 2, 3, 1).numpy().astype(int)


@pytest.fixture(scope="module")
def waves(tmp_path_factory) -> EncodedDataset:
    """JPEGs of 200 x 200 without fine detail, so that a crop looks alike however it is decoded."""
    folder = tmp_path_factory.mktemp("waves")
    y, x = np.mgrid[:200, :200] / 200
    for split in ("train", "val"):
        for i in range(8):
            file = folder / split / str(i % 2) / f"{i}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            phases = [(i + 2) * x + c * y for c in range(3)]
            pixels = np.stack([127 + 100 * np.sin(2 * np.pi * phase) for phase in phases], axis=-1)
            Image.fromarray(pixels.astype(np.uint8)).save(file, quality=95)
    encode(folder / "out", EncodeInputs(folder / "train", folder / "val"), EncodeOptions(mode="jpg", workers=1))
    return EncodedDataset.open(folder / "out")


@compiled_here
@pytest.mark.parametrize(("size", "shrink"), [(24, 8), (25, 8), (26, 4), (50, 4), (60, 2), (100, 2), (101, 1)])
def test_scaled_decoding_takes_the_largest_step_that_leaves_the_size(waves, size, shrink):
    """Of the whole image to the bit what Pillow makes of its own draft, which is of the same library."""
    keys = np.arange(8, dtype=np.uint64)
    whole = {"crop_scale": (1.0, 1.0), "crop_ratio": (1.0, 1.0)}
    found = read_crops(waves, keys, size, scaled_decoding=True, **whole)
    originals = sorted((waves.path.parent / "train").glob("*/*"))
    for image, name in zip(found, originals, strict=True):
        opened = Image.open(name)
        opened.draft(None, (200 // shrink, 200 // shrink))
        expected = opened.resize((size, size), Image.Resampling.BICUBIC)
        np.testing.assert_array_equal(image, np.array(expected))
    assert (found != read_crops(waves, keys, size, **whole)).any() == (shrink > 1)


@compiled_here
def test_scaled_decoding_of_a_crop_is_the_crop(waves):
    """Wherever it lies, within a pixel of the shrunk image or not; small crops stay the same to the bit."""
    keys = np.concatenate([join_keys(np.arange(8), epoch) for epoch in range(40)])
    scaled, exact = (read_crops(waves, keys, 32, scaled_decoding=how) for how in (True, False))
    differences = np.abs(scaled - exact)
    assert differences.mean() < 2, "a pixel beside it would be 11"
    assert differences.mean(axis=(1, 2, 3)).max() < 6
    unchanged = (differences == 0).all(axis=(1, 2, 3))
    choices = Choices.of(Transform(32, train=True, flip=0.0, seed=5))
    crops = choices.of_batch(keys, np.full((len(keys), 2), 200))[0]
    np.testing.assert_array_equal(unchanged, crops[:, 2:].min(axis=1) < 64)


def test_scaled_decoding_is_of_training_and_off_unless_asked_for():
    mean = (0.5, 0.5, 0.5)
    for words, wanted in (([], False), (["data.scaled_decoding=true"], True)):
        recipe = load_recipe("demo/species", words)
        assert train_transform(recipe, mean).scaled_decoding is wanted
        assert not eval_transform(recipe).scaled_decoding


def test_a_loader_that_cannot_scale_says_so(workshop):
    data = EncodedDataset.open(workshop.folder / "plain")
    with pytest.raises(ValueError, match=r"data\.scaled_decoding=true: the plain loader decodes images whole"):
        open_reader(data, "train", Transform(24, train=True, scaled_decoding=True), 8, 1)


def read_in_a_process(photographs, out, **environment) -> tuple[dict[str, np.ndarray], str]:
    command = [sys.executable, "-c", READS, str(photographs / "encoded"), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | environment)
    assert done.returncode == 0 or "is damaged" in done.stderr, done.stderr
    return dict(np.load(out)) if done.returncode == 0 else {}, done.stderr


@pytest.mark.slow  # all of it is compiled anew
def test_without_a_compiler_the_pixels_are_the_same(photographs, tmp_path):
    """In a process of its own, which finds nothing compiled before; what that costs is said once."""
    bare = {"NUMBA_CACHE_DIR": str(tmp_path), "CC": "no-such-compiler"}
    found, said = read_in_a_process(photographs, tmp_path / "bare.npz", **bare)
    assert said.count("there is no C compiler, so each JPEG is decoded whole") == 1
    expected, _ = read_in_a_process(photographs, tmp_path / "compiled.npz")
    for split in ("train", "val"):
        assert found[split].std() > 10
        np.testing.assert_array_equal(found[split], expected[split])
    _, said = read_in_a_process(photographs, tmp_path / "third.npz", **bare, RANK="1")
    assert "no C compiler" not in said

    file = photographs / "encoded" / "val.beton"
    whole = file.read_bytes()
    start = whole.rindex(b"\xff\xd8\xff")  # of the last JPEG
    file.write_bytes(whole[: start + 300] + bytes(200) + whole[start + 500 :])
    _, said = read_in_a_process(photographs, tmp_path / "damaged.npz", **bare)
    file.write_bytes(whole)
    assert f"image 8 of {file} is damaged" in said
