"""A run after training: its classifier, whole again, and how good it is on a split."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from fastlt.classifier import Classifier
from fastlt.cores import available_cores
from fastlt.dataset.staging import opened
from fastlt.evaluation.calibration import Calibration, calibrated
from fastlt.evaluation.metrics import Evaluation, evaluate
from fastlt.evaluation.mistakes import Predictions
from fastlt.label_space import LabelSpace
from fastlt.loaders.loader import EvalLoader
from fastlt.loaders.normalize import Normalize
from fastlt.loaders.readers import open_reader
from fastlt.loaders.transform import Transform, eval_transform
from fastlt.places import Place
from fastlt.recipe import load_recipe
from fastlt.run_folder import RunFolder, Weights

_LARGER = 31 / 28  # than usual is the image of which five crops are taken: 248 px for 224, as LIFT has it


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
        if self.recipe.model.tune == "lora":  # which they have merged
            self.recipe = load_recipe(self.folder.recipe, ["model.pretrained=false", "model.tune=full"])
        self.label_space = LabelSpace.load(self.folder.label_space)
        weights, self.about = self.folder.load_weights(which, self.label_space.digest())
        rows = weights.get("head.weight")
        row_size = rows.shape[-1] if rows is not None else None
        self.model = Classifier(self.recipe, self.label_space, row_size=row_size).eval()
        self.model.load_state_dict(weights)
        self.calibration = Calibration.of(self.folder, which, self.about["epoch"])

    def evaluate(
        self,
        split: str,
        data: Place | None = None,
        batch_size: int = 256,
        ensemble: bool = False,
        predictions: Predictions | None = None,
    ) -> Evaluation:
        """Evaluates in the run's precision on one split of its data set, or of another one with the same targets.

        Args:
            split: of the data set.
            data: another data set.
            batch_size: images at a time.
            ensemble: average the logits of five crops, see `five_crops`.
            predictions: takes what each image was taken for.

        Raises:
            ValueError: no such split, or other target classes.
        """
        usual = eval_transform(self.recipe)
        larger = replace(usual, size=round(_LARGER * usual.size), crop_pct=1.0)
        model, loader = self._ready(split, larger if ensemble else usual, data, batch_size)
        forward = five_crops(model, usual.size) if ensemble else model
        temperature = self.calibration.temperature if self.calibration and not ensemble else None
        return evaluate(forward, loader, self.label_space, loader.normalize.device, predictions, temperature)

    def calibrate(self, data: Place | None = None) -> Calibration:
        """Finds the temperature on the validation split, keeps it in the run, and uses it from here on.

        Raises:
            ValueError: as `evaluate`; the data set has no validation split.
        """
        path = data or self.recipe.data.path
        if "val" not in opened(path, self.recipe.data.stage_to).splits:
            raise ValueError(f"{path} has no validation split, on which a temperature is found: encode one with --val.")
        logits, labels = self.target_logits("val", data)
        self.calibration = calibrated(logits, labels, self.label_space, self.about["epoch"])
        self.calibration.save(self.folder.calibration(self.which))
        return self.calibration

    @torch.no_grad()
    def target_logits(self, split: str, data: Place | None = None) -> tuple[Tensor, Tensor]:
        """Logits float32 [N, T] and labels int64 [N] of all images of a split, on the host.

        They are written where they stay (0.8 GB for iNaturalist's 24,426 images and 8,142 classes): batches kept aside
        would hold auxiliary columns too, and be in memory twice when they are joined.
        """
        model, loader = self._ready(split, eval_transform(self.recipe), data)
        labels = torch.as_tensor(loader.labels, dtype=torch.int64)
        logits, done = torch.empty(len(labels), self.label_space.num_targets), 0
        for images, _ in loader:
            logits[done : done + len(images)] = model(images)[:, : logits.shape[1]]
            done += len(images)
        return logits, labels

    @torch.no_grad()
    def predict(self, split: str) -> tuple[Tensor, Tensor]:
        """Features [N, D] as the head gets them, and logits [N, C], of all images of a split in its order; float32."""
        model, loader = self._ready(split, eval_transform(self.recipe))
        assert model.head is not None, "whole models have one"
        features: list[Tensor] = []
        hook = model.head.register_forward_pre_hook(lambda _, given: features.append(given[0].float().cpu()))
        try:
            logits = [model(images).float().cpu() for images, _ in loader]
        finally:
            hook.remove()
        return torch.cat(features), torch.cat(logits)

    def batches(self, split: str, batch_size: int = 16) -> Iterator[Tensor]:
        """The images of a split in its order, float32 [B, 3, H, W], as the model takes them."""
        _, loader = self._ready(split, eval_transform(self.recipe), batch_size=batch_size)
        return (images for images, _ in loader)

    def _ready(
        self, split: str, transform: Transform, data: Place | None = None, batch_size: int = 256
    ) -> tuple[Classifier, EvalLoader]:
        """The model on the device, in the run's precision, and the images of a split."""
        dataset = opened(data or self.recipe.data.path, self.recipe.data.stage_to)
        if dataset.label_space.target_names != self.label_space.target_names:
            raise ValueError(f"{dataset.where} has other target classes than {self.folder.path} was trained on.")
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        model = self.model.settle(device, self.recipe.engine.precision)
        workers = self.recipe.data.workers or available_cores()
        backend = self.recipe.data.loader if data is None else "auto"  # another data set may have another format
        reader = open_reader(dataset, split, transform, batch_size, workers, backend, device)
        normalize = Normalize(*model.normalization, device)
        return model, EvalLoader(reader, dataset.split(split).labels(), normalize, batch_size)


def five_crops(forward: Callable[[Tensor], Tensor], size: int) -> Callable[[Tensor], Tensor]:
    """Averages the logits of an image's center and corners (test-time ensembling of LIFT, arXiv 2309.10019).

    LIFT's corners are those of the whole image, also where that is no square; ours are those of its center square.

    Args:
        forward: images [B, 3, size, size] to logits [B, C].
        size: H = W of the crops.

    Returns:
        The same for larger images, [B, 3, H, H].
    """

    def averaged(images: Tensor) -> Tensor:
        end = images.shape[-1] - size
        corners = ((end // 2, end // 2), (0, 0), (0, end), (end, 0), (end, end))
        crops = (images[..., y : y + size, x : x + size].contiguous() for y, x in corners)
        return torch.stack([forward(crop).float() for crop in crops]).mean(0)  # [5, B, C] to [B, C]

    return averaged


def evaluate_run(
    path: Path,
    split: str = "auto",
    weights: Weights | Literal["auto"] = "auto",
    data: Place | None = None,
    ensemble: bool = False,
    calibrate: bool = False,
) -> str:
    """Evaluates a run, writes what was found into its folder, and says it in three lines, or four.

    Args:
        path: the run.
        split: "auto" takes test where there is one, else val.
        weights: "auto" takes the best ones on test, as val has chosen them, and the last ones on val.
        data: another encoded data set of the same target classes.
        ensemble: average the logits of five crops, see `five_crops`.
        calibrate: find the temperature of these weights first, see `FinishedRun.calibrate`.

    Raises:
        ValueError: see `FinishedRun`.
    """
    folder = RunFolder(path)
    folder.require_begun()
    recipe = load_recipe(folder.recipe)
    dataset = opened(data or recipe.data.path, recipe.data.stage_to)
    if split == "auto":
        split = dataset.judged_on
    if weights == "auto":
        weights = folder.weights_for(split)
    run, predictions = FinishedRun(path, weights), Predictions()
    found = f"\n{run.calibrate(data).sentence()}\n" if calibrate else "\n"
    result = run.evaluate(split, data, ensemble=ensemble, predictions=predictions)
    files = folder.evaluation(split), folder.per_class(split), folder.mistakes(split)
    epoch, precision = run.about["epoch"], str(run.model.compute_dtype).removeprefix("torch.")
    about = {"split": split, "weights": weights, "epoch": epoch, "data": dataset.where, "precision": precision}
    about["crops"] = 5 if ensemble else 1
    mistakes = predictions.mistakes(run.label_space, dataset.where, dataset.split(split).sha256)
    mistakes.save(files[2])  # before what says that a run is evaluated
    result.save(*files[:2], run.label_space, **about)
    return (
        f"{path}, {weights} weights (epoch {epoch}), {split}, {result.num_images:,} images, {precision}"
        f"{', five crops each' if ensemble else ''}\n"
        f"{result.row()}  MCE {result.mce:.1f}{found}"
        f"written: {', '.join(map(str, files))}"
    )
