"""AdaptFormer: a bottleneck beside the MLP of transformer blocks. It needs torch alone, as it travels with exports.

Source: Chen et al., arXiv 2205.13535. Shapes: ... any leading dimensions, D features, W width of the bottleneck.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


class AdaptFormer(nn.Module):
    """What is added to an MLP's output: scale * up(relu(down(x))), and nothing at first.

    Args:
        features: D.
        width: W.
        scale: 0.1 in the paper; the smaller, the slower SGD learns.
        as_lift: learn the scale too, and a LayerNorm of x, as LIFT does (Shi et al., arXiv 2309.10019).
    """

    def __init__(self, features: int, width: int, scale: float, as_lift: bool = False) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(features) if as_lift else nn.Identity()
        self.scale = nn.Parameter(torch.full((1,), scale)) if as_lift else scale
        self.down, self.up = nn.Linear(features, width), nn.Linear(width, features)
        for zeros in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(zeros)

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] to [..., D]; x is what the MLP gets, which its block has normalized."""
        added = self.up(torch.relu(self.down(self.norm(x))))
        return added * (self.scale.to(added.dtype) if isinstance(self.scale, Tensor) else self.scale)


def insert(model: nn.Module, mlps: Sequence[str], width: int, scale: float, as_lift: bool = False) -> None:
    """Puts one, as `adaptformer`, beside each of the MLPs with these names; all other names stay as they are."""
    for name in mlps:
        mlp = model.get_submodule(name)
        mlp.adaptformer = AdaptFormer(features_of(mlp), width, scale, as_lift)
        mlp.register_forward_hook(_beside)


def features_of(mlp: nn.Module) -> int:
    """D of an MLP, which its first linear layer tells; 0 where it has none."""
    return next((part.in_features for part in mlp.modules() if isinstance(part, nn.Linear)), 0)


def _beside(mlp: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    return output + mlp.adaptformer(inputs[0])
