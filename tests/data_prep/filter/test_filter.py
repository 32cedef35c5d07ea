"""`fastlt filter`: what is kept and why not, no copies of validation and test images, kills, the contact sheet."""

import csv
import io
import json
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from safetensors.torch import save_file
from timm.data import create_transform
from torch import nn

from fastlt.data_prep.catalog import Catalog, Decision
from fastlt.data_prep.filter.contact_sheet import write_sheet
from fastlt.data_prep.filter.embed import EmbeddedImages, Encoder, RowStore, timm_encoder
from fastlt.data_prep.filter.filter import judge
from fastlt.data_prep.filter.judgment import summary, write_report, write_states
from fastlt.data_prep.filter.options import FilterOptions
from fastlt.data_prep.inputs.images import TargetImages
from fastlt.data_prep.perceptual.hash import perceptual_hash
from fastlt.dataset.images import read_image
from fastlt.label_space import LabelSpace
from fastlt.options import OptionError
from support import catalogs
from support.command import run_here
from support.paths import BIN

pytestmark = pytest.mark.medium

FOUND = FilterOptions(gamma2=1.1, duplicate=1.0, hash_radius=0, workers=0)
PLAIN = FilterOptions(gamma1=-1.0, gamma2=1.1, duplicate=1.0, hash_radius=0, workers=0)


def jpeg(image: Image.Image, quality: int = 90) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return stream.getvalue()


def make_catalog(path: Path, images: list[tuple[str, bytes]], neighbors: dict[str, list[str]]) -> Path:
    return catalogs.make_catalog(path, images, neighbors, hash_of)


def hash_of(content: bytes) -> int:
    try:
        return perceptual_hash(np.asarray(Image.open(io.BytesIO(content)).convert("RGB")))
    except OSError:
        return 0


def states(path: Path) -> list[tuple]:
    """(category, state, reason, similarity, nearest) of every image."""
    query = (
        "SELECT category.name, image.state, image.reason, similarity, target.name FROM image JOIN category"
        " ON category.id = category LEFT JOIN target ON target.id = nearest ORDER BY image.id"
    )
    with Catalog(path) as catalog:
        return [tuple(row) for row in catalog.connection.execute(query)]


class Colors(nn.Module):
    """Features that a person can foretell: the mean color of an image."""

    num_classes, head_hidden_size = 0, 3
    pretrained_cfg = {}  # noqa: RUF012

    def forward(self, images):
        return images.mean((2, 3))


@pytest.fixture(scope="session")
def colors() -> Encoder:
    return Encoder("mean color", Colors(), 32, 1.0, "bicubic", ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)))


COLORS = {"red": (230, 20, 20), "green": (20, 230, 20), "blue": (20, 20, 230), "yellow": (230, 230, 20)}
COLORS |= {"pink": (230, 20, 230), "cyan": (20, 230, 230)}


def painted(color: str, rng: np.random.Generator) -> Image.Image:
    """A noisy picture of one color, of which no two are alike."""
    blocks = np.array(COLORS[color]) + rng.normal(0, 90, (12, 12, 3))
    return Image.fromarray(blocks.clip(0, 255).astype(np.uint8)).resize((32, 32), Image.Resampling.BICUBIC)


@pytest.fixture(scope="session")
def paintings(tmp_path_factory) -> Path:
    """Class folders red, green and blue: train and val."""
    folder, rng = tmp_path_factory.mktemp("paintings"), np.random.default_rng(1)
    for split, count in (("train", 6), ("val", 4)):
        for color in ("red", "green", "blue"):
            (folder / split / color).mkdir(parents=True)
            for n in range(count):
                painted(color, rng).save(folder / split / color / f"{n}.png")
    return folder


def judged(path: Path, encoder: Encoder, paintings: Path, options: FilterOptions, test: Path | None = None):
    with Catalog(path) as catalog, catalog.lock("filter"):
        judgment = judge(catalog, encoder, TargetImages(paintings / "train", paintings / "val", test), options)
        write_states(catalog, judgment)
        write_report(catalog, judgment, path.with_suffix(".csv"))
    return judgment


def test_what_people_decided_wins_and_survives_another_run(tmp_path, colors, paintings):
    rng = np.random.default_rng(3)
    images = [("crimson", jpeg(painted(shade, rng))) for shade in ("red", "red", "red", "cyan", "cyan")]
    images.append(("crimson", jpeg(Image.open(paintings / "val" / "red" / "0.png").convert("RGB"), 95)))
    path = make_catalog(tmp_path / "c.db", images, {"red": ["crimson"], "green": [], "blue": []})
    options = FilterOptions(gamma1=0.0, gamma2=1.1, duplicate=1.0, hash_radius=4, workers=0)

    def taken() -> list[str]:
        with Catalog(path) as catalog:
            return [row["url"][-1] for row in catalog.connection.execute(
                "SELECT url FROM image_taken JOIN candidate USING (id) ORDER BY candidate.id"
            )]  # fmt: skip

    by_hand = (("0", "drop"), ("3", "keep"), ("5", "keep"))
    with Catalog(path) as catalog:  # before any filter, when no repeat is known
        found = catalog.decide([Decision("image", f"http://images.test/{n}", verdict) for n, verdict in by_hand])
        assert found.done == 3
    judgment = judged(path, colors, paintings, options)
    assert judgment.reasons.tolist()[:5] == ["", "", "", "too far", "too far"]
    assert judgment.reasons[5] == "near-duplicate of a validation image"
    assert judgment.kept.tolist() == [False, True, True, True, False, False]
    assert taken() == ["1", "2", "3"]
    judged(path, colors, paintings, replace(options, gamma1=-1.0))
    assert taken() == ["1", "2", "3", "4"]
    assert [row[1] for row in states(path)] == ["kept"] * 5 + ["dropped"]  # what filter says stays beside it
    with Catalog(path) as catalog:
        text = summary(catalog, judgment)
        assert "people decided otherwise of 2: 1 are kept, 1 dropped" in text


