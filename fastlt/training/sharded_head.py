"""The head with its rows split over the ranks, trained and saved beside the engine, which has the backbone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from timm.optim import param_groups_weight_decay
from torch import Tensor
from torch.distributed import checkpoint
from torch.nn import functional as F

from fastlt.classifier import head_arguments
from fastlt.kernels.sharded import ShardedNeighborSilencingHead
from fastlt.label_space import LabelSpace
from fastlt.recipe import Recipe
from fastlt.training.ema import Ema
from fastlt.training.optimizer import make_optimizer, set_learning_rate
from fastlt.training.pickles import ShardReader

_FOLDER = "classes"


class ShardedHead:
    """A rank's rows and their optimizer; see `heads.Head`.

    The engine averages the backbone's gradients over the ranks; those of the rows held here are averaged already.
    """

    def __init__(self, recipe: Recipe, label_space: LabelSpace, engine: Any, device: torch.device) -> None:
        self.engine, self.num_targets = engine, label_space.num_targets
        self.head = ShardedNeighborSilencingHead(
            engine.module.in_features, **head_arguments(recipe, label_space), seed=recipe.seed
        ).to(device)
        self.module = self.head
        groups = param_groups_weight_decay(self.head, recipe.optimizer.weight_decay)
        self.optimizer = make_optimizer([g | {"part": "head", "lr_scale": 1.0} for g in groups], recipe.optimizer)
        decay = recipe.optimizer.ema_decay
        self.parts = [self]
        self.emas = [Ema(lambda: dict(self.head.named_parameters()), decay)] if decay else []

    def loss(self, images: Tensor, labels: Tensor, mixed_labels: Tensor | None, mixed_weight: Any) -> Tensor:
        """See `Head`."""
        return self.head(self.engine(images), labels, mixed_labels, mixed_weight)

    def logits(self) -> Callable[[Tensor], Tensor]:
        """See `Head`; logits of the targets alone [B, T], of rows that are gathered once."""
        weight, bias = (part[: self.num_targets] for part in self.head.gathered())
        return lambda images: F.linear(self.engine(images).float(), weight, bias)

    def step(self, rate: float) -> None:
        """One step of the rows held here at this learning rate."""
        set_learning_rate(self.optimizer, rate, head_only=False)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def whole_weights(self) -> dict[str, Tensor]:
        """Weight [C, D] and bias [C] on the host under the names that a whole head has in a classifier."""
        weight, bias = self.head.gathered()
        return {"head.weight": weight.cpu(), "head.bias": bias.cpu()}

    def save(self, folder: Path) -> None:
        """Writes rows, optimizer state and average into a checkpoint."""
        checkpoint.save(self._state(), checkpoint_id=folder / _FOLDER, process_group=self.head.group)

    def load(self, folder: Path) -> None:
        """Reads what was saved on any number of ranks; without an average there, it begins with the rows.

        Raises:
            ValueError: another optimizer's state was saved.
        """
        if not self.optimizer.state:  # made by a first step, which is taken back by what is loaded
            for parameter in self.head.parameters():
                parameter.grad = torch.zeros_like(parameter)
            self.step(0.0)
        reader = ShardReader(folder / _FOLDER)
        saved = reader.read_metadata().state_dict_metadata
        state = {name: value for name, value in self._state().items() if name in saved or not name.endswith(".ema")}
        if lacking := sorted(state.keys() - saved.keys()):
            raise ValueError(f"{folder} has no {lacking[0]} of the head: resume with the optimizer.name of its run.")
        checkpoint.load(state, storage_reader=reader, process_group=self.head.group)
        for name, value in state.items():
            if isinstance(value, Tensor) and value.ndim == 0:  # step counts are no parts of a whole
                owner, key = name.split(".")
                self.optimizer.state[getattr(self.head, owner)][key] = value
        for ema in self.emas:
            if not any(name.endswith(".ema") for name in saved):
                ema.restart()

    def _state(self) -> dict[str, Tensor]:
        """Rows, their moments as `weight.exp_avg`, their average: parts of wholes in the memory of what is trained."""
        state: dict[str, Tensor] = {}
        for name, parameter in self.head.named_parameters():
            state[name] = self.head.part_of_whole(parameter)
            for key, value in self.optimizer.state[parameter].items():
                if isinstance(value, Tensor):
                    state[f"{name}.{key}"] = value if value.ndim == 0 else self.head.part_of_whole(value)
            for ema in self.emas:
                state[f"{name}.ema"] = self.head.part_of_whole(ema.tensors[name])
        return state
