"""The plan of an epoch: every target once, auxiliaries redrawn, the same for any number of ranks."""

import numpy as np
import pytest

from fastlt.loaders.sample_keys import join_keys, split_keys
from fastlt.loaders.sampler import EpochPlan

COUNTS = np.array([30, 5, 80, 3, 20])  # two targets, three auxiliary classes


@pytest.fixture
def plan() -> EpochPlan:
    return EpochPlan(COUNTS, np.minimum(COUNTS, [99, 99, 10, 10, 10]), num_targets=2, seed=3)


def test_targets_once_auxiliaries_capped(plan):
    labels = np.repeat(np.arange(5), COUNTS)
    order = plan.order(0)
    assert len(order) == len(set(order)) == len(plan) == 35 + 10 + 3 + 10
    assert np.bincount(labels[order]).tolist() == [30, 5, 10, 3, 10]


def test_draw_depends_on_seed_and_epoch_alone(plan):
    assert (plan.order(4) == plan.order(4)).all()
    drawn = [set(plan.order(epoch)[plan.order(epoch) >= 35]) for epoch in range(80)]
    assert drawn[0] != drawn[1]
    assert set.union(*drawn) == set(range(35, 138)), "over many epochs every auxiliary image is used"
    other = EpochPlan(COUNTS, plan.epoch_counts, 2, seed=4)
    assert (other.order(0) != plan.order(0)).any()


def test_without_auxiliary_classes():
    plan = EpochPlan(COUNTS[:2], COUNTS[:2], 2, seed=0)
    assert sorted(plan.order(1)) == list(range(35))


def test_keys_hold_epoch_and_index():
    epochs, indices = split_keys(join_keys(np.array([0, 5, (1 << 40) - 1]), epoch=1234))
    assert epochs.tolist() == [1234] * 3
    assert indices.tolist() == [0, 5, (1 << 40) - 1]
