"""The classifier with its rows split over the ranks, trained and saved beside the engine, which has the backbone."""

from __future__ import annotations

from pathlib import Path

import torch
from timm.optim import param_groups_weight_decay
from torch import Tensor
from torch.distributed import checkpoint

from fastlt.average import WeightAverage
from fastlt.kernels.sharded import ShardedNeighborSilencingHead
from fastlt.label_space import LabelSpace
from fastlt.optimization import make_optimizer, set_learning_rate
from fastlt.recipe import Recipe

FOLDER = "classes"


class ShardedClasses:
    """A rank's part of the classifier and its optimizer; every method is called by all ranks.

    The engine averages the backbone's gradients over the ranks; those of the rows held here are averaged already.

    Args:
        in_features: D, what the backbone gives.
    """

    def __init__(self, recipe: Recipe, label_space: LabelSpace, in_features: int, device: torch.device) -> None:
        self.head = ShardedNeighborSilencingHead(
            in_features,
            label_space.table(recipe.loss.silence),
            torch.from_numpy(label_space.epoch_counts(recipe.data.auxiliary_per_class)),
            tau=recipe.loss.tau,
            lambda_s=recipe.loss.lambda_s,
            label_smoothing=recipe.loss.label_smoothing,
            impl=recipe.loss.impl,
            memory_limit=recipe.loss.memory_limit,
            seed=recipe.seed,
        ).to(device)
        groups = param_groups_weight_decay(self.head, recipe.optimizer.weight_decay)
        decay = recipe.optimizer.average
        self.average = WeightAverage(lambda: dict(self.head.named_parameters()), decay) if decay else None
        self.optimizer = make_optimizer([g | {"part": "head", "lr_scale": 1.0} for g in groups], recipe.optimizer)

    def step(self, rate: float) -> None:
        """One step of the rows held here at this learning rate."""
        set_learning_rate(self.optimizer, rate, head_only=False)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def update_average(self, step: int) -> None:
        """Takes in the rows held here after optimizer step `step`, counted from 1."""
        if self.average:
            self.average.update(step)

    def whole_weights(self) -> dict[str, Tensor]:
        """Weight [C, D] and bias [C] on the host under the names that a whole head has in a classifier."""
        weight, bias = self.head.gathered()
        return {"head.weight": weight.cpu(), "head.bias": bias.cpu()}

    def save(self, checkpoint_folder: Path) -> None:
        """Writes rows and optimizer state into a checkpoint."""
        group = self.head.group
        checkpoint.save(self._state(), checkpoint_id=checkpoint_folder / FOLDER, process_group=group)

    def load(self, checkpoint_folder: Path) -> None:
        """Reads what was saved on any number of ranks.

        Raises:
            ValueError: the checkpoint holds no split classifier.
        """
        if not (checkpoint_folder / FOLDER).is_dir():
            raise ValueError(f"{checkpoint_folder} was written without engine.shard_classes: resume without it too.")
        if not self.optimizer.state:  # made by a first step, which is taken back by what is loaded
            for parameter in self.head.parameters():
                parameter.grad = torch.zeros_like(parameter)
            self.step(0.0)
        state = self._state()
        checkpoint.load(state, checkpoint_id=checkpoint_folder / FOLDER, process_group=self.head.group)
        for name, value in state.items():
            if isinstance(value, Tensor) and value.ndim == 0:  # step counts are no parts of a whole
                owner, key = name.split(".")
                self.optimizer.state[getattr(self.head, owner)][key] = value

    def _state(self) -> dict[str, Tensor]:
        """Rows, their moments as `weight.exp_avg`, their average: parts of wholes in the memory of what is trained."""
        state: dict[str, Tensor] = {}
        for name, parameter in self.head.named_parameters():
            state[name] = self.head.part_of_whole(parameter)
            for key, value in self.optimizer.state[parameter].items():
                if isinstance(value, Tensor):
                    state[f"{name}.{key}"] = value if value.ndim == 0 else self.head.part_of_whole(value)
            if self.average:
                state[f"{name}.average"] = self.head.part_of_whole(self.average.tensors[name])
        return state
