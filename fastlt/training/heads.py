"""The classifier's head as training sees it: inside the engine's module, or with its rows split over the ranks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from fastlt.kernels import NeighborSilencingHead
from fastlt.kernels.sharded import ShardedNeighborSilencingHead
from fastlt.label_space import LabelSpace
from fastlt.recipe import Recipe
from fastlt.training.checkpointing import Part
from fastlt.training.ema import Ema
from fastlt.training.sharded_head import ShardedHead


class Head(Protocol):
    """What a step needs of a head; every method is called by all ranks."""

    @property
    def module(self) -> NeighborSilencingHead | ShardedNeighborSilencingHead:
        """Computes the loss, and measures silenced mass where its `measures_silenced` says so."""
        ...

    @property
    def emas(self) -> Sequence[Ema]:
        """Averages (EMA) of what this head holds beside the engine."""
        ...

    @property
    def parts(self) -> Sequence[Part]:
        """What a checkpoint has of this head beside the engine."""
        ...

    def loss(self, images: Tensor, labels: Tensor, mixed_labels: Tensor | None, mixed_weight: Any) -> Tensor:
        """Mean loss (scalar) of images [B, 3, H, W] with labels [B], perhaps mixed."""
        ...

    def logits(self) -> Callable[[Tensor], Tensor]:
        """images [B, 3, H, W] to logits [B, >= T], of the weights as they are now."""
        ...

    def step(self, rate: float) -> None:
        """One optimizer step of what the engine does not hold."""
        ...

    def whole_weights(self) -> dict[str, Tensor]:
        """What the engine does not hold, on the host, under a classifier's names."""
        ...


def build_head(recipe: Recipe, label_space: LabelSpace, engine: Any, device: torch.device) -> Head:
    """The head that the recipe asks for, around an engine whose model has one or gives features."""
    return ShardedHead(recipe, label_space, engine, device) if recipe.engine.shard_classes else WholeHead(engine)


class WholeHead:
    """A head that the engine's module holds: all is done there."""

    emas: Sequence[Ema] = ()
    parts: Sequence[Part] = ()

    def __init__(self, engine: Any) -> None:
        self.engine, self.module = engine, engine.module.head

    def loss(self, images: Tensor, labels: Tensor, mixed_labels: Tensor | None, mixed_weight: Any) -> Tensor:
        """See `Head`."""
        return self.engine(images, labels, mixed_labels, mixed_weight)

    def logits(self) -> Callable[[Tensor], Tensor]:
        """See `Head`; logits of all classes [B, C]."""
        return self.engine

    def step(self, rate: float) -> None:
        """Nothing: the engine has stepped."""

    def whole_weights(self) -> dict[str, Tensor]:
        """Nothing: the engine has them."""
        return {}
