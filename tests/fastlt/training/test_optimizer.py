"""The learning rate of each step."""

import pytest

from fastlt.recipe import OptimizerRecipe
from fastlt.training.optimizer import learning_rate


@pytest.mark.parametrize("steps_per_epoch", [0.5, 3.3, 10.0])
def test_it_rises_to_the_peak_and_never_beyond(steps_per_epoch):
    """Also where the warm-up ends within a step, or is shorter than one."""
    recipe = OptimizerRecipe(epochs=8, batch_size=128, blr=0.2, warmup_epochs=1, min_lr=0.01)
    rates = [learning_rate(recipe, step, steps_per_epoch) for step in range(round(8 * steps_per_epoch))]
    peak = rates.index(max(rates))
    assert max(rates) == pytest.approx(0.1)
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert rates[-1] >= 0.01
