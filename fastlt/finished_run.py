"""What is done with a run's weights after training: evaluate them, and export the target classes to plain timm."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save_file

from fastlt.atomic import new_folder
from fastlt.checkpointing import load_weights
from fastlt.classifier import Classifier
from fastlt.encoded import EncodedDataset
from fastlt.evaluation import Evaluation, evaluate
from fastlt.label_space import LabelSpace
from fastlt.loaders import EvalLoader, Normalize, open_source
from fastlt.recipe import Recipe
from fastlt.trainer import (
    BEST_WEIGHTS,
    LABEL_SPACE_FILE,
    LAST_WEIGHTS,
    RECIPE_FILE,
    eval_transform,
)

WEIGHTS = {"last": LAST_WEIGHTS, "best": BEST_WEIGHTS}


class FinishedRun:
    """A run folder with weights in it.

    Args:
        folder: the run.
        weights: "last" or "best".

    Raises:
        ValueError: no run, no weights, or weights of another label space.
    """

    def __init__(self, folder: Path, weights: str = "last") -> None:
        if not (folder / RECIPE_FILE).is_file():
            raise ValueError(f"{folder} is not a run: it has no {RECIPE_FILE}.")
        self.folder, self.weights = folder, weights
        values = yaml.safe_load((folder / RECIPE_FILE).read_text())
        values["model"]["pretrained"] = False  # its own weights are loaded next
        self.recipe = Recipe.model_validate(values)
        self.label_space = LabelSpace.load(folder / LABEL_SPACE_FILE)
        recipe = self.recipe
        self.model = Classifier(
            recipe.model, recipe.loss, self.label_space, recipe.data.auxiliary_per_class, recipe.data.image_size
        )
        self.about = load_weights(self.model, folder / WEIGHTS[weights], self.label_space.digest())
        self.model.eval()

    def evaluate(self, split: str, data: Path | None = None, batch_size: int = 256) -> Evaluation:
        """Evaluates in float32 on one split of the run's data set, or of another one with the same target classes.

        Raises:
            ValueError: no such split, or other target classes.
        """
        dataset = EncodedDataset.open(data or self.recipe.data.path)
        if dataset.label_space.target_names != self.label_space.target_names:
            raise ValueError(f"{dataset.path} has other target classes than {self.folder} was trained on.")
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        model = self.model.to(device)
        workers = self.recipe.data.workers or 2
        source = open_source(dataset, split, eval_transform(self.recipe), batch_size, workers)
        normalize = Normalize(*model.normalization, device)
        loader = EvalLoader(source, dataset.split(split).labels(), normalize, batch_size)
        return evaluate(model, loader, self.label_space, device)

    def export(self, out: Path) -> None:
        """Writes `model.safetensors` (target rows, timm's key names) and `model.json` into a new folder.

        With the JSON's `name` and `arguments`, `timm.create_model(name, num_classes=T, **arguments)` makes the
        module that the weights fit. A cosine head is exported as a linear one: the same predictions, but scores that
        are to be divided by the norm of the features to be the same.

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
            "test_crop": self.recipe.augment.test_crop,
            "mean": mean,
            "std": std,
            "epoch": self.about["epoch"],
        }
        with new_folder(out) as folder:
            save_file({n: w.contiguous() for n, w in weights.items()}, folder / "model.safetensors")
            (folder / "model.json").write_text(json.dumps(description, indent=1))

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
