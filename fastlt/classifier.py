"""The network: a timm backbone and a head that owns the weight of all classes and computes the loss.

Shapes: B batch, D features, C classes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError, safe_open
from timm.data import resolve_model_data_config
from torch import Tensor, nn

from fastlt.backbone.create import backbone_arguments, create_backbone
from fastlt.backbone.tuning import tune, tuned_layers
from fastlt.kernels import NeighborSilencingHead
from fastlt.label_space import LabelSpace
from fastlt.recipe import ModelRecipe, Recipe


class Classifier(nn.Module):
    """Backbone and head; computes in `compute_dtype` where autocast allows it, weights stay float32.

    Args:
        recipe: of the run.
        label_space: the classes that are trained.
        with_head: False gives features instead of logits and losses; the head is then elsewhere, see
            `training/heads.py`.
        row_size: D of the weights that are loaded next: the file of class embeddings, which is not needed any more, is
            then left alone.

    Attributes:
        said: what was taken of a file of weights.
        tuned_layers: names of the backbone's layers that lora or adaptformer trains something beside.

    Raises:
        ValueError: timm cannot make the model, its weights cannot be had, or class embeddings do not fit.
    """

    def __init__(
        self, recipe: Recipe, label_space: LabelSpace, with_head: bool = True, row_size: int | None = None
    ) -> None:
        super().__init__()
        model, size = recipe.model, recipe.data.image_size
        self.said: list[str] = []
        # timm's attributes are beyond nn.Module's
        backbone: Any = create_backbone(model, size, _kept_outputs(model, row_size), self.said.append)
        self.in_features: int = features_of(backbone)
        self.tuning, self.tuned_layers = model.tune, tuned_layers(model, size, backbone.num_classes)
        tune(backbone, model, self.tuned_layers)
        self.backbone = backbone
        self.head = _whole_head(recipe, label_space, self.in_features) if with_head else None
        if self.head is not None and model.class_embeddings and row_size is None:
            self.head.weight.data.copy_(first_rows(model, label_space.names, self.in_features))
        self.backbone_arguments = backbone_arguments(model, size)
        self.compute_dtype = torch.float32
        self.head_only = False

    def settle(self, device: torch.device, precision: str) -> Classifier:
        """Moves to the device, and computes there as `engine.precision` says."""
        self.compute_dtype = device_dtype(precision, device)
        return self.to(device)

    def forward(
        self,
        images: Tensor,
        labels: Tensor | None = None,
        mixed_labels: Tensor | None = None,
        mixed_weight: Tensor | None = None,
    ) -> Tensor:
        """Mean loss (scalar) of images [B, 3, H, W] with labels [B]; without labels, logits [B, C].

        Without a head, features [B, D].
        While `head_only` is set or the head alone is tuned, the backbone runs as at inference and gets no gradient.
        """
        low_precision = self.compute_dtype != torch.float32
        with torch.autocast(images.device.type, self.compute_dtype if low_precision else None, enabled=low_precision):
            with torch.no_grad() if self._backbone_rests else nullcontext():
                features = self.backbone(images)  # [B, D]
            return features if self.head is None else self.head(features, labels, mixed_labels, mixed_weight)

    def train(self, mode: bool = True) -> Classifier:
        """As usual, but a frozen backbone stays in inference mode, or at least its BatchNorm layers."""
        super().train(mode)
        if self._backbone_rests:
            self.backbone.eval()
        elif self.tuning != "full":
            for module in self.backbone.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self

    @property
    def _backbone_rests(self) -> bool:
        return self.head_only or self.tuning == "head"

    @property
    def normalization(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """(mean, std) per channel that the backbone's weights expect."""
        config = resolve_model_data_config(self.backbone)
        return config["mean"], config["std"]


def _whole_head(recipe: Recipe, label_space: LabelSpace, in_features: int) -> NeighborSilencingHead:
    return NeighborSilencingHead(
        in_features,
        **head_arguments(recipe, label_space),
        feature_norm=recipe.model.feature_norm,
        cosine_scale=recipe.model.cosine_scale,
    )


