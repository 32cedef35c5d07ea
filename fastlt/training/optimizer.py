"""Optimizer and learning rate: parameter groups with layer decay, warm-up and cosine per step."""

from __future__ import annotations

import math
from typing import Any

import torch
from timm.optim import param_groups_layer_decay, param_groups_weight_decay

from fastlt.classifier import Classifier
from fastlt.recipe import OptimizerRecipe


def create_optimizer(model: Classifier, recipe: OptimizerRecipe) -> torch.optim.Optimizer:
    """AdamW or SGD over groups that carry `lr_scale` (layer decay) and `part` (backbone or head)."""
    exclude = model.backbone.no_weight_decay() if hasattr(model.backbone, "no_weight_decay") else ()
    if recipe.layer_decay:
        groups = param_groups_layer_decay(
            model.backbone, recipe.weight_decay, no_weight_decay_list=exclude, layer_decay=recipe.layer_decay
        )
    else:
        groups = param_groups_weight_decay(model.backbone, recipe.weight_decay, no_weight_decay_list=exclude)
    for group in groups:
        group.pop("param_names", None)
        group["part"] = "backbone"
    if model.head is not None:
        groups += [group | {"part": "head"} for group in param_groups_weight_decay(model.head, recipe.weight_decay)]
    trained = [{"lr_scale": 1.0} | group for group in groups if group["params"]]
    return make_optimizer(trained or [{"lr_scale": 1.0, "part": "backbone", "params": []}], recipe)


def make_optimizer(groups: list[dict[str, Any]], recipe: OptimizerRecipe) -> torch.optim.Optimizer:
    """AdamW or SGD over parameter groups; the learning rate is set before each step."""
    fused = all(weight.device.type in ("cuda", "cpu") for group in groups for weight in group["params"])
    if recipe.name == "sgd":
        return torch.optim.SGD(groups, lr=0.0, momentum=recipe.momentum, nesterov=recipe.momentum > 0, fused=fused)
    return torch.optim.AdamW(groups, lr=0.0, betas=recipe.betas, fused=fused)


def learning_rate(recipe: OptimizerRecipe, step: int, steps_per_epoch: float) -> float:
    """Rate of optimizer step `step` (from 0) before layer decay: linear warm-up, then half a cosine to `min_lr`."""
    peak = recipe.blr * recipe.batch_size / 256
    warmup, total = recipe.warmup_epochs * steps_per_epoch, recipe.epochs * steps_per_epoch
    if step < warmup:
        return peak * min((step + 1) / warmup, 1)  # a warm-up need not end with a step
    done = (step - warmup) / max(total - warmup, 1)
    return recipe.min_lr + (peak - recipe.min_lr) * 0.5 * (1 + math.cos(math.pi * done))


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float, head_only: bool) -> None:
    """Sets every group's rate; while only the head learns, the backbone's is 0, which also stops its decay."""
    for group in optimizer.param_groups:
        frozen = head_only and group["part"] == "backbone"
        group["lr"] = 0.0 if frozen else rate * group["lr_scale"]
