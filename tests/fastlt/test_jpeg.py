"""Windows of JPEGs: the pixels that Pillow has there, whatever lies around; damage anywhere is told."""

import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

decode_jpeg = pytest.importorskip("fastlt.loaders.jpeg", reason="it does not compile here").decode_jpeg

SIZES = [(61, 47), (200, 133), (333, 500), (16, 16), (1, 1), (5, 300)]


def drawn(size: tuple[int, int], mode: str, rng: np.random.Generator, **how) -> tuple[np.ndarray, np.ndarray]:
    """(the file uint8 [bytes], the pixels uint8 [H, W, 3] that Pillow decodes) of many colors."""
    few = rng.integers(0, 256, (size[1] // 4 + 1, size[0] // 4 + 1, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(few).resize(size, Image.Resampling.BICUBIC).convert(mode).save(stream, "JPEG", quality=90, **how)
    return np.frombuffer(stream.getvalue(), np.uint8).copy(), np.array(Image.open(stream).convert("RGB"))


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
            pixels, first, decoded = decode_jpeg(content, height, width, top, left, h, w, memory)
            assert decoded
            window = pixels[:, left - first : left - first + w]
            np.testing.assert_array_equal(window, whole[top : top + h, left : left + w])


def test_damage_is_told_wherever_it_lies():
    content, whole = drawn((200, 133), "RGB", np.random.default_rng(1))
    height, width = whole.shape[:2]
    memory = np.empty(whole.size, np.uint8)
    window = height, width, 20, 30, 40, 50
    assert decode_jpeg(content, *window, memory)[2]
    assert not decode_jpeg(content, width, height, 20, 30, 40, 50, memory)[2], "it is of another size"
    assert not decode_jpeg(np.zeros(1000, np.uint8), *window, memory)[2]
    for length in (0, 100, len(content) // 8, len(content) // 2, len(content) * 7 // 8):
        assert not decode_jpeg(content[:length], *window, memory)[2]
    for place in (len(content) // 4, len(content) // 2, len(content) * 7 // 8):  # above, in and below the window
        damaged = content.copy()
        damaged[place : place + 100] = 0
        assert not decode_jpeg(damaged, *window, memory)[2]


def test_without_a_compiler_the_loader_says_so(tmp_path):
    """In a process of its own, which has compiled nothing yet."""
    program = "import fastlt.loaders.jpeg"
    environment = {"NUMBA_CACHE_DIR": str(tmp_path), "CC": "no-such-compiler", "PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    assert "ImportError: there is no C compiler" in done.stderr