def head_arguments(recipe: Recipe, label_space: LabelSpace) -> dict[str, Any]:
    """What every head is told, whole or sharded: its arguments by name."""
    loss = recipe.loss
    return {
        "table": label_space.table(loss.silence),
        "class_counts": torch.from_numpy(label_space.epoch_counts(recipe.data.auxiliary_per_class)),
        "tau": loss.tau,
        "lambda_s": loss.lambda_s,
        "label_smoothing": loss.label_smoothing,
        "impl": loss.impl,
        "memory_limit": loss.memory_limit,
    }


def _kept_outputs(model: ModelRecipe, row_size: int | None) -> int:
    """CLIP's projection to where its text embeddings are is what timm calls its classifier; 0 where it is cut off."""
    config = timm.get_pretrained_cfg(model.name) if model.class_embeddings else None
    if not model.class_embeddings or not config:
        return 0
    return config.num_classes if config.num_classes == (row_size or embedding_size(model.class_embeddings)) else 0


def features_of(backbone: Any) -> int:
    """D of what a backbone gives."""
    return backbone.num_classes or backbone.head_hidden_size  # CLIP's projection is `num_classes`


def require_class_embeddings(recipe: Recipe, label_space: LabelSpace) -> None:
    """Raises ValueError where `model.class_embeddings` does not do for these classes and this model."""
    model = recipe.model
    if model.class_embeddings:
        told = model.name, json.dumps(model.arguments), recipe.data.image_size, _kept_outputs(model, None)
        first_rows(model, label_space.names, _features(*told))


@cache
def _features(name: str, arguments: str, size: int, num_classes: int) -> int:
    model = ModelRecipe(name=name, arguments=json.loads(arguments))
    with torch.random.fork_rng(devices=[]):
        return features_of(create_backbone(model, size, num_classes))


def first_rows(model: ModelRecipe, names: Sequence[str], in_features: int) -> Tensor:
    """The rows [C, D] with which a head begins, of the file that the recipe names.

    Raises:
        ValueError: as `class_embeddings`; they have another size than the backbone's features.
    """
    file = model.class_embeddings
    assert file is not None, "the recipe names one"
    rows = class_embeddings(file, names)
    if rows.shape[1] != in_features:
        raise ValueError(
            f"{file} has embeddings of {rows.shape[1]} numbers, but {model.name} gives {in_features} features."
        )
    return rows


def embedding_size(file: Path) -> int:
    """D of a file of class embeddings.

    Raises:
        ValueError: the file cannot be read, or has something else than vectors of one size.
    """
    with _opened(file) as stored:
        names = stored.keys()
        shapes = {tuple(stored.get_slice(name).get_shape()) for name in names}
    if len(shapes) != 1 or len(shape := shapes.pop()) != 1:
        raise ValueError(f"{file} has no embeddings: it must have a vector for each class, all of the same size.")
    return shape[0]


def class_embeddings(file: Path, names: Sequence[str]) -> Tensor:
    """The embeddings [C, D] of these classes, from safetensors with a vector [D] for each name.

    Raises:
        ValueError: as `embedding_size`; a class has no vector in it, or one that is not finite.
    """
    embedding_size(file)
    with _opened(file) as stored:
        known = set(stored.keys())
        missing = [name for name in names if name not in known]
        if missing:
            raise ValueError(
                f"{file} has no embedding of {len(missing)} of {len(names)} classes, for example {missing[0]!r}."
            )
        rows = torch.stack([stored.get_tensor(name).float() for name in names])
    if odd := [name for name, row in zip(names, rows, strict=True) if not row.isfinite().all()]:
        raise ValueError(f"{file} has numbers that are not finite, for example for {odd[0]!r}.")
    return rows


def _opened(file: Path) -> Any:
    try:
        if file.is_dir():
            raise IsADirectoryError("it is a folder")
        return safe_open(file, framework="pt")
    except (OSError, SafetensorError) as error:
        must = "it must be safetensors, as `fastlt class-embeddings` writes them"
        raise ValueError(f"model.class_embeddings {file} cannot be read ({error}): {must}.") from None


def device_dtype(precision: str, device: torch.device) -> torch.dtype:
    """Compute type for `engine.precision`: "auto" is bfloat16 where the device multiplies it natively."""
    if precision != "auto":
        return getattr(torch, precision)
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    abilities = torch.cpu.get_capabilities()
    native = abilities.get("amx_bf16") or abilities.get("avx512_bf16")
    return torch.bfloat16 if native else torch.float32
