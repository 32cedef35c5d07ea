"""Parameter-efficient tuning: which layers of a backbone get something small that is trained instead of them.

LoRA (arXiv 2106.09685) is peft's: a product of two thin matrices is added to a layer's weight, and is merged into it
when weights are saved, so that nothing after training knows of it. AdaptFormer is ours, see `adaptformer.py`.
"""

from __future__ import annotations

import json
import re
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fastlt.backbone import adaptformer
from fastlt.backbone.create import UNSUITED, create_backbone
from fastlt.recipe import ModelRecipe

_A, _B = "lora_A.default.weight", "lora_B.default.weight"  # peft's names


def tuned_layers(model: ModelRecipe, image_size: int, num_classes: int = 0) -> list[str]:
    """Names of the layers (LoRA) or MLPs (AdaptFormer) that get an addition; none for other ways to tune.

    Args:
        model: of a recipe.
        image_size: side of its images.
        num_classes: outputs of what timm calls its classifier, where that is kept.

    Raises:
        ValueError: there is none of these names, or none at all.
    """
    if model.tune not in ("lora", "adaptformer"):
        return []
    found = _tunable(model.name, json.dumps(model.arguments), image_size, num_classes, model.tune)
    what = "plain linear layer or ungrouped convolution" if model.tune == "lora" else "transformer block (attn and mlp)"
    if not found:
        raise ValueError(
            f"model.tune={model.tune} finds no {what} in {model.name}: choose another model or model.tune=full."
        )
    if not model.tune_places:
        return [name for name, sees_image in found.items() if not sees_image] or list(found)
    named = {place: [name for name in found if f".{place}." in f".{name}."] for place in model.tune_places}
    if vain := [place for place, names in named.items() if not names]:
        last = list(found)[-1]
        raise ValueError(
            f"model.tune_places={json.dumps(vain)} names no {what} of {model.name}: give whole parts of names such as "
            f"{last!r}, or leave it out."
        )
    taken = {name for names in named.values() for name in names}
    return [name for name in found if name in taken]


@cache
def _tunable(
    name: str, arguments: str, size: int, num_classes: int, tune: Literal["lora", "adaptformer"]
) -> dict[str, bool]:
    """{layer: whether it gets the image itself} of all that could have an addition, in order.

    It must be called in a forward pass: some attentions take their layers' weights and never call them.
    """
    model = ModelRecipe(name=name, arguments=json.loads(arguments))
    error: Exception | None = None
    for device in ("meta", "cpu"):  # the former costs nothing, but not all that runs here runs there
        called: set[str] = set()
        try:
            with torch.random.fork_rng(devices=[]), torch.no_grad(), torch.device(device):
                backbone = create_backbone(model, size, num_classes).eval()
                suited = _layers(backbone) if tune == "lora" else _mlps(backbone)
                for layer, module in suited.items():
                    module.register_forward_hook(lambda *_, layer=layer, called=called: called.add(layer))
                backbone(torch.zeros(1, 3, size, size))
        except UNSUITED as failed:
            error = failed
            continue
        return {layer: getattr(module, "in_channels", 0) == 3 for layer, module in suited.items() if layer in called}
    assert error is not None, "it was tried"
    raise error


def _layers(backbone: nn.Module) -> dict[str, nn.Module]:
    """Those to whose weight a product can be added: no subclasses, which may compute with another weight."""
    return {
        name: module
        for name, module in backbone.named_modules()
        if type(module) is nn.Linear or (type(module) is nn.Conv2d and module.groups == 1)
    }


def _mlps(backbone: nn.Module) -> dict[str, nn.Module]:
    """MLPs of transformer blocks, those of convolutions left out."""
    blocks = {f"{name}.mlp": block for name, block in backbone.named_modules() if hasattr(block, "attn")}
    mlps = {name: getattr(block, "mlp", None) for name, block in blocks.items()}
    return {
        name: mlp
        for name, mlp in mlps.items()
        if isinstance(mlp, nn.Module) and not isinstance(mlp, nn.Sequential) and adaptformer.features_of(mlp)
    }


def tune(backbone: nn.Module, model: ModelRecipe, layers: list[str]) -> None:
    """Freezes what the recipe says, and adds what is trained instead to these layers.

    Raises:
        ValueError: peft is not installed.
    """
    if model.tune == "full":
        return
    backbone.requires_grad_(False)
    if model.tune == "lora":
        _add_lora(backbone, layers, model.tune_rank)
    elif model.tune == "adaptformer":
        adaptformer.insert(backbone, layers, model.tune_rank, model.tune_scale, model.tune_as_lift)


def _add_lora(backbone: nn.Module, layers: list[str], rank: int) -> None:
    try:
        import peft  # slow, and an extra
    except ImportError:
        raise ValueError("model.tune=lora needs peft: pip install 'fastlt[lora]'.") from None
    exactly = "|".join(map(re.escape, layers))
    config: Any = peft.LoraConfig(r=rank, lora_alpha=rank, target_modules=exactly)  # so that products count once
    peft.inject_adapter_in_model(config, backbone)
    for name in layers:
        layer: Any = backbone.get_submodule(name)
        for attribute in layer.base_layer.__constants__:  # some models read their layers' kernel_size and the like
            if not hasattr(layer, attribute):
                setattr(layer, attribute, getattr(layer.base_layer, attribute))


def merged(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Whole weights in which LoRA's products are added to the weights beside which they were trained."""
    plain = {name: weight for name, weight in weights.items() if not name.endswith((_A, _B))}
    for layer in [name.removesuffix(_A) for name in weights if name.endswith(_A)]:
        within = layer + "base_layer."
        product = weights[layer + _B].flatten(1) @ weights[layer + _A].flatten(1)  # [out, rank] @ [rank, in]
        weight = plain.pop(within + "weight")
        plain[layer + "weight"] = (weight + product.view(weight.shape)).contiguous()
        if (bias := plain.pop(within + "bias", None)) is not None:
            plain[layer + "bias"] = bias
    return plain