def test_thresholds_neighbors_and_reasons(tmp_path, colors, paintings):
    rng = np.random.default_rng(2)
    shades = ("red", "yellow", "cyan", "blue")
    images = [("crimson", jpeg(painted(shade, rng))) for shade in shades for _ in range(5)]
    images.append(("crimson", b"\xff\xd8 no image"))
    path = make_catalog(tmp_path / "c.db", images, {"red": ["crimson"], "green": [], "blue": ["navy", "crimson"]})
    judged(path, colors, paintings, PLAIN)
    found = states(path)
    assert found[-1][1:] == ("dropped", "broken", None, None)

    def direction(image):
        feature = (np.asarray(image.convert("RGB"), np.float64) / 255 - 0.5).mean((0, 1)) / 0.5
        return feature / np.linalg.norm(feature)

    def prototype(color):
        mean = np.mean([direction(Image.open(p)) for p in (paintings / "train" / color).iterdir()], 0)
        return mean / np.linalg.norm(mean)

    expected = []
    for _, content in images[:-1]:  # never green, which crimson does not neighbor
        cosines = {c: direction(Image.open(io.BytesIO(content))) @ prototype(c) for c in ("red", "blue")}
        expected.append((max(cosines.values()), max(cosines, key=cosines.get)))
    np.testing.assert_allclose([row[3] for row in found[:-1]], [s for s, _ in expected], atol=2e-3)
    assert [row[4] for row in found[:-1]] == [name for _, name in expected]

    similarities = sorted(row[3] for row in found[:-1])
    low, high = (similarities[5] + similarities[6]) / 2, (similarities[14] + similarities[15]) / 2
    options = FilterOptions(gamma1=low, gamma2=high, duplicate=1.0, hash_radius=0, workers=0)
    judged(path, colors, paintings, options)
    for _, state, reason, similarity, _ in states(path)[:-1]:
        assert reason == ("too far" if similarity <= low else "too near" if similarity >= high else "")
        assert state == ("dropped" if reason else "kept")
    assert sum(row[1] == "kept" for row in states(path)) == 9
    with Catalog(path) as catalog:
        assert json.loads(catalog.setting("filter"))["gamma1"] == low


def test_no_copy_of_a_validation_or_test_image_is_kept(tmp_path, colors, paintings):
    rng = np.random.default_rng(3)
    test = tmp_path / "elsewhere"
    (test / "deep" / "er").mkdir(parents=True)
    for n in range(3):
        painted("green", rng).save(test / "deep" / "er" / f"{n}.png")
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "linked").symlink_to(test)
    val = sorted((paintings / "val").rglob("*.png"))
    copies = [Image.open(val[0]).convert("RGB").resize((57, 57)), ImageOps.mirror(Image.open(val[5]).convert("RGB"))]
    copies.append(Image.open(test / "deep" / "er" / "2.png"))
    images = [("moss", jpeg(painted("green", rng))) for _ in range(6)] + [("moss", jpeg(c, 60)) for c in copies]
    path = make_catalog(tmp_path / "c.db", images, {"green": ["moss"]})
    by_hash = FilterOptions(gamma1=-1.0, gamma2=1.1, duplicate=1.0, hash_radius=6, workers=0)
    judgment = judged(path, colors, paintings, by_hash, tmp_path / "test")
    reasons = [row[2] for row in states(path)]
    assert reasons[6:] == ["near-duplicate of a validation image"] * 2 + ["near-duplicate of a test image"]
    assert reasons[:6] == [""] * 6
    rows = list(csv.DictReader(path.with_suffix(".csv").open()))
    linked = tmp_path / "test" / "linked" / "deep" / "er" / "2.png"
    assert [row["like"] for row in rows] == [str(val[0]), str(val[5]), str(linked)]

    # Features alone find them too, and the reference is the nearest of all.
    by_cosine = FilterOptions(gamma1=-1.0, gamma2=1.1, duplicate=0.99, hash_radius=0, workers=0)
    judgment = judged(path, colors, paintings, by_cosine, tmp_path / "test")
    assert all(reason.startswith("near-duplicate") for reason in judgment.reasons[6:])
    assert all(cosine >= 0.99 for _, cosine in judgment.likes.values())

    # A validation image that comes later is noticed, though everything is stored.
    later = tmp_path / "paintings"
    shutil.copytree(paintings, later)
    (later / "val" / "red" / "later.jpg").write_bytes(images[0][1])
    assert judged(path, colors, later, by_hash).reasons[0] == "near-duplicate of a validation image"


