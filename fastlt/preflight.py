"""What can be wrong with a run, told before any rank starts; torch is waited for where only the model itself tells."""

from __future__ import annotations

import difflib
import os
import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from fastlt.backbone.weight_file import require_weight_file
from fastlt.dataset.staging import described, require_stageable, stage_folder
from fastlt.recipe import Recipe, changed_keys, load_recipe
from fastlt.run_folder import RunFolder


def check(recipe: Recipe, resume: bool | None, ranks: int) -> None:
    """Checks data set, model, files of weights and rows, tuned layers, batch size and run folder.

    Args:
        recipe: of the run.
        resume: whether it is to go on; None where the caller sees to what its folder holds.
        ranks: that will be started.

    Raises:
        ValueError: something is wrong; the message says what to do.
    """
    space = described(recipe.data.path).label_space.trained(recipe.data.auxiliary)
    if space.num_targets == 1:
        raise ValueError(
            f"{recipe.data.path} has one target class, {space.target_names[0]!r}, and a classifier needs two: encode "
            "the folder that has a folder for each class."
        )
    require_a_batch(recipe, int(space.epoch_counts(recipe.data.auxiliary_per_class).sum()))
    check_without_data(recipe, ranks)
    if recipe.model.class_embeddings:
        from fastlt.classifier import require_class_embeddings

        require_class_embeddings(recipe, space)
    if recipe.data.is_staged:
        _require_writable("data.stage_to", stage_folder(recipe.data.stage_to))
        require_stageable(recipe.data.path, recipe.data.stage_to)
    _require_writable("output", recipe.output)
    if resume is not None:
        RunFolder(recipe.output).require_startable(resume)
    if resume:
        _require_same_tuning(recipe)


def check_without_data(recipe: Recipe, ranks: int) -> None:
    """What `check` can say before there is a data set: of model, files of weights, tuned layers, ranks and trackers.

    Raises:
        ValueError: something is wrong; the message says what to do.
    """
    check_model_name(recipe.model.name)
    if isinstance(recipe.model.pretrained, str):
        require_weight_file(Path(recipe.model.pretrained).expanduser())
    _require_tunable(recipe)
    recipe.optimizer.micro_batch(ranks)
    for name in recipe.log.trackers:
        if find_spec(name) is None:
            raise ValueError(f"log.trackers names {name}, which is not installed: pip install 'fastlt[{name}]'.")


def require_a_batch(recipe: Recipe, images: int) -> None:
    """Raises ValueError where an epoch of so many images has not one batch."""
    if images < recipe.optimizer.batch_size:
        raise ValueError(
            f"an epoch has {images} images, fewer than one batch of {recipe.optimizer.batch_size}: lower "
            "optimizer.batch_size."
        )


def check_model_name(name: str) -> None:
    """Raises ValueError where timm has no such model; one from a hub or a folder is left to timm."""
    architecture = name.partition(".")[0]
    if ":" in name or architecture in _model_names():
        return
    close = difflib.get_close_matches(architecture, _model_names(), 1)
    meant = f"; did you mean {close[0]}?" if close else ""
    raise ValueError(f"model.name={name}: timm has no such model{meant} (timm.list_models() has all names)")


def _require_tunable(recipe: Recipe) -> None:
    """Raises ValueError where peft is missing, or no layer is there to tune, which only the model tells, with torch."""
    model = recipe.model
    if model.tune == "lora" and find_spec("peft") is None:
        raise ValueError("model.tune=lora needs peft: pip install 'fastlt[lora]'.")
    if model.tune in ("lora", "adaptformer"):
        from fastlt.backbone.tuning import tuned_layers

        tuned_layers(model, recipe.data.image_size)


def _require_same_tuning(recipe: Recipe) -> None:
    """Raises ValueError where the checkpoints of a run hold other trained parameters than the recipe asks for."""
    folder = RunFolder(recipe.output)
    if not folder.all_checkpoints():
        return
    for key, (was, now) in changed_keys(load_recipe(folder.recipe), recipe).items():
        if key.startswith("model.tune"):
            raise ValueError(f"{folder.path} was begun with {key}={was}, not {now}: resume with the same.")


def _require_writable(key: str, path: Path) -> None:
    """Raises ValueError where a folder cannot be made."""
    there = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
        raise ValueError(f"{key}={path} cannot be made: {there} is not a folder that you may write to.")


@cache
def _model_names() -> frozenset[str]:
    """Names of timm's models, deprecated ones too, read from its sources: importing them takes seconds."""
    spec = find_spec("timm")
    assert spec is not None, "timm is installed with fastlt"
    assert spec.origin is not None, "timm has sources"
    names: set[str] = set()
    for source in Path(spec.origin).parent.joinpath("models").glob("*.py"):
        text = source.read_text(errors="replace")
        names.update(re.findall(r"^@register_model\s+def (\w+)\(", text, re.MULTILINE))
        for table in re.findall(r"register_model_deprecations\(__name__, \{(.*?)\}\)", text, re.DOTALL):
            names.update(re.findall(r"'(\w+)'\s*:", table))
    return frozenset(names)
