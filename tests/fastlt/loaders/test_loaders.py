"""Both loaders behind the one interface: the same samples, repeatable pixels, positions that survive."""

from itertools import islice

import numpy as np
import pytest
import torch
from torchvision.transforms.functional import normalize

from fastlt.dataset.encoded import EncodedDataset
from fastlt.loaders.loader import EvalLoader, TrainLoader
from fastlt.loaders.normalize import Normalize
from fastlt.loaders.readers import open_reader
from fastlt.loaders.sampler import EpochPlan
from fastlt.loaders.transform import Transform

pytestmark = pytest.mark.medium

NORMALIZE = Normalize((0.5, 0.4, 0.3), (0.2, 0.25, 0.3), torch.device("cpu"))


def train_loader(data: EncodedDataset, rank=0, world_size=1, batch_size=8, workers=1, flip=0.5) -> TrainLoader:
    plan = EpochPlan.of(data.label_space, auxiliary_per_class=4, seed=1)
    transform = Transform(24, train=True, seed=1, flip=flip)
    source = open_reader(data, "train", transform, batch_size, workers)
    return TrainLoader(source, plan, data.split("train").labels(), NORMALIZE, batch_size, rank, world_size)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_normalize_is_torchvisions_and_leaves_its_input(memory_format):
    images = torch.randint(256, (2, 3, 5, 7), dtype=torch.uint8).contiguous(memory_format=memory_format)
    before = images.clone()
    found = NORMALIZE(images)
    torch.testing.assert_close(found, normalize(images / 255, list(NORMALIZE.mean), list(NORMALIZE.std)))
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert images.equal(before)


@pytest.fixture(params=["encoded", "plain"])
def data(request, workshop) -> EncodedDataset:
    return EncodedDataset.open(workshop.folder / request.param)


