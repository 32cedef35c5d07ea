"""README.md of an exported model: how good it is, what it was trained from and how, and what it cannot do."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import yaml

from fastlt import __version__
from fastlt.dataset.card import contents
from fastlt.dataset.staging import copy_of
from fastlt.evaluation.finished_run import FinishedRun
from fastlt.foreign import load_json, markdown
from fastlt.label_space import FEW_SHOT_BELOW, MANY_SHOT_ABOVE
from fastlt.licenses import counted
from fastlt.messages import listed
from fastlt.recipe import Recipe, load_recipe

_NUMBERS = {"all": "all", "many": "many", "medium": "medium", "few": "few", "top1": "top-1", "ece": "ECE", "mce": "MCE"}
# Of a recipe, which name places on somebody's disk.
_PLACES = ("output", "data.path", "data.stage_to", "model.class_embeddings", "engine.deepspeed")


def model_card(run: FinishedRun, description: Mapping[str, Any], license: str, onnx: str = "") -> str:
    """The text.

    Args:
        run: that is exported.
        description: what `model.json` says.
        license: of the model, "" for nothing said.
        onnx: how `model.onnx` was compared, "" where there is none.
    """
    recipe, space = load_recipe(run.folder.recipe), run.label_space
    head: dict[str, Any] = {"library_name": "timm", "pipeline_tag": "image-classification"}
    head["tags"] = ["image-classification", "timm", "long-tailed", "fastlt"]
    if license:
        head["license"] = license
    counts = space.counts[: space.num_targets]
    lines = [
        "---",
        yaml.safe_dump(head, sort_keys=False).rstrip(),
        "---",
        "",
        f"# {markdown(recipe.model.name)}, for {space.num_targets:,} classes",
        "",
        f"Takes images of {description['image_size']} px and says which of {space.num_targets:,} classes they show:"
        f" {markdown(listed(space.target_names), 500)}. Trained on {min(counts):,} to {max(counts):,} images a class.",
        "",
        "## To use it",
        "",
        *_use("adaptformer" in description, onnx),
        "",
        "## How good it is",
        "",
        *_accuracies(run),
        *_calibration(description),
        "",
        "## What it was trained from",
        "",
        f"- {_weights(recipe)}",
        *(f"- {line}" for line in _data(recipe, run)),
        "",
        "## How",
        "",
        f"Epoch {description['epoch']} of {recipe.optimizer.epochs}, {description['weights']} weights. The recipe, for"
        " `fastlt train`, without places on a disk:",
        "",
        "```yaml",
        _recipe_text(recipe).rstrip(),
        "```",
        "",
        "## Limits",
        "",
        *_limits(run, counts, description),
        "",
        f"Made by fastlt {__version__}.",
    ]
    return "\n".join(lines) + "\n"


def _use(needs_more: bool, onnx: str) -> list[str]:
    lines = ["`python load.py IMAGE` names what an image shows; `load.py` has the lines that load the model."]
    if needs_more:
        lines += [
            "It has AdaptFormer's layers, which `adaptformer.py` adds to timm's model: timm alone cannot load it."
        ]
    else:
        lines += [
            "",
            "```python",
            "import timm",
            "",
            'model = timm.create_model("local-dir:FOLDER", pretrained=True).eval()  # or "hf-hub:REPOSITORY"',
            "transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))",
            "```",
        ]
    if onnx:
        takes = "It takes `images` [batch, 3, H, W] as the transform gives them, and gives `logits`."
        lines += ["", f"{markdown(onnx, 500)}.", takes]
    return lines


def _accuracies(run: FinishedRun) -> list[str]:
    rows, own = [], str(run.recipe.data.path)
    for split in ("test", "val"):
        path = run.folder.evaluation(split)
        found = load_json(path) if path.is_file() else {}
        if isinstance(found, dict) and (found.get("weights"), found.get("epoch")) == (run.which, run.about["epoch"]):
            numbers = [found.get(name) for name in _NUMBERS]
            shown = " | ".join(f"{number:.1f}" if isinstance(number, int | float) else "-" for number in numbers)
            crops = ", five crops" if found.get("crops") == 5 else ""
            other = " of another data set" if found.get("data", own) != own else ""
            rows.append(f"| {split}{other}{crops} | {found.get('num_images', 0):,} | {shown} |")
    if not rows:
        return ["These weights were not evaluated before they were exported: `fastlt evaluate` does it."]
    return [
        f"| split | images | {' | '.join(_NUMBERS.values())} |",
        "| --- | --- |" + " --- |" * len(_NUMBERS),
        *rows,
        "",
        f"In percent: means of the accuracies of all classes, of those with more than {MANY_SHOT_ABOVE} training",
        f"images, with {FEW_SHOT_BELOW} to {MANY_SHOT_ABOVE}, and with fewer; and the accuracy over all images. ECE",
        "and MCE are the expected and the largest difference between what the softmax says and how often that is",
        "right, in 15 bins.",
    ]


def _calibration(description: Mapping[str, Any]) -> list[str]:
    if not (temperature := description.get("temperature")):
        return []
    return [
        "",
        f"Probabilities are calibrated on validation images: logits are divided by {temperature:.4g} before the"
        " softmax. `load.py` does that; timm and ONNX give the logits as they are.",
    ]


def _weights(recipe: Recipe) -> str:
    name, begun = recipe.model.name, recipe.model.pretrained
    if not begun:
        return "Weights: none, they were drawn at random."
    if isinstance(begun, str):
        return f"Weights: a file, {markdown(Path(begun).name)}; what it may be used for is not told here."
    config = timm.get_pretrained_cfg(name) if ":" not in name else None
    license = f", under {markdown(config.license)}" if config and config.license else ""
    return f"Weights: timm's {markdown(name)}{license}."


def _data(recipe: Recipe, run: FinishedRun) -> list[str]:
    space = run.label_space
    lines = [f"Images: {sum(space.counts[: space.num_targets]):,} of the {space.num_targets:,} target classes."]
    if space.auxiliary_names:
        lines.append(
            f"Auxiliary images: {sum(space.counts[space.num_targets :]):,} of {len(space.auxiliary_names):,} classes"
            f" that look like targets, {len(space.neighbors):,} pairs; the model has no outputs for them."
        )
    try:
        found = contents(copy_of(recipe.data.path, recipe.data.stage_to))
    except ValueError:
        return [*lines, "Licenses of the images: not known where this was exported."]
    known, unknown = counted(found.licenses)
    said = [f"{number:,} {name}" for name, number in known.items()]
    said += [f"{sum(unknown.values()):,} of licenses that nobody knows"] if unknown else []
    said += [f"{found.num_own:,} of its maker's own, {markdown(found.own_license) or 'license not told'}"]
    return [*lines, f"Licenses of the images: {', '.join(said)}."]


def _recipe_text(recipe: Recipe) -> str:
    """As YAML, without what names places on a disk."""
    told = recipe.model_dump(mode="json")
    for place in _PLACES:
        section, _, key = place.rpartition(".")
        (told[section] if section else told).pop(key, None)
    if isinstance(told["model"]["pretrained"], str):
        told["model"]["pretrained"] = Path(told["model"]["pretrained"]).name
    return yaml.safe_dump(told, sort_keys=False).replace("`", "'")


def _limits(run: FinishedRun, counts: tuple[int, ...], description: Mapping[str, Any]) -> list[str]:
    few = sum(count < FEW_SHOT_BELOW for count in counts)
    lines = [
        '- It knows these classes alone, and says one of them of any image: there is no "none of these".',
        "- What was measured holds for images like those it was measured on.",
    ]
    if few:
        lines.append(f"- {few:,} classes had fewer than {FEW_SHOT_BELOW} training images: see the column `few`.")
    if run.recipe.model.cosine_scale is not None:
        lines.append(
            "- Its scores are not divided by the norm of the features, as they were in training: the order of classes"
            " is the same, probabilities are not, and ECE and MCE are those of the model in training."
        )
    return lines
