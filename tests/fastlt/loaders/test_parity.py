"""The loaders against each other on real photographs: what a network is shown must not depend on how it is read."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import timm
import torch

from fastlt.dataset.encoded import EncodedDataset
from fastlt.dataset.images import read_bytes
from fastlt.loaders.readers import is_installed, open_reader
from fastlt.loaders.transform import Transform
from support.paths import SHARED

ARCHIVE = SHARED / "data" / "jpeg_sample.zip"
SIZE, PHOTOGRAPHS = 160, 64
LOADERS = {"ffcv": "ffcv", "dali": "webdataset", "plain": "plain"}  # what each reads

pytestmark = [
    pytest.mark.medium,
    pytest.mark.skipif(not ARCHIVE.is_file(), reason="shared/data/jpeg_sample.zip is not here"),
]


@pytest.fixture(scope="module")
def photographs(tmp_path_factory, workshop) -> dict[str, EncodedDataset]:
    """The photographs in each format, as they come out of the archive."""
    root = tmp_path_factory.mktemp("photographs")
    with zipfile.ZipFile(ARCHIVE) as archive:
        for name in (n for n in archive.namelist() if n.lower().endswith((".jpg", ".jpeg"))):
            file = root / "train" / Path(name).stem / Path(name).name  # each is of another class
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(archive.read(name))
    found = {}
    for form in ("ffcv", "webdataset", "plain"):
        folders = ["--train", root / "train", "--val", root / "train"]
        done = workshop.fastlt("encode", root / form, *folders, "--format", form)
        assert done.returncode == 0, done.stderr
        found[form] = EncodedDataset.open(root / form)
    return found


def read(photographs, loader: str, transform: Transform, keys: np.ndarray) -> torch.Tensor:
    """uint8 [N, 3, H, W] of the keys."""
    if not is_installed(loader):
        pytest.skip(f"{loader} is not installed")
    source = open_reader(photographs[LOADERS[loader]], "train", transform, 32, 2, loader)
    batches = [keys[i : i + 32] for i in range(0, len(keys), 32)]
    return torch.cat([images.clone() for images in source.batches(batches)])


def statistics(images: torch.Tensor) -> np.ndarray:
    """Of each image, mean and standard deviation of each channel and of what differs between neighbors: [N, 9].

    The last says how sharp an image is, which is where antialiasing shows.
    """
    pixels = images.double()
    detail = (pixels[..., 1:] - pixels[..., :-1]).abs().mean(dim=(2, 3))
    return torch.cat([pixels.mean(dim=(2, 3)), pixels.std(dim=(2, 3)), detail], dim=1).numpy()


@pytest.mark.parametrize("loader", ["ffcv", "dali"])
def test_evaluation_images_are_those_of_the_definition(photographs, loader):
    keys = np.arange(PHOTOGRAPHS, dtype=np.uint64)
    transform = Transform(SIZE, train=False)
    plain, other = (read(photographs, name, transform, keys) for name in ("plain", loader))
    difference = (plain.int() - other.int()).abs().float()
    if loader == "ffcv":  # to the bit, but for what had to be compressed anew
        assert (difference.amax(dim=(1, 2, 3)) > 0).sum() <= 1
    assert difference.mean() < 0.6
    assert difference.mean(dim=(1, 2, 3)).max() < 1.0, "no image differs more than the others"
    np.testing.assert_allclose(statistics(plain), statistics(other), rtol=0.01, atol=0.2)

    torch.manual_seed(0)
    model = timm.create_model("resnet10t", num_classes=50).eval()
    with torch.no_grad():
        a, b = (model((images.float() - 120) / 60) for images in (plain, other))
    assert torch.nn.functional.cosine_similarity(a, b).min() > 0.999
    assert (a.argmax(dim=1) == b.argmax(dim=1)).float().mean() >= 0.97


@pytest.mark.parametrize("loader", ["ffcv", "dali"])
@pytest.mark.parametrize(
    "augment",
    [
        pytest.param({}, id="crop"),
        pytest.param({"rand_augment": "rand-m9-mstd0.5-inc1", "color_jitter": 0.3}, id="full", marks=pytest.mark.slow),
    ],
)
def test_training_images_are_spread_as_the_definitions(photographs, loader, augment):
    """Means over eight epochs, within four standard errors of the difference."""
    epochs = np.arange(8, dtype=np.uint64).repeat(PHOTOGRAPHS) << np.uint64(40)
    keys = epochs | np.tile(np.arange(PHOTOGRAPHS, dtype=np.uint64), 8)
    transform = Transform(SIZE, train=True, seed=1, crop_scale=(0.3, 1.0), **augment)
    plain, other = (statistics(read(photographs, name, transform, keys)) for name in ("plain", loader))
    # Of each photograph's mean over the epochs, so that how photographs differ does not count.
    differences = (plain - other).reshape(8, PHOTOGRAPHS, -1).mean(axis=0)  # [64, 9]
    errors = differences.std(axis=0) / np.sqrt(PHOTOGRAPHS)
    assert (np.abs(differences.mean(axis=0)) < 4 * errors + 0.2).all()
    np.testing.assert_allclose(other.std(axis=0), plain.std(axis=0), rtol=0.15)


@pytest.mark.parametrize("size", [64, 112])
def test_scaled_decoding_shows_nearly_the_same(photographs, size):
    """As sharp and as bright, and not beside it; what no step leaves large enough is the same to the bit."""
    keys = np.arange(PHOTOGRAPHS, dtype=np.uint64) | np.uint64(3 << 40)
    exact, scaled = (
        read(photographs, "ffcv", Transform(size, train=True, seed=9, scaled_decoding=how), keys)
        for how in (False, True)
    )
    differences = (exact.int() - scaled.int()).abs().float().mean(dim=(1, 2, 3))
    assert 0.2 < (differences > 0).float().mean() < 1
    assert differences.mean() < 3
    assert differences.max() < 8
    np.testing.assert_allclose(statistics(scaled).mean(axis=0), statistics(exact).mean(axis=0), rtol=0.05)


def test_ffcv_and_dali_make_the_same_choices(photographs):
    """Not only the same distribution: the same crop and flip of each sample."""
    keys = np.arange(PHOTOGRAPHS, dtype=np.uint64) | np.uint64(3 << 40)
    transform = Transform(SIZE, train=True, seed=9)
    ffcv, dali = (read(photographs, loader, transform, keys) for loader in ("ffcv", "dali"))
    assert (ffcv.int() - dali.int()).abs().float().mean() < 1.5


def test_a_damaged_photograph_is_named(photographs):
    data = photographs["ffcv"]
    file = data.file("train")
    whole = file.read_bytes()
    content = read_bytes(photographs["plain"].image_names("train")[0])
    place = whole.find(content)
    assert place > 0, "the first photograph is stored as it is"
    place += len(content) // 2
    try:
        file.write_bytes(whole[:place] + bytes(2000) + whole[place + 2000 :])
        with pytest.raises(ValueError, match=r"image 0 of .*train\.beton is damaged"):
            read(photographs, "ffcv", Transform(SIZE, train=True), np.zeros(4, np.uint64))
    finally:
        file.write_bytes(whole)


def test_what_the_photographs_are():
    """The tolerances above are for real photographs: several sizes, baseline JPEG."""
    from PIL import Image

    with zipfile.ZipFile(ARCHIVE) as archive:
        names = [n for n in archive.namelist() if n.lower().endswith((".jpg", ".jpeg"))]
        sizes = {Image.open(io.BytesIO(archive.read(name))).size for name in names}
    assert len(names) == PHOTOGRAPHS
    assert len(sizes) > 5
