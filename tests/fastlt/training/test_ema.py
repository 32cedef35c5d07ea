"""The moving average of weights: its values, and that evaluating it leaves training untouched."""

import torch

from fastlt.training.ema import Ema


def test_follows_the_definition_and_steps_aside():
    torch.manual_seed(0)
    live = {"a": torch.randn(3, 4), "b": torch.randn(5)}
    average = Ema(lambda: live, decay=0.7)
    expected = {name: tensor.double() for name, tensor in live.items()}
    for step in range(1, 12):
        for name, tensor in live.items():
            tensor += torch.randn_like(tensor)
            decay = min(0.7, (1 + step) / (10 + step))
            expected[name] = decay * expected[name] + (1 - decay) * tensor
        average.update(step)
    before = {name: tensor.clone() for name, tensor in live.items()}
    with average.in_place():
        for name, tensor in live.items():
            torch.testing.assert_close(tensor.double(), expected[name], rtol=1e-5, atol=1e-6)
    assert all(live[name].equal(before[name]) for name in live)
    torch.testing.assert_close(average.tensors["a"].double(), expected["a"], rtol=1e-5, atol=1e-6)


def test_nothing_to_average_is_no_mistake():
    """As in an engine whose backbone is frozen and has no BatchNorm, where the head is split over the ranks."""
    average = Ema(dict, decay=0.9)
    average.update(1)
    with average.in_place():
        assert average.tensors == {}
