"""The label space: prior, silenced sets, shot groups, and its file."""

import numpy as np
import pytest
import torch

from fastlt.label_space import LabelSpace
from support.paths import SHARED


@pytest.fixture
def space() -> LabelSpace:
    targets = {"many": 101, "upper": 100, "lower": 20, "few": 19}
    return LabelSpace.build(targets, {"x": 80, "y": 7}, {"many": ["x", "y"], "few": ["y"], "lower": ["y", "y"]})


def test_pairs_shots_and_counts(space):
    assert space.neighbors == ((0, 4), (0, 5), (2, 5), (3, 5))
    groups = {name: classes.tolist() for name, classes in space.shot_groups().items()}
    assert groups == {"many": [0], "medium": [1, 2], "few": [3]}
    assert space.epoch_counts(50).tolist() == [101, 100, 20, 19, 50, 7]


def test_silenced_sets(space):
    silenced = space.table("pairs").silenced(torch.arange(6))
    assert [row.nonzero().flatten().tolist() for row in silenced] == [[4, 5], [], [5], [5], [0], [0, 2, 3]]
    silenced = space.table("pairs+auxiliary").silenced(torch.arange(6))
    assert [row.nonzero().flatten().tolist() for row in silenced[4:]] == [[0, 5], [0, 2, 3, 4]]


def test_without_auxiliary_keeps_the_targets(space):
    targets = space.trained(auxiliary=False)
    assert (targets.num_classes, targets.neighbors, targets.counts) == (4, (), (101, 100, 20, 19))
    assert targets.digest() != space.digest()


def test_file_round_trip(space, tmp_path):
    space.save(tmp_path / "label_space.json")
    loaded = LabelSpace.load(tmp_path / "label_space.json")
    assert loaded == space
    assert loaded.digest() == space.digest()


def test_strengths_stay_with_their_pairs(tmp_path):
    strengths = {"b": {"y": 0.25, "x": 1}, "a": {"x": 0.5, "y": 0}}
    space = LabelSpace.build({"a": 1, "b": 1}, {"x": 1, "y": 1}, strengths)
    assert (space.neighbors, space.strengths) == (((0, 2), (1, 2), (1, 3)), (0.5, 1, 0.25))
    assert space.table().strengths.tolist() == [0.5, 1.0, 0.25, 0.5, 1.0, 0.25]
    space.save(tmp_path / "label_space.json")
    assert LabelSpace.load(tmp_path / "label_space.json") == space
    assert space.trained(auxiliary=False).strengths is None


def test_strengths_of_1_leave_the_digest_as_it_was(space):
    pairs = {"many": {"x": 1.0, "y": 1}, "few": ["y"], "lower": {"y": 1}}
    targets = {"many": 101, "upper": 100, "lower": 20, "few": 19}
    assert LabelSpace.build(targets, {"x": 80, "y": 7}, pairs).digest() == space.digest()
    assert space.digest() == "57c65ab3e3744177"


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ((("a", "a"), (), (1, 1), ()), "'a' occurs twice"),
        ((("a",), ("b",), (1,), ()), "2 classes but 1 counts"),
        ((("a",), ("b",), (1, 0), ()), "class 'b' has no training image"),
        ((("a",), ("b",), (1, 1), ((1, 0),)), "not a \\(target, auxiliary\\) pair"),
        (((), (), (), ()), "no target class"),
        ((("a",), ("b",), (1, 1), ((0, 1),), ()), "1 neighbor pairs but 0 strengths"),
        ((("a",), ("b",), (1, 1), ((0, 1),), (2,)), "must be above 0 and at most 1"),
    ],
)
def test_contradictions_are_refused(fields, sentence):
    with pytest.raises(ValueError, match=sentence):
        LabelSpace(*fields)


def test_no_label_space_file(tmp_path):
    with pytest.raises(ValueError, match="there is no label space at"):
        LabelSpace.load(tmp_path / "label_space.json")
    (tmp_path / "label_space.json").write_text("[]")
    with pytest.raises(ValueError, match="is not a label space"):
        LabelSpace.load(tmp_path / "label_space.json")


def test_real_counts_give_the_published_shot_groups():
    """Class counts of ImageNet-LT and iNaturalist 2018, where this machine has them."""
    import json

    file = SHARED / "data" / "class_counts.json"
    if not file.exists():
        pytest.skip(f"{file} is not here")
    published = {"imagenet_lt": (385, 479, 136), "inaturalist2018": (842, 4076, 3224)}
    found = json.loads(file.read_text())
    for name, groups in published.items():
        values = found[name]
        counts = list(values.values()) if isinstance(values, dict) else values
        space = LabelSpace.build({str(i): int(n) for i, n in enumerate(np.ravel(counts))})
        assert tuple(len(classes) for classes in space.shot_groups().values()) == groups
