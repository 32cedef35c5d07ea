"""The network: a timm backbone and a head that owns the weight of all classes and computes the loss.

Shapes: B batch, D features, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError, safe_open
from timm.data import resolve_model_data_config
from torch import Tensor, nn

from fastlt.kernels import NeighborSilencingHead
from fastlt.label_space import LabelSpace
from fastlt.recipe import LossRecipe, ModelRecipe


class Classifier(nn.Module):
    """Backbone and head; computes in `compute_dtype` where autocast allows it, weights stay float32.

    Without `with_head` it gives features: the head is then elsewhere, see `sharded_classes.py`.
    """

    def __init__(
        self,
        model: ModelRecipe,
        loss: LossRecipe,
        label_space: LabelSpace,
        auxiliary_per_class: int,
        image_size: int,
        with_head: bool = True,
    ) -> None:
        super().__init__()
        backbone: Any = create_backbone(model, image_size)  # timm's attributes are beyond nn.Module's
        self.backbone = backbone
        in_features = backbone.num_classes or backbone.head_hidden_size  # CLIP's projection is a `num_classes`
        self.head: NeighborSilencingHead | None = None
        if with_head:
            self.head = NeighborSilencingHead(
                in_features,
                label_space.table(loss.silence),
                torch.from_numpy(label_space.epoch_counts(auxiliary_per_class)),
                tau=loss.tau,
                lambda_s=loss.lambda_s,
                label_smoothing=loss.label_smoothing,
                feature_norm=model.feature_norm,
                cosine_scale=model.cosine_scale,
                impl=loss.impl,
                memory_limit=loss.memory_limit,
            )
            if model.class_embeddings:
                rows = class_embeddings(model.class_embeddings, label_space.names)  # [C, D]
                if rows.shape[1] != in_features:
                    raise ValueError(
                        f"{model.class_embeddings} has embeddings of {rows.shape[1]} numbers, but {model.name} gives "
                        f"{in_features} features."
                    )
                self.head.weight.data.copy_(rows)
        self.backbone_arguments = backbone_arguments(model, image_size)
        self.compute_dtype = torch.float32
        self.head_only = False

    def forward(
        self,
        images: Tensor,
        labels: Tensor | None = None,
        mixed_labels: Tensor | None = None,
        mixed_weight: Tensor | None = None,
    ) -> Tensor:
        """Mean loss (scalar) of images [B, 3, H, W] with labels [B]; without labels, logits [B, C].

        Without a head, features [B, D].
        While `head_only` is set, the backbone runs as at inference and gets no gradient.
        """
        low_precision = self.compute_dtype != torch.float32
        with torch.autocast(images.device.type, self.compute_dtype if low_precision else None, enabled=low_precision):
            with torch.no_grad() if self.head_only else nullcontext():
                features = self.backbone(images)  # [B, D]
            return features if self.head is None else self.head(features, labels, mixed_labels, mixed_weight)

    def train(self, mode: bool = True) -> Classifier:
        """As usual, but a frozen backbone stays in inference mode."""
        super().train(mode)
        if self.head_only:
            self.backbone.eval()
        return self

    @property
    def normalization(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """(mean, std) per channel that the backbone's weights expect."""
        config = resolve_model_data_config(self.backbone)
        return config["mean"], config["std"]


def backbone_arguments(model: ModelRecipe, image_size: int) -> dict[str, Any]:
    """Arguments of timm.create_model that shape the network."""
    arguments = dict(model.arguments)
    if "vit" in model.name:  # their position embeddings are made for one size
        arguments.setdefault("img_size", image_size)
    return arguments


def create_backbone(model: ModelRecipe, image_size: int) -> nn.Module:
    """The timm model without classifier, with hub weights, weights of a local file, or none.

    Raises:
        ValueError: timm has no such model, or the weights cannot be had.
    """
    arguments = backbone_arguments(model, image_size)
    if model.drop_path:
        arguments["drop_path_rate"] = model.drop_path
    if isinstance(model.pretrained, str):
        if not Path(model.pretrained).is_file():
            raise ValueError(f"model.pretrained names {model.pretrained}, which is no file.")
        arguments["pretrained_cfg_overlay"] = {"file": model.pretrained}
    try:
        # CLIP's projection to where its text embeddings are is what timm calls its classifier.
        config = timm.get_pretrained_cfg(model.name) if model.class_embeddings else None
        projected = model.class_embeddings and config and config.num_classes == embedding_size(model.class_embeddings)
        num_classes = config.num_classes if config and projected else 0
        return timm.create_model(model.name, pretrained=bool(model.pretrained), num_classes=num_classes, **arguments)
    except (RuntimeError, TypeError, OSError) as error:
        raise ValueError(f"timm cannot make model {model.name!r} with {arguments}: {error}") from error


def embedding_size(file: Path) -> int:
    """D of a file of class embeddings.

    Raises:
        ValueError: the file cannot be read.
    """
    with _opened(file) as stored:
        return int(stored.get_slice(next(iter(stored.keys()))).get_shape()[0])


def class_embeddings(file: Path, names: Sequence[str]) -> Tensor:
    """The embeddings [C, D] of these classes, from safetensors with a vector [D] for each name.

    Raises:
        ValueError: the file cannot be read, or a class has no vector in it.
    """
    with _opened(file) as stored:
        known = set(stored.keys())
        missing = [name for name in names if name not in known]
        if missing:
            raise ValueError(
                f"{file} has no embedding of {len(missing)} of {len(names)} classes, for example {missing[0]!r}."
            )
        return torch.stack([stored.get_tensor(name).float() for name in names])


def _opened(file: Path) -> Any:
    try:
        return safe_open(file, framework="pt")
    except (OSError, SafetensorError) as error:
        raise ValueError(f"model.class_embeddings {file} cannot be read: {error}.") from None


def device_dtype(precision: str, device: torch.device) -> torch.dtype:
    """Compute type for `engine.precision`: "auto" is bfloat16 where the device multiplies it natively."""
    if precision != "auto":
        return getattr(torch, precision)
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    abilities = torch.cpu.get_capabilities()
    native = abilities.get("amx_bf16") or abilities.get("avx512_bf16")
    return torch.bfloat16 if native else torch.float32
