"""A trained classifier as it is used, of a run or of what `fastlt export` wrote: images to probabilities.

Shapes: B batch, T target classes.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from fastlt.backbone import adaptformer
from fastlt.backbone.create import create_backbone
from fastlt.classifier import device_dtype
from fastlt.cores import keep_freed_memory
from fastlt.evaluation.calibration import HIGHEST, LOWEST
from fastlt.evaluation.finished_run import FinishedRun
from fastlt.foreign import load_json, require_class_name
from fastlt.loaders.normalize import Normalize
from fastlt.loaders.transform import Transform, eval_transform
from fastlt.messages import one_line
from fastlt.prediction.folders import ABOUT, WEIGHTS, is_export
from fastlt.preflight import check_model_name
from fastlt.recipe import ModelRecipe
from fastlt.run_folder import Weights

_OF_TIMM = frozenset(inspect.signature(timm.create_model).parameters)


@dataclass(frozen=True)
class Predictor:
    """Images to probabilities.

    Attributes:
        title: for people.
        names: of the T target classes.
        transform: of evaluation.
        normalize: puts images on the device.
        forward: normalized images to logits [B, T or more].
        temperature: by which they are divided; None where nobody has calibrated them.
        cosine: whether the scores of an export are not those of its run: a cosine head has become a linear one.
    """

    title: str
    names: tuple[str, ...]
    transform: Transform
    normalize: Normalize
    forward: Callable[[Tensor], Tensor]
    temperature: float | None = None
    cosine: bool = False

    @torch.inference_mode()
    def __call__(self, images: Tensor, most: int) -> tuple[Tensor, Tensor]:
        """The `most` most probable targets of uint8 images [B, 3, H, W]: (probabilities, classes), each [B, most].

        Raises:
            ValueError: the model gives NaN or infinity.
        """
        logits = self.forward(self.normalize(images))[:, : len(self.names)].double()
        if not logits.isfinite().all():
            raise ValueError(f"{self.title} gives numbers that are not finite: its weights are damaged.")
        probabilities, classes = (logits / (self.temperature or 1.0)).softmax(dim=1).topk(most, dim=1)
        return probabilities.cpu(), classes.cpu()

    def about_probabilities(self) -> str:
        """How far they can be believed, for people."""
        if self.cosine:
            return "probabilities are not those of the run, whose head is a cosine one: name the run for those"
        if self.temperature:
            return f"calibrated by temperature {self.temperature:.3g}"
        return "not calibrated (`fastlt evaluate RUN --calibrate`)"


def open_predictor(path: Path, weights: Weights = "last") -> Predictor:
    """The classifier of a run, or of an export.

    Args:
        path: the folder.
        weights: which of a run's.

    Raises:
        ValueError: neither, or one that is damaged.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        keep_freed_memory()
    return _of_export(path, device) if is_export(path) else _of_run(FinishedRun(path, weights), device)


def _of_run(run: FinishedRun, device: torch.device) -> Predictor:
    model = run.model.settle(device, run.recipe.engine.precision)
    return Predictor(
        f"{run.folder.path}, {run.which} weights (epoch {run.about['epoch']})",
        run.label_space.target_names,
        eval_transform(run.recipe),
        Normalize(*model.normalization, device),
        model,
        run.calibration.temperature if run.calibration else None,
    )


def _of_export(path: Path, device: torch.device) -> Predictor:
    try:
        about = load_json(path / ABOUT)
        names, transform = _labels(about["labels"]), _transform(about)
        mean, std = (tuple(map(float, about[key])) for key in ("mean", "std"))
        if not (len(mean) == len(std) == 3 and all(std)):
            raise ValueError("mean and std are not those of three channels")
        temperature, cosine = about.get("temperature"), bool(about.get("cosine"))
        if temperature is not None and not (type(temperature) is float and LOWEST <= temperature <= HIGHEST):
            raise ValueError("temperature is none")
        model = _model(about, transform.size, len(names))
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        said = f"it lacks {error}" if isinstance(error, KeyError) else one_line(error, 400).rstrip(".")
        raise ValueError(f"{path / ABOUT} is not what `fastlt export` writes: {said}.") from None
    try:
        model.load_state_dict(load_file(path / WEIGHTS))
    except (SafetensorError, RuntimeError) as error:
        raise ValueError(f"{path / WEIGHTS} does not fit {ABOUT}: {one_line(error, 300)}.") from None
    model = model.eval().to(device).to(memory_format=torch.channels_last)
    dtype = device_dtype("auto", device) if device.type == "cuda" else torch.float32

    def forward(images: Tensor) -> Tensor:
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            return model(images)

    return Predictor(str(path), names, transform, Normalize(mean, std, device), forward, temperature, cosine)


def _labels(names: Any) -> tuple[str, ...]:
    if not isinstance(names, list) or not names:
        raise ValueError("labels is no list of names")
    for name in names:
        require_class_name(name)
    return tuple(names)


def _transform(about: dict[str, Any]) -> Transform:
    size, crop = about["image_size"], about["crop_pct"]
    if type(size) is not int or not 8 <= size <= 8192 or not 0 < crop <= 1 or about["interpolation"] != "bicubic":
        raise ValueError("image_size, crop_pct and interpolation are none that a run has")
    return Transform(size, train=False, crop_pct=crop)


def _model(about: dict[str, Any], image_size: int, num_classes: int) -> nn.Module:
    """The module that the weights fit. Nothing is fetched or loaded for it, whatever a stranger's file names."""
    name, arguments = about["name"], about["arguments"]
    if not isinstance(name, str) or ":" in name:
        raise ValueError("name is no model of timm's own")
    check_model_name(name)
    if not isinstance(arguments, dict) or (odd := sorted(_OF_TIMM & arguments.keys())):
        raise ValueError(f"arguments shape no network: {odd}" if isinstance(arguments, dict) else "arguments are none")
    model = create_backbone(ModelRecipe(name=name, arguments=arguments), image_size, num_classes)
    if "adaptformer" in about:
        adaptformer.insert(model, **about["adaptformer"])
    return model