def test_split_files_say_the_same_as_folders(tmp_path, colors, paintings):
    """Training, validation and test images named by lists, of which the labels follow the training list's."""
    rng = np.random.default_rng(6)
    copies = [jpeg(Image.open(paintings / "val" / color / "0.png")) for color in ("red", "blue")]
    images = [("crimson", content) for content in (*copies, *(jpeg(painted("red", rng)) for _ in range(4)))]
    found = []
    for split in ("train", "val"):
        files = [(color, n, file) for n, color in enumerate(("red", "green", "blue"))
                 for file in sorted((paintings / split / color).iterdir())]  # fmt: skip
        rows = [f"{file.relative_to(paintings)} {n}\n" for _, n, file in files]
        (tmp_path / f"{split}.txt").write_text("".join(rows))
    lists = TargetImages(tmp_path / "train.txt", test=tmp_path / "val.txt", images=paintings)
    for name, sources in (("folders", TargetImages(paintings / "train", test=paintings / "val")), ("lists", lists)):
        path = make_catalog(tmp_path / f"{name}.db", images, {"red": ["crimson"], "green": [], "blue": []})
        with Catalog(path) as catalog, catalog.lock("filter"):
            write_states(catalog, judge(catalog, colors, sources, PLAIN))
        found.append([row[1:3] for row in states(path)])
    assert found[0] == found[1]
    assert [state for state, _ in found[0]].count("dropped") >= 2


