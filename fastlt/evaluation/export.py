"""Exports the target classes of a run to plain timm, with the lines that load them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from fastlt.atomic import new_folder
from fastlt.backbone import adaptformer
from fastlt.evaluation.finished_run import FinishedRun

_HOW_TO_LOAD = Path(__file__).with_name("load_export.py")


def export(run: FinishedRun, out: Path) -> list[Path]:
    """Writes `model.safetensors` (target rows, timm's key names), `model.json` and `load.py` into a new folder.

    With the JSON's `name` and `arguments`, `timm.create_model(name, num_classes=T, **arguments)` makes the
    module that the weights fit; `load.py` has the lines that do so, with the transform. What AdaptFormer has put into
    that module comes with it, as `adaptformer.py`. A cosine head is exported as a linear one: the same predictions,
    but scores that are to be divided by the norm of the features to be the same.

    Returns:
        These files.

    Raises:
        ValueError: `out` exists, or timm's model has no linear classifier to fill.
    """
    weights = {n.removeprefix("backbone."): w for n, w in run.model.state_dict().items() if "backbone." in n}
    classifier = run.model.backbone.pretrained_cfg.get("classifier")
    if not isinstance(classifier, str):
        raise ValueError(f"timm's {run.recipe.model.name} has no single classifier to export to.")
    weight, bias = _target_rows(run)
    if run.model.backbone.num_classes:  # CLIP's projection, which the rows take in
        projection, shift = weights[f"{classifier}.weight"], weights[f"{classifier}.bias"]
        weight, bias = weight @ projection, bias + weight @ shift
    weights |= {f"{classifier}.weight": weight, f"{classifier}.bias": bias}
    mean, std = run.model.normalization
    description: dict[str, Any] = {
        "name": run.recipe.model.name,
        "arguments": run.model.backbone_arguments,
        "labels": run.label_space.target_names,
        "image_size": run.recipe.data.image_size,
        "crop_pct": run.recipe.augment.crop_pct,
        "interpolation": "bicubic",
        "mean": mean,
        "std": std,
        "weights": run.which,
        "epoch": run.about["epoch"],
    }
    added = [Path(adaptformer.__file__)] if run.recipe.model.tune == "adaptformer" else []
    if added:
        model = run.recipe.model
        arguments = {"width": model.tune_rank, "scale": model.tune_scale, "as_lift": model.tune_as_lift}
        description["adaptformer"] = {"mlps": run.model.tuned_layers} | arguments
    with new_folder(out) as folder:
        (folder / "model.json").write_text(json.dumps(description, indent=1))
        save_file({n: w.contiguous() for n, w in weights.items()}, folder / "model.safetensors")
        shutil.copymode(folder / "model.json", folder / "model.safetensors")  # written for its owner alone
        (folder / "load.py").write_text(_HOW_TO_LOAD.read_text())
        for module in added:
            (folder / module.name).write_text(module.read_text())
    return [out / name for name in ("model.safetensors", "model.json", *(m.name for m in added), "load.py")]


def _target_rows(run: FinishedRun) -> tuple[torch.Tensor, torch.Tensor]:
    """Classifier weight [T, D] and bias [T]; a feature norm before it is folded in."""
    head, targets = run.model.head, run.label_space.num_targets
    assert head is not None, "a finished run has a whole head"
    weight = head.weight.detach()[:targets]
    if head.cosine_scale is not None:
        weight = head.cosine_scale * torch.nn.functional.normalize(weight)
    bias = weight.new_zeros(targets) if head.bias is None else head.bias.detach()[:targets]
    if isinstance(head.norm, torch.nn.BatchNorm1d):
        mean, variance = (buffer for name, buffer in head.norm.named_buffers() if name.startswith("running"))
        weight = weight * (variance + head.norm.eps).rsqrt()
        bias = bias - weight @ mean
    return weight, bias
