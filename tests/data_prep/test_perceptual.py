"""Perceptual hashes and the search for them, against a plain comparison of all pairs."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fastlt.data_prep.crawl.options import ImageOptions
from fastlt.data_prep.crawl.prepare import prepare
from fastlt.data_prep.perceptual.hash import perceptual_hash
from fastlt.data_prep.perceptual.index import HashIndex


def distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Hamming distance of all pairs, [A, B]."""
    return np.bitwise_count((a[:, None] ^ b[None, :]).view(np.uint64)).astype(int)


def hashes(seed: int, number: int, groups: int) -> np.ndarray:
    """Hashes that lie in groups, some of them very near each other, some far; int64 [number]."""
    rng = np.random.default_rng(seed)
    centers = rng.integers(-(2**63), 2**63, groups)
    chosen = centers[rng.integers(groups, size=number)]
    for _ in range(6):
        flips = rng.random(number) < 0.6
        chosen = chosen ^ np.where(flips, np.int64(1) << rng.integers(64, size=number), 0)
    return chosen


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.integers(0, 15), st.sampled_from([1, 60, 700]), st.integers(1, 40))
def test_search_is_exact(seed, radius, number, groups):
    added, queries = hashes(seed, number, groups), hashes(seed, 50, groups)
    index = HashIndex(radius)
    for part in np.array_split(added, 3):
        index.add(part)
    found = index.nearest(queries)
    apart = distances(queries, added)
    expected = np.where(apart.min(1) <= radius, apart.min(1), -1)
    np.testing.assert_array_equal(np.where(found < 0, -1, apart[np.arange(50), found]), expected)


@pytest.mark.parametrize("radius", [0, 4, 9])
def test_nearest_through_growth(radius):
    added = hashes(3, 6000, 1500)  # more than the unsorted tail holds
    index = HashIndex(radius)
    found = []
    for i, one in enumerate(added):
        if i % 7 == 0:
            found.append(index.nearest(added[i : i + 1])[0])
        index.add(np.array([one]))
    apart = distances(added, added)
    apart[np.triu_indices(len(added))] = 99
    asked = np.arange(0, len(added), 7)
    expected = np.where(apart.min(1) <= radius, apart.min(1), -1)[asked]
    np.testing.assert_array_equal(np.where(np.array(found) < 0, -1, apart[asked, found]), expected)


def picture(seed: int) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((400, 300), Image.Resampling.BICUBIC)


def test_copies_are_near_and_others_far():
    def hash_of(image: Image.Image) -> int:
        return perceptual_hash(np.asarray(image))

    for seed in range(20):
        image = picture(seed)
        stream = io.BytesIO()
        image.save(stream, "JPEG", quality=50)
        copies = [hash_of(Image.open(stream)), hash_of(image.resize((201, 150))), hash_of(image.convert("L"))]
        stream = io.BytesIO()
        image.save(stream, "PNG")
        copies.append(prepare(stream.getvalue(), ImageOptions(size=128), 10**9).hash)
        apart = distances(np.array([hash_of(image)]), np.array([*copies, hash_of(picture(seed + 100))]))[0]
        assert apart[:-1].max() <= 4
        assert apart[-1] > 10


def test_a_radius_without_meaning_is_refused():
    with pytest.raises(ValueError, match=r"must lie in 0\.\.15"):
        HashIndex(16)
