"""Both loaders behind the one interface: the same samples, repeatable pixels, positions that survive."""

import numpy as np
import pytest
import torch

from fastlt.encoded import EncodedDataset
from fastlt.epoch_plan import EpochPlan
from fastlt.loaders import EvalLoader, Normalize, TrainLoader, Transform, open_source

NORMALIZE = Normalize((0.5, 0.4, 0.3), (0.2, 0.25, 0.3), torch.device("cpu"))


def train_loader(data: EncodedDataset, rank=0, world_size=1, batch_size=8, workers=1, flip=0.5) -> TrainLoader:
    counts = np.array(data.label_space.counts)
    plan = EpochPlan(counts, data.label_space.num_targets, auxiliary_per_class=4, seed=1)
    transform = Transform(24, train=True, seed=1, flip=flip)
    source = open_source(data, "train", transform, batch_size, workers)
    return TrainLoader(source, plan, data.split("train").labels(), NORMALIZE, batch_size, rank, world_size)


@pytest.fixture(params=["encoded", "plain"])
def data(request, workshop) -> EncodedDataset:
    return EncodedDataset.open(workshop.folder / request.param)


def collect(loader) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(images.clone(), labels.clone()) for images, labels in loader]


def same(a, b) -> bool:
    return len(a) == len(b) and all(x.equal(u) and y.equal(v) for (x, y), (u, v) in zip(a, b, strict=True))


def test_batches_are_what_the_contract_says(data):
    loader = train_loader(data)
    batches = collect(loader)
    assert len(batches) == len(loader) == len(loader.plan) // 8
    images, labels = batches[0]
    assert (images.shape, images.dtype, labels.dtype) == ((8, 3, 24, 24), torch.float32, torch.int64)
    assert images.is_contiguous(memory_format=torch.channels_last)
    expected = loader.labels[loader.plan.order(0)][: len(batches) * 8]
    assert torch.cat([labels for _, labels in batches]).tolist() == expected.tolist()


def test_pixels_repeat_and_differ_between_epochs(data):
    loader = train_loader(data)
    first = collect(loader)
    loader.set_epoch(1)
    second = collect(loader)
    again = train_loader(data, workers=2)
    assert same(first, collect(again)), "the number of workers must not matter"
    again.set_epoch(1)
    assert same(second, collect(again))
    assert not same(first, second)


def test_continues_within_an_epoch(data):
    loader = train_loader(data)
    loader.set_epoch(2)
    whole = collect(loader)
    loader.set_epoch(2)
    batches = iter(loader)
    for _ in range(3):
        next(batches)
    state = loader.state_dict()
    batches.close()
    assert state == {"epoch": 2, "samples": 24}
    fresh = train_loader(data)
    fresh.load_state_dict(state)
    assert same(collect(fresh), whole[3:])


def test_ranks_share_the_global_batches(data):
    whole = collect(train_loader(data, batch_size=8))
    parts = [collect(train_loader(data, rank, 2, batch_size=4)) for rank in range(2)]
    joined = [(torch.cat([a, b]), torch.cat([x, y])) for (a, x), (b, y) in zip(*parts, strict=True)]
    assert same(joined, whole)


@pytest.mark.parametrize(("world_size", "batch_size"), [(1, 7), (2, 8), (3, 5), (4, 11)])
def test_evaluation_sees_each_sample_once(data, world_size, batch_size):
    labels = data.split("val").labels()
    seen, lengths = [], set()
    for rank in range(world_size):
        source = open_source(data, "val", Transform(24, train=False), batch_size, 1)
        batches = collect(EvalLoader(source, labels, NORMALIZE, batch_size, rank, world_size))
        lengths.add(len(batches))
        seen += [int(y) for _, batch in batches for y in batch if y >= 0]
    assert sorted(seen) == sorted(labels.tolist())
    assert len(lengths) == 1, "ranks must take the same number of steps"


def test_both_read_the_same_pixels(workshop):
    """Lossless storage, no crop, no resizing: FFCV and PIL must agree to the bit, in order and content."""
    batches = []
    for name in ("encoded", "plain"):
        data = EncodedDataset.open(workshop.folder / name)
        source = open_source(data, "val", Transform(32, train=False, crop_fraction=1.0), 45, 1)
        batches += [next(iter(source.batches(np.arange(45, dtype=np.uint64)))).clone()]
    assert batches[0].equal(batches[1])


def test_flips_and_crops_have_the_right_spread(workshop):
    """Half of the images flipped, crop areas between the bounds: by what comes out of the compiled decoder."""
    from fastlt.loaders.ffcv_images import random_crop, uniform_numbers

    scale, log_ratio = np.array([0.25, 1.0]), np.log(np.array([3 / 4, 4 / 3]))
    areas, flips = [], []
    for key in range(4000):
        numbers = uniform_numbers(np.uint64(7), np.uint64(key))
        assert ((numbers >= 0) & (numbers < 1)).all()
        top, left, h, w = random_crop(60, 80, scale, log_ratio, numbers)
        assert 0 <= top <= 60 - h
        assert 0 <= left <= 80 - w
        areas.append(h * w / 4800)
        flips.append(numbers[-1] < 0.5)
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
        open_source(data, "train", Transform(24, train=True), 8, 1, backend="ffcv")