def test_images_under_a_wrong_name(tmp_path, colors, paintings):
    """Six categories of one color each, a fifth of whose images are of another one."""
    rng = np.random.default_rng(4)
    names = list(COLORS)
    images, wrong = [], []
    for name in names:
        for n in range(20):
            wrong.append(n % 5 == 0)
            shown = names[(names.index(name) + 1 + n // 5) % 6] if wrong[-1] else name
            images.append((f"{name}-ish", jpeg(painted(shown, rng))))
    neighbors = {"red": ["red-ish", "pink-ish"], "green": ["green-ish", "yellow-ish"], "blue": ["blue-ish", "cyan-ish"]}
    path = make_catalog(tmp_path / "c.db", images, neighbors)
    judgment = judged(path, colors, paintings, FOUND)
    truth = {n: names[(n // 20 + 1 + n % 20 // 5) % 6] + "-ish" for n in np.flatnonzero(wrong).tolist()}
    assert {n: like for n, (like, _) in judgment.likes.items()}.items() <= truth.items()
    assert 0.9 * len(truth) <= len(judgment.likes) == sum(judgment.reasons == "looks like another category")
    assert abs(judgment.labels.wrong_share - 0.2) < 0.06


NEAR_DUPLICATES_OF_NO_MATTER = ["--gamma2", "2", "--duplicate", "1", "--hash-radius", "0", "--workers", "0"]


@pytest.fixture(scope="session")
def encoder_words(tmp_path_factory) -> list[str]:
    """A small encoder as a user names it; its weights are as drawn, which tells colors apart."""
    import timm

    torch.manual_seed(1)
    file = tmp_path_factory.mktemp("weights") / "small.safetensors"
    save_file(timm.create_model("test_resnet", num_classes=10).state_dict(), file)
    return ["--model", "test_resnet", "--weights", str(file), "--image-size", "32"]


def filtered(path: Path, paintings: Path, encoder: list[str], *words: str) -> subprocess.CompletedProcess:
    command = ["filter", str(path), *encoder, *NEAR_DUPLICATES_OF_NO_MATTER, *words]
    return run_here([*command, "--train", str(paintings / "train"), "--val", str(paintings / "val")])


@pytest.mark.slow
def test_a_batch_is_embedded_in_the_memory_of_the_one_before(tmp_path, paintings, encoder_words):
    """Clearing the pages of what a batch computes takes as long as computing it."""
    folders = ["--train", paintings / "train", "--val", paintings / "val", "--workers", "0"]
    words, rng = [*encoder_words[:-1], "320", "--batch-size", "16", *folders], np.random.default_rng(7)
    faults = []
    for batches in (2, 5):
        images = [("crimson", jpeg(painted("red", rng))) for _ in range(16 * batches)]
        path = make_catalog(tmp_path / f"{batches}.db", images, {"red": ["crimson"]})
        before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_minflt
        command = [sys.executable, "-m", "fastlt", "filter", path, *words, *NEAR_DUPLICATES_OF_NO_MATTER]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
        assert done.returncode in (0, 1), done.stderr
        faults.append(resource.getrusage(resource.RUSAGE_CHILDREN).ru_minflt - before)
    per_batch = (faults[1] - faults[0]) / 3
    assert per_batch * resource.getpagesize() < 16 * 32 * 160 * 160 * 4 / 4  # of one layer's output, a quarter


class Loud(Colors):
    """Features of any size."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, images):
        return nn.functional.linear(images.mean((2, 3)), torch.full((3, 3), self.scale))


def test_what_float16_has_no_room_for_is_computed_in_float32(monkeypatch):
    images = torch.full((2, 3, 32, 32), 200, dtype=torch.uint8)
    for scale in (1.0, 1e6, float("inf")):
        encoder = Encoder("loud", Loud(scale), 32, 1.0, "bicubic", ((0.0,) * 3, (1.0,) * 3))
        monkeypatch.setattr(encoder, "_dtype", torch.float16)  # as on a GPU
        if scale < float("inf"):
            assert torch.allclose(encoder(images), torch.full((2, 3), 3**-0.5), atol=1e-3)
        else:
            with pytest.raises(ValueError, match="not finite: its weights are damaged"):
                encoder(images)


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize(("size", "crop"), [(32, 0.875), (45, 0.95), (64, 1.0), (33, 1.1)])
def test_images_are_those_of_timms_transform(tmp_path, size, crop, interpolation):
    rng = np.random.default_rng(size)
    how = {"input_size": size, "crop_pct": crop, "interpolation": interpolation, "crop_mode": "center"}
    transform, images = create_transform(**how, is_training=False, use_prefetcher=True), EmbeddedImages(how)
    for mode, shape in (("RGB", (90, 50)), ("RGB", (31, 64)), ("L", (70, 70)), ("RGBA", (40, 120)), ("RGB", (1, 3))):
        noise = rng.integers(0, 256, (*shape[::-1], len(mode)), np.uint8).squeeze(-1 if mode == "L" else ())
        for kind in ("png", "jpg") if mode != "RGBA" else ("png",):
            file = tmp_path / f"{mode}{shape}.{kind}"
            Image.fromarray(noise, mode).save(file)
            pixels, hashes, why = images[str(file)]
            expected = read_image(file)
            assert not why
            np.testing.assert_array_equal(pixels, torch.as_tensor(transform(expected)))
            mirrored = ImageOps.mirror(expected)
            assert hashes == (perceptual_hash(np.asarray(expected)), perceptual_hash(np.asarray(mirrored)))


def mislabeled(share: float, per_category: int = 25, shown: dict | None = None) -> tuple[list, np.ndarray]:
    """Images of categories named like colors, of which a share shows another color; whether each label is right."""
    rng = np.random.default_rng(9)
    names = list(shown or COLORS)
    true = np.repeat(names, per_category)
    wrong = rng.permutation(len(true))[: round(share * len(true))]
    labels = true.copy()
    labels[wrong] = [names[(names.index(true[n]) + rng.integers(1, len(names))) % len(names)] for n in wrong]
    colors = [(shown or {}).get(name, name) for name in true]
    images = [(label, jpeg(painted(color, rng))) for label, color in zip(labels.tolist(), colors, strict=True)]
    return [(f"{label}-ish", content) for label, content in images], labels == true


@pytest.mark.parametrize("share", [0.0, 0.2, 0.4])
@pytest.mark.parametrize("given", [False, True])
def test_the_defaults_fit_the_encoder(tmp_path, paintings, encoder_words, share, given):
    """No option but the encoder, however many labels are wrong, with neighbor pairs and without."""
    images, right = mislabeled(share)
    pairs = {"red": ["red-ish", "pink-ish"], "green": ["green-ish", "yellow-ish"], "blue": ["blue-ish", "cyan-ish"]}
    path = make_catalog(tmp_path / "c.db", images, pairs if given else {})
    done = filtered(path, paintings, encoder_words)
    assert done.returncode == 0, done.stderr
    kept = np.array([row[1] == "kept" for row in states(path)])
    assert (kept & right).sum() >= 0.95 * right.sum()
    assert (kept & right).sum() >= 0.95 * kept.sum()
    estimated = float(re.search(r"an estimated ([\d.]+)% are wrong", done.stdout)[1]) / 100
    assert abs(estimated - share) < 0.05


@pytest.mark.parametrize("per_category", [5, 40])
def test_categories_that_look_the_same_both_stay(tmp_path, paintings, encoder_words, per_category):
    shown = {name: name for name in COLORS} | {"crimson": "red", "navy": "blue"}
    images, right = mislabeled(0.1, per_category, shown)
    path = make_catalog(tmp_path / "c.db", images, {})
    done = filtered(path, paintings, encoder_words)
    assert done.returncode == 0, done.stderr
    for name in shown:
        kept = [row[1] == "kept" for row, ok in zip(states(path), right, strict=True) if ok and row[0] == f"{name}-ish"]
        assert np.mean(kept) >= 0.6, name


@pytest.mark.parametrize("number", [1, 12])
def test_a_single_category_is_kept(tmp_path, paintings, encoder_words, number):
    rng = np.random.default_rng(10)
    images = [("lemon", jpeg(painted("yellow", rng))) for _ in range(number)]
    path = make_catalog(tmp_path / "c.db", images, {})
    done = filtered(path, paintings, encoder_words)
    assert done.returncode == 0, done.stderr
    assert sum(row[1] == "kept" for row in states(path)) >= 0.8 * number


def test_the_papers_thresholds_are_a_preset(tmp_path, colors, paintings):
    images, _ = mislabeled(0.2, 6)
    path = make_catalog(tmp_path / "c.db", images, {})
    preset, given = (
        judged(path, colors, paintings, FilterOptions(**options, duplicate=1.0, hash_radius=0, workers=0))
        for options in ({"preset": "dinov2"}, {"gamma1": 0.7, "gamma2": 0.98})
    )
    assert {"too far", "too near"} == set(preset.reasons)  # a mean color is no DINOv2
    assert (preset.reasons == given.reasons).all()
    other = judged(path, colors, paintings, FilterOptions(preset="dinov2", gamma2=1.1, duplicate=1.0, workers=0))
    assert "too near" not in set(other.reasons)


def test_little_kept_is_said_with_an_exit_status(tmp_path, paintings, encoder_words):
    images, _ = mislabeled(0.0, 10)
    path = make_catalog(tmp_path / "c.db", images, {})
    whole = filtered(path, paintings, encoder_words, "--gamma1", "-1")
    assert whole.returncode == 0, whole.stderr
    similarities = sorted(row[3] for row in states(path))
    few = filtered(path, paintings, encoder_words, "--gamma1", str((similarities[-9] + similarities[-8]) / 2))
    assert few.returncode == 1
    assert "only 8 of 60 images are kept (52 too far)" in few.stderr
    assert "without --gamma1 and --preset they are found" in few.stderr
    assert sum(row[1] == "kept" for row in states(path)) == 8  # the catalog says what the sheet shows


def test_no_name_is_a_formula_in_the_table_of_what_was_dropped(tmp_path, paintings, encoder_words):
    formulas = ["=cmd|' /C calc'!A0", "+1", "-1", "@SUM(A1)", " =1", "\uff1d1"]
    images, _ = mislabeled(0.0, 3)
    images += [(formula, b"\xff\xd8 no image") for formula in formulas]
    path = make_catalog(tmp_path / "c.db", images, {})
    assert filtered(path, paintings, encoder_words, "--gamma1", "-1").returncode == 0
    with (tmp_path / "c_filter.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["category"] for row in rows if row["reason"] == "broken"] == [f"'{formula}" for formula in formulas]


def pairs_of(path: Path) -> dict[str, list[str]]:
    with Catalog(path) as catalog:
        return catalog.neighbors()


def test_neighbors_are_found_where_nobody_gave_any(tmp_path, paintings, encoder_words):
    shown = {"rose": "red", "leaf": "green", "sky": "blue"}
    images, _ = mislabeled(0.1, 12, shown)
    path = make_catalog(tmp_path / "c.db", images, {})
    nearest = {"red": ["rose-ish"], "green": ["leaf-ish"], "blue": ["sky-ish"]}
    assert filtered(path, paintings, encoder_words).returncode == 0
    found = pairs_of(path)
    assert sum(map(len, found.values())) == 6
    assert all(set(names) <= set(found[target]) for target, names in nearest.items())
    # They are what is encoded.
    words = ["encode", tmp_path / "encoded", "--train", paintings / "train", "--val", paintings / "val"]
    words += ["--catalog", path, "--format", "plain"]
    done = subprocess.run([str(BIN / "fastlt"), *map(str, words)], capture_output=True, text=True, timeout=120)
    assert "6 neighbor pairs" in done.stdout, done.stderr
    # Another run replaces them.
    assert "3 neighbor pairs found" in filtered(path, paintings, encoder_words, "--neighbors", "1").stdout
    assert pairs_of(path) == nearest
    assert filtered(path, paintings, encoder_words, "--neighbors", "0").returncode == 0
    assert pairs_of(path) == {}


def test_pairs_are_silenced_as_much_as_they_are_alike(tmp_path, paintings, encoder_words):
    shown = {"rose": "red", "leaf": "green", "sky": "blue"}
    images, _ = mislabeled(0.0, 12, shown)
    path = make_catalog(tmp_path / "c.db", images, {"red": ["rose-ish", "leaf-ish"], "blue": ["sky-ish"], "green": []})
    done = filtered(
        path, paintings, encoder_words, "--neighbors", "1", "--strengths-out", str(tmp_path / "strengths.json")
    )
    assert done.returncode == 0, done.stderr
    strengths = json.loads((tmp_path / "strengths.json").read_text())
    assert {target: sorted(names) for target, names in strengths.items()} == {
        "red": ["leaf-ish", "rose-ish"],
        "blue": ["sky-ish"],
    }
    assert strengths["red"]["leaf-ish"] == 0  # less alike than chance
    assert max(strengths["red"]["rose-ish"], strengths["blue"]["sky-ish"]) == 1
    assert min(strengths["red"]["rose-ish"], strengths["blue"]["sky-ish"]) > 0.5
    words = ["encode", tmp_path / "encoded", "--train", paintings / "train", "--val", paintings / "val"]
    words += ["--catalog", path, "--format", "plain", "--neighbors", tmp_path / "strengths.json"]
    done = subprocess.run([str(BIN / "fastlt"), *map(str, words)], capture_output=True, text=True, timeout=120)
    assert "2 neighbor pairs" in done.stdout, done.stderr
    space = LabelSpace.load(tmp_path / "encoded" / "label_space.json")
    assert sorted(space.strengths) == sorted([strengths["red"]["rose-ish"], strengths["blue"]["sky-ish"]])


def test_given_neighbors_stand_alone(tmp_path, paintings, encoder_words):
    shown = {"rose": "red", "leaf": "green", "sky": "blue"}
    images, _ = mislabeled(0.0, 12, shown)
    path = make_catalog(tmp_path / "c.db", images, {"red": [], "green": [], "blue": ["rose-ish"]})
    assert filtered(path, paintings, encoder_words).returncode == 0
    targets_of = {
        name: {t for t, names in pairs_of(path).items() if name in names} for name in ("rose-ish", "leaf-ish")
    }
    assert targets_of["rose-ish"] == {"blue"}
    assert len(targets_of["leaf-ish"]) == 2
    assert filtered(path, paintings, encoder_words, "--neighbors", "1").returncode == 0
    assert pairs_of(path) == {"green": ["leaf-ish"], "blue": ["rose-ish", "sky-ish"]}
    with Catalog(path) as catalog, catalog.transaction():  # as discover gives one
        ids = {row["name"]: row["id"] for row in (*catalog.targets(), *catalog.categories())}
        catalog.add_neighbor(ids["red"], ids["leaf-ish"])
        assert [row["name"] for row in catalog.neighbors_of(ids["blue"])] == ["rose-ish"]  # what was named
    assert pairs_of(path) == {"red": ["leaf-ish"], "blue": ["rose-ish", "sky-ish"]}
    assert filtered(path, paintings, encoder_words, "--neighbors", "1").returncode == 0
    assert pairs_of(path) == {"red": ["leaf-ish"], "blue": ["rose-ish", "sky-ish"]}


def test_url_lists_without_targets_and_neighbors(tmp_path, colors, paintings):
    rng = np.random.default_rng(5)
    images = [("things", jpeg(painted(color, rng))) for color in ("red", "green", "blue", "red")]
    path = make_catalog(tmp_path / "c.db", images, {})
    judged(path, colors, paintings, PLAIN)
    assert [row[4] for row in states(path)] == ["red", "green", "blue", "red"]
    with Catalog(path) as catalog:
        assert catalog.status()["target"] == {"open": {"": 3}}


def test_other_thresholds_embed_nothing(tmp_path, colors, paintings):
    rng = np.random.default_rng(6)
    path = make_catalog(
        tmp_path / "c.db", [("moss", jpeg(painted("green", rng))) for _ in range(5)], {"green": ["moss"]}
    )
    judged(path, colors, paintings, PLAIN)
    before = states(path)
    with Catalog(path) as catalog:
        shard = catalog.shard_path(0)
    shard.write_bytes(bytes(shard.stat().st_size))  # no image can be read any more
    options = FilterOptions(gamma1=0.5, gamma2=0.6, duplicate=1.0, hash_radius=0, workers=0)
    judgment = judged(path, colors, paintings, options)
    assert [row[3:] for row in states(path)] == [row[3:] for row in before]
    assert set(judgment.reasons) == {"too near"}
    threshold = float(judgment.similarity[0]) + 0.0004
    judgment = judged(path, colors, paintings, replace(options, gamma2=threshold))
    near = int((abs(judgment.similarity - threshold) < 0.001).sum())
    with Catalog(path) as catalog:
        assert f"{near} lie within 0.001 of these similarities" in summary(catalog, judgment)
    judgment = judged(path, colors, paintings, options)
    with pytest.raises(
        ValueError, match=r"nothing is kept .5 too near.: similarities run from 0\.9\d+ to .*thresholds are 0.500"
    ):
        judgment.require_kept()


def test_images_of_targets_that_are_broken_are_left_out_and_named(tmp_path, paintings, encoder_words):
    path = make_catalog(
        tmp_path / "c.db", [("moss", jpeg(painted("green", np.random.default_rng(3)))) for _ in range(9)], {}
    )
    folders = tmp_path / "paintings"
    shutil.copytree(paintings, folders)
    for name in ("train/red/0.png", "train/blue/5.png", "val/green/2.png"):
        (folders / name).write_bytes((folders / name).read_bytes()[:99])
    done = filtered(path, folders, encoder_words)
    assert done.returncode == 0, done.stderr
    assert "left out: 2 training images that cannot be read: broken image " in done.stdout
    assert "left out: 1 validation images that cannot be read: broken image " in done.stdout


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        ("no image", "has no images in it"),
        ("no class folder", "1 targets of .* have no class .* 'violet'"),
        ("no whole validation image", "none of the validation images can be read"),
        ("no whole training image", "no training image of green can be read"),
        ("no shard", "00000.tar is missing"),
        ("no readable image", "none of the images of .* can be read"),
        ("no validation image", "there is no validation image in"),
    ],
)
def test_mistakes_are_named_and_change_nothing(tmp_path, colors, paintings, damage, sentence):
    images = [("moss", jpeg(painted("green", np.random.default_rng(7))))]
    if damage.startswith("no image"):
        images = []
    if damage == "no readable image":
        images = [("moss", b"nothing")]
    targets = {"green": ["moss"]} | ({"violet": []} if damage == "no class folder" else {"blue": []})
    path = make_catalog(tmp_path / "c.db", images, targets)
    folders = tmp_path / "paintings"
    shutil.copytree(paintings, folders)
    if damage.startswith("no whole"):
        split = "val" if "validation" in damage else "train/green"
        for file in (folders / split).rglob("*.png"):
            file.write_text("no image")
    if damage == "no validation image":
        shutil.rmtree(folders / "val")
    if damage == "no shard":
        shutil.rmtree(tmp_path / "c_shards")
    with pytest.raises(ValueError, match=sentence):
        judged(path, colors, folders, PLAIN)
    assert all(row[1] == "new" for row in states(path))


def test_options_that_contradict():
    with pytest.raises(OptionError, match=r"--gamma1 0\.9 must be below --gamma2 0\.8"):
        FilterOptions(gamma1=0.9, gamma2=0.8)
    with pytest.raises(OptionError, match="--duplicate 0 must be a cosine"):
        FilterOptions(duplicate=0)
    with pytest.raises(OptionError, match="--neighbors is -1"):
        FilterOptions(neighbors=-1)


def test_a_store_cut_anywhere_keeps_whole_rows(tmp_path):
    dtype = np.dtype([("a", "<i8"), ("b", "<f2", (3,))])
    rows, keys = np.zeros(7, dtype), np.array([5, -3, 9, 2**62, -(2**63), 0, 1])
    rows["a"], rows["b"] = np.arange(7), np.arange(21).reshape(7, 3)
    with RowStore(tmp_path, "s", dtype) as store:
        store.append(keys[:4], rows[:4])
        store.append(keys[4:], rows[4:])
    whole = {name: (tmp_path / name).read_bytes() for name in ("s.rows", "s.keys")}
    for row_bytes, key_bytes, left in ((98, 56, 7), (98, 55, 6), (97, 56, 6), (30, 56, 2), (98, 0, 0), (0, 8, 0)):
        (tmp_path / "s.rows").write_bytes(whole["s.rows"][:row_bytes])
        (tmp_path / "s.keys").write_bytes(whole["s.keys"][:key_bytes])
        with RowStore(tmp_path, "s", dtype) as store:
            np.testing.assert_array_equal(store.find(keys), [*range(left), *[-1] * (7 - left)])
            np.testing.assert_array_equal(store.rows()["b"], rows["b"][:left])
            store.append(keys[left:], rows[left:])
        assert {name: (tmp_path / name).read_bytes() for name in whole} == whole


def test_timm_weights(tmp_path):
    import timm

    torch.manual_seed(1)
    for name, prefix in (("a", ""), ("b", ""), ("c", "backbone.")):
        weights = timm.create_model("test_resnet", num_classes=10).state_dict()
        torch.save({prefix + key: weight for key, weight in weights.items()}, tmp_path / f"{name}.pth")
    save_file(torch.load(tmp_path / "a.pth"), tmp_path / "a.safetensors")
    first, second = (timm_encoder("test_resnet", tmp_path / f"{name}.pth", 64) for name in "ab")
    again = timm_encoder("test_resnet", tmp_path / "a.safetensors", 64)
    larger = timm_encoder("test_resnet", tmp_path / "a.pth", 96)
    assert first.digest == again.digest
    assert len({first.digest, second.digest, larger.digest}) == 3
    assert timm_encoder("test_resnet", tmp_path / "c.pth", 64).digest not in {first.digest, second.digest}
    torch.save({"conv1.weight": torch.ones(1)}, tmp_path / "e.pth")
    with pytest.raises(ValueError, match=r"e.pth fills 0 of the \d+ tensors of test_resnet, and not"):
        timm_encoder("test_resnet", tmp_path / "e.pth", 64)
    (tmp_path / "d.pth").write_text("no weights")
    with pytest.raises(ValueError, match=r"d.pth"):
        timm_encoder("test_resnet", tmp_path / "d.pth", 64)
    with pytest.raises(ValueError, match="timm has no model 'nonsense'"):
        timm_encoder("nonsense", None)


def test_contact_sheet(tmp_path, colors, paintings):
    rng = np.random.default_rng(8)
    val = Image.open(paintings / "val" / "green" / "0.png")
    images = [("moss", jpeg(painted("green", rng))) for _ in range(30)] + [("moss", jpeg(val)), ("moss", b"broken")]
    path = make_catalog(tmp_path / "c.db", images, {"green": ["moss"]})
    with Catalog(path) as catalog, catalog.lock("filter"):
        evil = "<script>alert(1)</script>'\""
        catalog.connection.execute("UPDATE category SET title = ?", [evil])
        catalog.connection.execute("UPDATE candidate SET attribution = ?, page = 'javascript:alert(1)'", [evil])
        sources = TargetImages(paintings / "train", paintings / "val")
        first = judge(catalog, colors, sources, PLAIN)
        middle = float(np.median(first.similarity[:30]))
        options = FilterOptions(middle, float(first.similarity[:30].max()), 1.0, 8, workers=0)
        judgment = judge(catalog, colors, sources, options)
        write_sheet(catalog, judgment, tmp_path / "sheet.html", 4)
    page = (tmp_path / "sheet.html").read_text()
    assert "<script" not in page
    assert "javascript:" not in page
    assert "&lt;script&gt;" in page
    sources = re.findall(r"(?:src|href)=.(.*?)['\" >]", page)
    assert all(source.startswith(("data:image/", "#c", "http://images.test/")) for source in sources)
    shown = dict(re.findall(r">(kept|too far|too near|near-duplicate|training images)</b> (\d+)", page))
    assert shown == {"training images": "6", "kept": "14", "too far": "15", "too near": "1", "near-duplicate": "1"}
    assert page.count("<figure") == 6 + 4 + 4 + 1 + 1
    assert page.count("<img") == 1 + 6 + 4 + 4 + 1 + 2  # histogram; a near-duplicate beside its twin


def session_of(leader: int) -> list[int]:
    """The other processes of a session."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # just gone
            continue
        if int(fields[3]) == leader and fields[0] != "Z" and int(stat.parent.name) != leader:
            found.append(int(stat.parent.name))
    return found


@pytest.mark.slow
def test_killed_and_run_again(workshop, trained, tmp_path):
    """The command as typed: killed while it embeds, it goes on where it was and ends as if it had not been killed."""
    species = workshop.folder / "species"
    files = sorted((species / "auxiliary").rglob("*.jpg"))
    images = [(file.parent.name, jpeg(read_image(file))) for file in files]
    neighbors = json.loads((species / "neighbors.json").read_text())
    for name in ("killed", "unbroken"):
        (tmp_path / name).mkdir()
        make_catalog(tmp_path / name / "c.db", images, neighbors)
    options = ["--train", species / "train", "--val", species / "val", "--run", trained, "--batch-size", 4]
    options += ["--duplicate", "1", "--hash-radius", "0", "--gamma1", "0.7"]  # two epochs tell no categories apart

    def command(name: str, workers: int = 0) -> list[str]:
        fastlt = str(Path(sys.executable).with_name("fastlt"))
        return [fastlt, "filter", str(tmp_path / name / "c.db"), *map(str, options), "--workers", str(workers)]

    process = subprocess.Popen(
        command("killed", workers=2), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
    )
    size = 0
    while size < 8 * 24:
        assert process.poll() is None, process.stderr.read()
        keys = list((tmp_path / "killed").glob("c_embeddings/*/embeddings.keys"))
        size = keys[0].stat().st_size if keys else 0
        time.sleep(0.001)
    workers = session_of(process.pid)
    assert len(workers) >= 3  # two that read, and the server that forked them
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stderr.close()
    deadline = time.monotonic() + 60
    while session_of(process.pid):  # no orphans
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert all(row[1] == "new" for row in states(tmp_path / "killed" / "c.db"))
    with keys[0].with_suffix(".rows").open("ab") as rows:
        rows.write(b"half a row")
    before = keys[0].read_bytes()
    total = len(images) + sum(1 for split in ("train", "val") for _ in (species / split).rglob("*.jpg"))
    assert len(before) < 8 * total

    said = {}
    for name in ("killed", "unbroken"):
        done = subprocess.run(command(name), capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr
        said[name] = done.stdout.split("written:")[0]
    assert said["killed"] == said["unbroken"]
    assert f"{len(images)} images, resnet18 of" in said["killed"]
    after = keys[0].read_bytes()
    assert after.startswith(before[: len(before) // 8 * 8])
    assert len(after) == 8 * total  # nothing twice
    assert states(tmp_path / "killed" / "c.db") == states(tmp_path / "unbroken" / "c.db")
    assert {row[1] for row in states(tmp_path / "killed" / "c.db")} == {"kept", "dropped"}


def test_command_line_mistakes(workshop, tmp_path):
    path = make_catalog(tmp_path / "c.db", [], {})
    folders = ["--train", "species/train", "--val", "species/val"]
    for words, sentence in (
        ([*folders, "--model", "test_resnet"], "--model needs --weights FILE or --pretrained"),
        ([*folders, "--run", "trained", "--image-size", "32"], "--run brings its own weights"),
    ):
        done = workshop.fastlt("filter", path, *words)
        assert done.returncode == 1
        assert sentence in done.stderr
        assert "Traceback" not in done.stderr
    assert (
        "say with --val or --test"
        in workshop.fastlt("filter", path, "--train", "species/train", "--run", "trained").stderr
    )
