"""The neighbor table: symmetric, sorted, without doubles, and strict about what it is given."""

import pytest
import torch

from fastlt.kernels import NeighborTable


def sets(table: NeighborTable) -> list[set[int]]:
    return [set(row.nonzero().flatten().tolist()) for row in table.silenced(torch.arange(table.num_classes))]


def test_pairs_become_symmetric_sets():
    table = NeighborTable.from_pairs(6, [(0, 4), (0, 4), (4, 0), (1, 5), (0, 3)])
    assert sets(table) == [{3, 4}, {5}, set(), {0}, {0}, {1}]
    assert table.indices.tolist() == [3, 4, 5, 0, 0, 1]


def test_auxiliary_classes_silence_each_other():
    table = NeighborTable.from_pairs(6, [(0, 4), (1, 5), (3, 5)], auxiliary_start=3)
    assert sets(table) == [{4}, {5}, set(), {4, 5}, {0, 3, 5}, {1, 3, 4}]


def test_repeated_labels_and_no_pairs():
    table = NeighborTable.from_pairs(4, [(0, 2)])
    assert table.silenced(torch.tensor([2, 2, 1])).tolist() == [[True, False, False, False]] * 2 + [[False] * 4]
    assert not NeighborTable.from_pairs(3, []).silenced(torch.arange(3)).any()


def test_memory_grows_with_pairs_not_with_classes_squared():
    table = NeighborTable.from_pairs(1_000_000, torch.stack([torch.arange(1000), torch.arange(1000) + 5000], dim=1))
    assert table.indptr.numel() + table.indices.numel() == 1_000_001 + 2000


@pytest.mark.parametrize(
    ("pairs", "sentence"),
    [
        ([(0, 5)], r"\[0, 5\] names a class outside 0..4"),
        ([(-1, 2)], "outside"),
        ([(3, 3)], "class 3 is listed as its own neighbor"),
        ([(1, 2, 3)], r"shape \[P, 2\]"),
    ],
)
def test_wrong_pairs_are_refused(pairs, sentence):
    with pytest.raises(ValueError, match=sentence):
        NeighborTable.from_pairs(5, pairs)


def test_strengths_follow_their_pairs():
    table = NeighborTable.from_pairs(6, [(1, 5), (0, 4), (4, 0), (0, 3), (2, 5)], None, [1.0, 0.25, 0.25, 0.5, 0.0])
    assert table.indices.tolist() == [3, 4, 5, 0, 0, 1]
    assert table.strengths.tolist() == [0.5, 0.25, 1.0, 0.5, 0.25, 1.0]
    assert table.strength(torch.tensor([0])).tolist() == [[0, 0, 0, 0.5, 0.25, 0]]
    assert table.restricted(3, 5).strengths.tolist() == [0.5, 0.25]
    assert table.to("cpu").strengths.tolist() == table.strengths.tolist()


def test_strengths_of_1_are_none():
    assert NeighborTable.from_pairs(6, [(0, 4), (1, 5)], None, [1, 1]).strengths is None
    assert NeighborTable.from_pairs(6, [(0, 4), (1, 5)], None, [1, 0]).strengths is None


@pytest.mark.parametrize(
    ("strengths", "sentence"),
    [
        ([0.5, 0.25], "given twice, with different strengths"),
        ([0.5, 1.5], "is 1.5: it must lie in 0..1"),
        ([0.5, float("nan")], "is nan: it must lie in 0..1"),
        ([0.5], r"shape \[2\], one for each pair, got \[1\]"),
    ],
)
def test_wrong_strengths_are_refused(strengths, sentence):
    with pytest.raises(ValueError, match=sentence):
        NeighborTable.from_pairs(5, [(0, 4), (4, 0)], None, strengths)
