"""Exports the target classes of a run to plain timm, with the lines that load them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save_file

from fastlt.atomic import new_folder
from fastlt.backbone import adaptformer
from fastlt.evaluation.finished_run import FinishedRun
from fastlt.evaluation.model_card import model_card

_HOW_TO_LOAD = Path(__file__).with_name("load_export.py")


def export(run: FinishedRun, out: Path, license: str = "", onnx: bool = False) -> list[Path]:
    """Writes `model.safetensors` (target rows, timm's key names), `model.json` and `load.py` into a new folder.

    With the JSON's `name` and `arguments`, `timm.create_model(name, num_classes=T, **arguments)` makes the
    module that the weights fit; `load.py` has the lines that do so, with the transform. `config.json` says the same to
    timm, so that `timm.create_model("local-dir:OUT", pretrained=True)` loads it, and `hf-hub:` from a hub. What
    AdaptFormer has put into the module comes with it, as `adaptformer.py`; timm alone does not load that, so there is
    no `config.json`. A cosine head is exported as a linear one: the same predictions, but scores that are to be divided
    by the norm of the features to be the same. `README.md` is the model's card.

    Args:
        run: what is exported.
        out: the folder to make.
        license: of the model, for the card; "" says nothing.
        onnx: write `model.onnx` too, and compare it with this model.

    Returns:
        These files, `load.py` last.

    Raises:
        ValueError: `out` exists, or timm's model has no linear classifier to fill, or ONNX's does not do the same.
    """
    if onnx:
        from fastlt.evaluation.onnx_file import require_onnx, write_onnx

        require_onnx()
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
    cosine = run.recipe.model.cosine_scale is not None
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
        "temperature": None if cosine or not run.calibration else run.calibration.temperature,
        "cosine": cosine,
    }
    added = [Path(adaptformer.__file__)] if run.recipe.model.tune == "adaptformer" else []
    if added:
        model = run.recipe.model
        arguments = {"width": model.tune_rank, "scale": model.tune_scale, "as_lift": model.tune_as_lift}
        description["adaptformer"] = {"mlps": run.model.tuned_layers} | arguments
    written = ["model.safetensors", "model.json", "README.md"]
    with new_folder(out) as folder:
        (folder / "model.json").write_text(json.dumps(description, indent=1))
        save_file({n: w.contiguous() for n, w in weights.items()}, folder / "model.safetensors")
        shutil.copymode(folder / "model.json", folder / "model.safetensors")  # written for its owner alone
        (folder / "load.py").write_text(_HOW_TO_LOAD.read_text())
        for module in added:
            (folder / module.name).write_text(module.read_text())
            written.append(module.name)
        if not added:
            (folder / "config.json").write_text(json.dumps(_config(run, description), indent=1))
            written.append("config.json")
        said = ""
        if onnx:
            said = write_onnx(folder, _plain_model(description, weights), run)
            shutil.copymode(folder / "model.json", folder / "model.onnx")
            written.append("model.onnx")
            print(said)
        (folder / "README.md").write_text(model_card(run, description, license, said))
    return [out / name for name in (*written, "load.py")]


def _config(run: FinishedRun, description: dict[str, Any]) -> dict[str, Any]:
    """What timm reads from a hub: which model, of which arguments, for which images and classes."""
    own, size, labels = run.model.backbone.pretrained_cfg, description["image_size"], list(description["labels"])
    told = {name: description[name] for name in ("crop_pct", "interpolation", "mean", "std")}
    kept = {name: own[name] for name in ("fixed_input_size", "classifier", "first_conv") if name in own}
    same_size = tuple(own.get("input_size", ())) == (3, size, size)
    return {
        "architecture": own.get("architecture") or description["name"].partition(".")[0],
        "num_classes": len(labels),
        "num_features": run.model.backbone.num_features,
        "label_names": labels,
        "model_args": description["arguments"],
        "pretrained_cfg": {
            "custom_load": False,
            "num_classes": len(labels),
            "input_size": [3, size, size],
            "pool_size": own.get("pool_size") if same_size else None,
            "crop_mode": "center",
            **kept,
            **told,
        },
    }


def _plain_model(description: dict[str, Any], weights: dict[str, torch.Tensor]) -> torch.nn.Module:
    """What `load.py` makes of the folder."""
    arguments = description["arguments"]
    model = timm.create_model(description["name"], num_classes=len(description["labels"]), **arguments)
    if "adaptformer" in description:
        adaptformer.insert(model, **description["adaptformer"])
    model.load_state_dict(weights)
    return model.eval()


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
