"""What is done with a run's weights after training: evaluate them, and export the target classes to plain timm."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from fastlt.atomic import new_folder
from fastlt.classifier import Classifier
from fastlt.dataset.encoded import EncodedDataset
from fastlt.evaluation.metrics import Evaluation, evaluate
from fastlt.label_space import LabelSpace
from fastlt.loaders.loader import EvalLoader
from fastlt.loaders.normalize import Normalize
from fastlt.loaders.readers import open_reader
from fastlt.loaders.transform import eval_transform
from fastlt.recipe import load_recipe
from fastlt.run_folder import RunFolder, Weights

_HOW_TO_LOAD = Path(__file__).with_name("load_export.py")


class FinishedRun:
    """A run folder with weights in it.

    Args:
        path: the run.
        which: "last" or "best".

    Raises:
        ValueError: no run, a recipe of before, no weights, or weights of another label space.
    """

    def __init__(self, path: Path, which: Weights = "last") -> None:
        self.folder, self.which = RunFolder(path), which
        self.folder.require_begun()
        self.recipe = load_recipe(self.folder.recipe, ["model.pretrained=false"])  # its own weights are loaded next
        self.label_space = LabelSpace.load(self.folder.label_space)
        weights, self.about = self.folder.load_weights(which, self.label_space.digest())
        self.model = Classifier(self.recipe, self.label_space).eval()
        self.model.load_state_dict(weights)

    def evaluate(self, split: str, data: Path | None = None, batch_size: int = 256) -> Evaluation:
        """Evaluates in the run's precision on one split of its data set, or of another one with the same targets.

        Raises:
            ValueError: no such split, or other target classes.
        """
        dataset = EncodedDataset.open(data or self.recipe.data.path)
        if dataset.label_space.target_names != self.label_space.target_names:
            raise ValueError(f"{dataset.path} has other target classes than {self.folder.path} was trained on.")
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        model = self.model.settle(device, self.recipe.engine.precision)
        workers = self.recipe.data.workers or 2
        reader = open_reader(dataset, split, eval_transform(self.recipe), batch_size, workers)
        normalize = Normalize(*model.normalization, device)
        loader = EvalLoader(reader, dataset.split(split).labels(), normalize, batch_size)
        return evaluate(model, loader, self.label_space, device)

    def export(self, out: Path) -> None:
        """Writes `model.safetensors` (target rows, timm's key names), `model.json` and `load.py` into a new folder.

        With the JSON's `name` and `arguments`, `timm.create_model(name, num_classes=T, **arguments)` makes the
        module that the weights fit; `load.py` has the lines that do so, with the transform. A cosine head is exported
        as a linear one: the same predictions, but scores that are to be divided by the norm of the features to be the
        same.

        Raises:
            ValueError: `out` exists, or timm's model has no linear classifier to fill.
        """
        weights = {n.removeprefix("backbone."): w for n, w in self.model.state_dict().items() if "backbone." in n}
        classifier = self.model.backbone.pretrained_cfg.get("classifier")
        if not isinstance(classifier, str):
            raise ValueError(f"timm's {self.recipe.model.name} has no single classifier to export to.")
        weight, bias = self._target_rows()
        if self.model.backbone.num_classes:  # CLIP's projection, which the rows take in
            projection, shift = weights[f"{classifier}.weight"], weights[f"{classifier}.bias"]
            weight, bias = weight @ projection, bias + weight @ shift
        weights |= {f"{classifier}.weight": weight, f"{classifier}.bias": bias}
        mean, std = self.model.normalization
        description: dict[str, Any] = {
            "name": self.recipe.model.name,
            "arguments": self.model.backbone_arguments,
            "labels": self.label_space.target_names,
            "image_size": self.recipe.data.image_size,
            "crop_pct": self.recipe.augment.crop_pct,
            "interpolation": "bicubic",
            "mean": mean,
            "std": std,
            "weights": self.which,
            "epoch": self.about["epoch"],
        }
        with new_folder(out) as folder:
            (folder / "model.json").write_text(json.dumps(description, indent=1))
            save_file({n: w.contiguous() for n, w in weights.items()}, folder / "model.safetensors")
            shutil.copymode(folder / "model.json", folder / "model.safetensors")  # written for its owner alone
            (folder / "load.py").write_text(_HOW_TO_LOAD.read_text())

    def _target_rows(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Classifier weight [T, D] and bias [T]; a feature norm before it is folded in."""
        head, targets = self.model.head, self.label_space.num_targets
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