def collect(loader, batches: int | None = None) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The next batches of a loader; all of one that ends."""
    reading = iter(loader)
    found = [(images.clone(), labels.clone()) for images, labels in islice(reading, batches)]
    reading.close()
    return found


def same(a, b) -> bool:
    return len(a) == len(b) and all(x.equal(u) and y.equal(v) for (x, y), (u, v) in zip(a, b, strict=True))


def test_batches_are_what_the_contract_says(data):
    loader = train_loader(data)
    batches = collect(loader, 30)
    images, labels = batches[0]
    assert (images.shape, images.dtype, labels.dtype) == ((8, 3, 24, 24), torch.float32, torch.int64)
    assert images.is_contiguous(memory_format=torch.channels_last)
    # Whole epochs one after the other, over the batch that has the end of one and the start of the next.
    epochs = [loader.labels[loader.plan.order(epoch)] for epoch in range(4)]
    assert torch.cat([labels for _, labels in batches]).tolist() == np.concatenate(epochs)[: 30 * 8].tolist()
    assert len(loader.plan) % 8 != 0
    assert len(loader.plan) < 30 * 8


def test_pixels_repeat_and_differ_between_epochs(data):
    first = collect(train_loader(data), 30)
    assert same(first, collect(train_loader(data, workers=2), 30)), "the number of workers must not matter"
    again = train_loader(data)
    again.load_state_dict({"samples": len(again.plan)})
    assert not same(first[:3], collect(again, 3))


def test_continues_anywhere(data):
    whole = collect(train_loader(data), 20)
    loader = train_loader(data)
    before = collect(loader, 7)
    state = loader.state_dict()
    assert same(before, whole[:7])
    assert state == {"samples": 56}
    fresh = train_loader(data)
    fresh.load_state_dict(state)
    assert same(collect(fresh, 13), whole[7:])


def test_ranks_share_the_global_batches(data):
    whole = collect(train_loader(data, batch_size=12), 10)
    for ranks in (2, 3):
        parts = [collect(train_loader(data, rank, ranks, batch_size=12 // ranks), 10) for rank in range(ranks)]
        joined = [tuple(torch.cat(part) for part in zip(*batches, strict=True)) for batches in zip(*parts, strict=True)]
        assert same(joined, whole)


@pytest.mark.parametrize(("world_size", "batch_size"), [(1, 7), (2, 8), (2, 1), (3, 5), (4, 11)])
def test_evaluation_sees_each_sample_once(data, world_size, batch_size):
    labels = data.split("val").labels()
    seen, lengths = [], set()
    for rank in range(world_size):
        source = open_reader(data, "val", Transform(24, train=False), batch_size, 1)
        batches = collect(EvalLoader(source, labels, NORMALIZE, batch_size, rank, world_size))
        lengths.add(len(batches))
        seen += [int(y) for _, batch in batches for y in batch if y >= 0]
    assert sorted(seen) == sorted(labels.tolist())
    assert len(lengths) == 1, "ranks must take the same number of steps"


@pytest.mark.parametrize(("size", "crop_pct"), [(32, 1.0), (16, 1.0), (64, 1.0), (24, 0.875), (45, 0.9)])
def test_both_read_the_same_pixels(workshop, size, crop_pct):
    """Lossless storage: FFCV and PIL must agree to the bit, in order and content, resized or not."""
    batches = []
    for name in ("encoded", "plain"):
        data = EncodedDataset.open(workshop.folder / name)
        source = open_reader(data, "val", Transform(size, train=False, crop_pct=crop_pct), 45, 1)
        batches += [next(iter(source.batches([np.arange(45, dtype=np.uint64)]))).clone()]
    assert batches[0].equal(batches[1])


@pytest.mark.parametrize("flip", [0.0, 1.0])
@pytest.mark.parametrize("size", [32, 16, 64, 31])  # unchanged, by a whole number, and neither
def test_both_train_on_the_same_pixels(workshop, size, flip):
    """Of whole images, as the rest of a crop is random in two ways."""
    batches = []
    transform = Transform(size, train=True, crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0), flip=flip)
    for name in ("encoded", "plain"):
        source = open_reader(EncodedDataset.open(workshop.folder / name), "train", transform, 45, 1)
        batches += [next(iter(source.batches([np.arange(45, dtype=np.uint64)]))).clone()]
    assert batches[0].equal(batches[1])


def test_flips_and_crops_have_the_right_spread(workshop):
    """Half of the images flipped, crop areas between the bounds: by what comes out of the compiled decoder."""
    from fastlt.loaders.choices import is_flipped, random_crop, uniform_numbers

    scale, log_ratio = np.array([0.25, 1.0]), np.log(np.array([3 / 4, 4 / 3]))
    areas, flips = [], []
    for key in range(4000):
        numbers = uniform_numbers(np.uint64(7), np.uint64(key))
        assert ((numbers >= 0) & (numbers < 1)).all()
        top, left, h, w = random_crop(60, 80, scale, log_ratio, numbers)
        assert 0 <= top <= 60 - h
        assert 0 <= left <= 80 - w
        areas.append(h * w / 4800)
        flips.append(is_flipped(numbers, 0.5))
    assert min(areas) > 0.23
    assert 0.45 < np.mean(flips) < 0.55
    from torchvision.transforms import RandomResizedCrop

    torch.manual_seed(0)
    image = torch.empty(3, 60, 80)
    expected = [RandomResizedCrop.get_params(image, [0.25, 1.0], [3 / 4, 4 / 3])[2:] for _ in range(4000)]
    assert np.mean(areas) == pytest.approx(np.mean([h * w / 4800 for h, w in expected]), abs=0.015)


def test_plain_and_ffcv_data_sets_need_their_loader(workshop):
    data = EncodedDataset.open(workshop.folder / "plain")
    with pytest.raises(ValueError, match="encoded with --format plain; the ffcv loader cannot read it"):
        open_reader(data, "train", Transform(24, train=True), 8, 1, backend="ffcv")


def test_ffcv_has_the_increasing_operations_alone(workshop):
    data = EncodedDataset.open(workshop.folder / "encoded")
    open_reader(data, "train", Transform(24, train=True, rand_augment="rand-m9-mstd0.5-inc1"), 8, 1)
    with pytest.raises(ValueError, match="increasing operations"):
        open_reader(data, "train", Transform(24, train=True, rand_augment="rand-m9-mstd0.5"), 8, 1)
