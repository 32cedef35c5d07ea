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
from fastlt.loaders.ffcv import jpeg
from fastlt.loaders.ffcv.jpeg import decode_window

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
            pixels, first, decoded = decode_window(content, height, width, top, left, h, w, memory)
            assert decoded
            window = pixels[:, left - first : left - first + w]
            np.testing.assert_array_equal(window, whole[top : top + h, left : left + w])


@compiled_here
def test_damage_is_told_wherever_it_lies():
    content, whole = drawn((200, 133), "RGB", np.random.default_rng(1))
    height, width = whole.shape[:2]
    memory = np.empty(whole.size, np.uint8)
    window = height, width, 20, 30, 40, 50
    assert decode_window(content, *window, memory)[2]
    assert not decode_window(content, width, height, 20, 30, 40, 50, memory)[2], "it is of another size"
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
