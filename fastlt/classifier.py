"""The network: a timm backbone and a head that owns the weight of all classes and computes the loss.

Shapes: B batch, D features, C classes.
"""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import timm
import torch
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
        self.head: NeighborSilencingHead | None = None
        if with_head:
            self.head = NeighborSilencingHead(
                backbone.head_hidden_size,
                label_space.table(loss.silence),
                torch.from_numpy(label_space.epoch_counts(auxiliary_per_class)),
                tau=loss.tau,
                lambda_s=loss.lambda_s,
                label_smoothing=loss.label_smoothing,
                feature_norm=model.feature_norm,
                impl=loss.impl,
                memory_limit=loss.memory_limit,
            )
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
        return timm.create_model(model.name, pretrained=bool(model.pretrained), num_classes=0, **arguments)
    except (RuntimeError, TypeError, OSError) as error:
        raise ValueError(f"timm cannot make model {model.name!r} with {arguments}: {error}") from error


def device_dtype(precision: str, device: torch.device) -> torch.dtype:
    """Compute type for `engine.precision`: "auto" is bfloat16 where the device multiplies it natively."""
    if precision != "auto":
        return getattr(torch, precision)
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    abilities = torch.cpu.get_capabilities()
    native = abilities.get("amx_bf16") or abilities.get("avx512_bf16")
    return torch.bfloat16 if native else torch.float32
