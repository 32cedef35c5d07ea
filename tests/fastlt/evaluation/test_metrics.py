"""Evaluation against counting by hand."""

import numpy as np
import pytest
import torch

from fastlt.evaluation.metrics import NUM_BINS, evaluate
from fastlt.label_space import LabelSpace

SPACE = LabelSpace.build({"a": 200, "b": 50, "c": 5, "d": 6}, {"x": 9}, {"a": ["x"]})


def test_against_counting_by_hand():
    g = torch.Generator().manual_seed(0)
    logits = torch.randn(300, 5, generator=g) * 2
    logits[:, 4] = 100.0  # an auxiliary row: if it took part, everything would be wrong
    labels = torch.randint(0, 4, (300,), generator=g)
    labels[:60] = logits[:60, :4].argmax(dim=1)
    stand_ins = torch.full((300,), -1)
    batches = [(logits[:111], labels[:111]), (logits[111:], labels[111:]), (logits, stand_ins)]
    found = evaluate(lambda images: images, batches, SPACE, torch.device("cpu"))

    p = logits[:, :4].double().softmax(dim=1).numpy()
    y, predicted, confidence = labels.numpy(), p.argmax(axis=1), p.max(axis=1)
    per_class = [100 * (predicted[y == c] == c).mean() for c in range(4)]
    assert found.num_images == 300
    assert found.top1 == pytest.approx(100 * (predicted == y).mean())
    assert found.per_class == pytest.approx(per_class)
    assert (found.many, found.medium) == pytest.approx((per_class[0], per_class[1]))
    assert found.few == pytest.approx(np.mean(per_class[2:]))
    assert found.all == pytest.approx(np.mean(per_class))
    gaps, weights = [], []
    assert sum(found.bins["images"]) == 300
    assert sum(found.bins["correct"]) == (predicted == y).sum()
    assert sum(found.bins["confidence"]) == pytest.approx(confidence.sum())
    for b in range(NUM_BINS):
        inside = (confidence > b / NUM_BINS) & (confidence <= (b + 1) / NUM_BINS)
        if inside.any():
            gaps.append(100 * abs((predicted == y)[inside].mean() - confidence[inside].mean()))
            weights.append(inside.mean())
    assert found.ece == pytest.approx(np.dot(gaps, weights))
    assert found.mce == pytest.approx(max(gaps))


def test_bins_are_closed_on_the_right():
    """Confidence exactly 1/3 (five bins' end) belongs to the lower bin, as does 1 to the last."""
    space = LabelSpace.build({"a": 1, "b": 1, "c": 1})
    logits = torch.tensor([[0.0, 0.0, 0.0], [1000.0, 0.0, 0.0]])
    found = evaluate(lambda images: images, [(logits, torch.tensor([0, 0]))], space, torch.device("cpu"))
    assert found.ece == pytest.approx(100 * (2 / 3) / 2)
    assert found.many is None
    assert found.per_class[1:] == [None, None]


def test_classes_without_images_have_no_part_in_means_and_are_told():
    space = LabelSpace.build({"a": 200, "b": 150, "c": 5, "d": 6})
    logits = torch.eye(4)[[0, 0, 1, 2]] * 9
    found = evaluate(lambda images: images, [(logits, torch.tensor([0, 0, 0, 2]))], space, torch.device("cpu"))
    assert (found.all, found.many, found.few) == pytest.approx(((200 / 3 + 100) / 2, 200 / 3, 100))
    assert found.row().endswith("(2 of 4 classes have no image)")
