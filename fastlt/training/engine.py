"""DeepSpeed's engine: its settings, the user's own with ours, and its part of a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from torch import Tensor

from fastlt.backbone.tuning import merged
from fastlt.classifier import Classifier
from fastlt.foreign import load_json
from fastlt.recipe import Recipe
from fastlt.training.optimizer import create_optimizer
from fastlt.training.pickles import only_known
from fastlt.training.resharding import load_resharded, ranks_that_wrote

# Which key of a recipe says what a setting of DeepSpeed's says.
_SAID_BY = {
    "train_batch_size": "optimizer.batch_size",
    "train_micro_batch_size_per_gpu": "optimizer.batch_size, optimizer.accumulation and the number of ranks",
    "gradient_accumulation_steps": "optimizer.accumulation",
    "gradient_clipping": "optimizer.clip_grad",
    "zero_optimization.stage": "engine.zero_stage",
}
_OURS_ALONE = {
    "optimizer": "the keys below optimizer",
    "scheduler": "the keys below optimizer",
    "bf16": "engine.precision",
    "fp16": "engine.precision",
    "amp": "engine.precision",
    "torch_autocast": "engine.precision",
}


def start_engine(model: Classifier, recipe: Recipe, micro_batch: int) -> deepspeed.DeepSpeedEngine:
    """The engine around a model; called by all ranks.

    Args:
        model: on the device.
        recipe: of the run.
        micro_batch: images of one rank in one micro-step.

    Raises:
        ValueError: the user's DeepSpeed settings cannot be read or contradict the recipe.
    """
    settings, optimizer = engine_settings(recipe, micro_batch), create_optimizer(model, recipe.optimizer)
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=settings)
    if recipe.engine.channels_last and recipe.engine.zero_stage == 0:  # ZeRO holds weights flat
        model.to(memory_format=torch.channels_last)  # after initialize, which broadcasts only contiguous weights
        optimizer.register_step_pre_hook(lay_out_gradients)
    return engine


def lay_out_gradients(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    """Gives gradients the memory format of their weights, without which a fused optimizer on a GPU refuses them.

    DeepSpeed makes contiguous zeros for weights without a gradient, as all of the backbone are while only the head
    learns.
    """
    for group in optimizer.param_groups:
        for weight in group["params"]:
            if weight.grad is not None and weight.grad.stride() != weight.stride():
                weight.grad = torch.empty_like(weight).copy_(weight.grad)


def engine_settings(recipe: Recipe, micro_batch: int) -> dict[str, Any]:
    """What DeepSpeed is told.

    Raises:
        ValueError: `engine.deepspeed` cannot be read, or contradicts what the recipe says elsewhere.
    """
    ours = {
        "train_batch_size": recipe.optimizer.batch_size,
        "train_micro_batch_size_per_gpu": micro_batch,
        "gradient_accumulation_steps": recipe.optimizer.accumulation,
        "gradient_clipping": recipe.optimizer.clip_grad,
        "zero_optimization": {"stage": recipe.engine.zero_stage},
        "zero_allow_untested_optimizer": True,  # SGD
        "steps_per_print": 10**12,
        "timers": {"throughput": {"enabled": False}},  # which would wait for the GPU twice a step
    }
    return _merge(_user_settings(recipe.engine.deepspeed), ours)


def _user_settings(told: Path | dict[str, Any] | None) -> dict[str, Any]:
    settings: Any = told or {}
    if isinstance(told, Path):
        try:
            settings = load_json(told)
        except (OSError, ValueError) as error:
            raise ValueError(f"engine.deepspeed={told} cannot be read: {error}.") from None
        if not isinstance(settings, dict):
            raise ValueError(f"engine.deepspeed={told} is not a JSON object.")
    for name in settings.keys() & _OURS_ALONE.keys():
        raise ValueError(
            f"engine.deepspeed has {name!r}, which {_OURS_ALONE[name]} of the recipe decide: leave it out."
        )
    return settings


def _merge(user: dict[str, Any], ours: dict[str, Any], where: str = "") -> dict[str, Any]:
    """What a user says, completed by what we say.

    Raises:
        ValueError: they contradict each other.
    """
    merged = dict(user)
    for name, value in ours.items():
        said, full = user.get(name, value), f"{where}{name}"
        if isinstance(value, dict):
            if not isinstance(said, dict):
                raise ValueError(f"engine.deepspeed has {full}={said!r}, where DeepSpeed takes an object.")
            merged[name] = _merge(said, value, f"{full}.")
        elif said != value and full in _SAID_BY:
            raise ValueError(
                f"engine.deepspeed has {full}={said}, but {_SAID_BY[full]} of the recipe makes it {value}: "
                "leave it out."
            )
        else:
            merged[name] = said
    return merged


class EngineState:
    """The engine's part of a checkpoint: weights, optimizer, ZeRO's shards."""

    def __init__(self, engine: deepspeed.DeepSpeedEngine) -> None:
        self.engine = engine

    def save(self, folder: Path) -> None:
        """Writes it into a checkpoint's folder; called by all ranks."""
        self.engine.save_checkpoint(str(folder.parent), tag=folder.name, save_latest=False)

    def load(self, folder: Path) -> None:
        """Reads it, on any number of ranks; called by all of them.

        Raises:
            ValueError: files of this rank are missing, or only as many ranks as wrote them can read them.
        """
        with only_known():
            if ranks_that_wrote(folder) not in (0, dist.get_world_size()):
                load_resharded(self.engine, folder)
                return
            loaded, _ = self.engine.load_checkpoint(str(folder.parent), tag=folder.name)
        if loaded is None:
            raise ValueError(f"{folder} cannot be loaded: it lacks the files of rank {dist.get_rank()}.")


def whole_weights(engine: deepspeed.DeepSpeedEngine) -> dict[str, Tensor]:
    """All weights and buffers on the host of rank 0, float32, LoRA merged; called by all ranks (ZeRO-3 gathers them one
    by one)."""
    weights = {}
    main = dist.get_rank() == 0
    partitioned = engine.zero_optimization_stage() == 3
    for name, parameter in engine.module.named_parameters():
        with deepspeed.zero.GatheredParameters(parameter, enabled=partitioned):
            if main:
                weights[name] = parameter.detach().cpu().clone().contiguous()
    if main:
        persistent = engine.module.state_dict().keys()
        weights |= {n: b.detach().cpu().clone() for n, b in engine.module.named_buffers() if n in persistent}
    return merged(weights)
