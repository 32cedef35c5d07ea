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
