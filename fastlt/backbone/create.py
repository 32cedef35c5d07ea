"""A timm model as backbone: told the size of its images where it has to know it, and with weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import timm
import torch
from timm.layers import PatchEmbed
from timm.models import _builder
from torch import Tensor, nn

from fastlt.backbone.weights import Taken, weights_for
from fastlt.messages import listed, one_line
from fastlt.recipe import ModelRecipe

_Tensors = dict[str, Tensor]
# What timm and torch raise where a size or an argument does not suit a model.
UNSUITED = (RuntimeError, TypeError, ValueError, AssertionError, LookupError, ArithmeticError, OSError)


def create_backbone(
    model: ModelRecipe, image_size: int, num_classes: int = 0, tell: Callable[[str], object] = lambda said: None
) -> nn.Module:
    """The timm model without classifier, with hub weights, weights of a local file, or none.

    Args:
        model: of a recipe.
        image_size: side of its images.
        num_classes: outputs of what timm calls its classifier, where that is kept.
        tell: is told what was taken of a file, in a sentence.

    Raises:
        ValueError: timm has no such model, or none for such images, or the weights cannot be had.
    """
    arguments = backbone_arguments(model, image_size) | {"num_classes": num_classes}
    if model.drop_path:
        arguments["drop_path_rate"] = model.drop_path
    if not isinstance(model.pretrained, str):
        return _made(model, arguments, model.pretrained)
    renamings: list[Any] = []
    # A family's own function renames and resamples what its authors published. timm gives it to this one alone, which
    # would then say nothing of what it did not find.
    with patch.object(_builder, "load_pretrained", lambda *_, filter_fn=None, **__: renamings.append(filter_fn)):
        backbone = _made(model, arguments, pretrained=True)
    if not renamings:
        raise ValueError("timm loads weights in another way than 1.0.20 to 1.0.31 do: install one of these.")
    renaming = renamings[-1]
    _fill(backbone, model, lambda tensors: _timm_names(tensors, backbone, renaming), tell)
    return backbone


def backbone_arguments(model: ModelRecipe, image_size: int) -> dict[str, Any]:
    """Arguments of timm.create_model that shape the network, `img_size` among them where it has that.

    Raises:
        ValueError: the model cannot take such images.
    """
    return dict(_suited(model.name, json.dumps(model.arguments), image_size))


def unseen_pixels(backbone: nn.Module, image_size: int) -> int:
    """Rows and columns of pixels at the edges of an image that a model of patches cuts off without a word."""
    embedding = getattr(backbone, "patch_embed", None)
    if not isinstance(embedding, PatchEmbed) or embedding.dynamic_img_pad:
        return 0
    return image_size % embedding.patch_size[0]


@cache
def _suited(name: str, told: str, size: int) -> dict[str, Any]:
    arguments: dict[str, Any] = json.loads(told)
    choices = [arguments] if "img_size" in arguments else [arguments | {"img_size": size}, arguments]
    errors = []
    for device in ("meta", "cpu"):  # the former costs nothing, but not all that runs here runs there
        for choice in choices:
            error = _tried(name, choice, size, torch.device(device))
            if error is None:
                return choice
            if len(choices) == 1 or not (isinstance(error, TypeError) and "img_size" in str(error)):
                errors.append(error)  # and not that it has no such argument, which was ours
    raise ValueError(_why_not(name, arguments, size, errors[-1]))


def _tried(name: str, arguments: dict[str, Any], size: int, device: torch.device) -> Exception | None:
    """What a model says to an image of this size, or to be made for it; None where it takes it."""
    try:
        with torch.random.fork_rng(devices=[]), torch.inference_mode(), device:
            timm.create_model(name, num_classes=0, **arguments).eval()(torch.zeros(1, 3, size, size))
    except UNSUITED as error:
        return error
    return None


def _why_not(name: str, arguments: dict[str, Any], size: int, error: Exception) -> str:
    said = one_line(error, 200).rstrip(".") or "nothing of why"
    if isinstance(error, TypeError) and arguments:
        return (
            f"timm cannot make model {name!r} with {arguments}: {said}. model.arguments are {arguments}: for another "
            "model, set others or {}."
        )
    if not timm.is_model(name):
        return f"timm has no model {name!r}: {said}."
    try:
        config = timm.get_pretrained_cfg(name) if ":" not in name else None
    except RuntimeError:  # a tag that timm does not know
        return f"timm cannot make model {name!r}: {said}."
    own = f"; its own size is data.image_size={config.input_size[-1]}" if config else ""
    return f"model {name!r} cannot take images of data.image_size={size}{own}. timm says: {said}."


def _made(model: ModelRecipe, arguments: dict[str, Any], pretrained: bool) -> nn.Module:
    try:
        return timm.create_model(model.name, pretrained=pretrained, **arguments)
    except Exception as error:  # hubs out of reach raise many kinds
        said = one_line(error, 400).rstrip(".")
        raise ValueError(f"timm cannot make model {model.name!r} with {arguments}: {said}.") from error


def _timm_names(tensors: _Tensors, backbone: nn.Module, renaming: Any) -> _Tensors:
    if renaming is None:
        return tensors
    try:
        return renaming(tensors, backbone)
    except TypeError:  # of one argument
        return renaming(tensors)


def _fill(
    backbone: nn.Module, model: ModelRecipe, renamed: Callable[[_Tensors], _Tensors], tell: Callable[[str], object]
) -> None:
    """Loads the weights of a file into a backbone.

    Raises:
        ValueError: the file cannot be read, or leaves more unfilled than the recipe allows.
    """
    file = Path(str(model.pretrained)).expanduser()
    taken = weights_for(backbone, file, renamed)
    unfilled, filled = len(taken.unfilled), taken.needed - len(taken.unfilled)
    allowed = taken.needed if model.allow_missing is True else model.allow_missing
    if not filled or unfilled > allowed or (taken.beyond and model.allow_missing is not True):
        raise ValueError(f"{file} {_what_is_wrong(taken, model.name)}.")
    if odd := [name for name, weight in taken.tensors.items() if not weight.float().isfinite().all()]:
        raise ValueError(f"{file} holds NaN or infinity in {listed(odd, 3)}: was its training one that diverged?")
    backbone.load_state_dict(taken.tensors, strict=False)
    tell(taken.said + (f"; as drawn: {listed(taken.unfilled, 3)}" if unfilled else ""))


def _what_is_wrong(taken: Taken, name: str) -> str:
    filled = taken.needed - len(taken.unfilled)
    lacks = f", and not {listed(taken.unfilled, 3)}" if taken.unfilled else ""
    more = f", but it has more such, {listed(taken.beyond, 3)}" if taken.beyond else ""
    said = [f"fills {filled:,} of the {taken.needed:,} tensors of {name}{lacks}{more}"]
    if taken.is_of_another_model:
        said.append("it is of another model: name that one, and give its arguments")
    if filled:
        value = "true" if taken.beyond else len(taken.unfilled)
        what = "the others as they are drawn" if taken.unfilled else "what fits"
        said.append(f"in a recipe, model.allow_missing={value} would train with {what}")
    return "; ".join(said)
