"""The recipe of a run: typed fields with their meaning, read from YAML and `key=value` words."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from fastlt.atomic import write_text
from fastlt.kernels.loss import MEMORY_LIMIT, Implementation
from fastlt.label_space import Silence
from fastlt.loaders import Backend


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class DataRecipe(_Section):
    path: Path
    """Encoded data set, made by `fastlt encode`."""
    image_size: int = Field(224, ge=8)
    """Side of the training and test images, in pixels."""
    auxiliary: bool = True
    """Train on the auxiliary classes too; false leaves them out of images, labels and prior."""
    auxiliary_per_class: int = Field(50, ge=1)
    """Images of an auxiliary class in one epoch, drawn anew each time."""
    loader: Backend = "auto"
    """ffcv, dali or plain; auto takes the fastest that reads the data set and is installed."""
    workers: int = Field(0, ge=0)
    """Loading threads (ffcv, dali) or processes (plain) per rank; 0 takes the rank's share of the cores."""


class AugmentRecipe(_Section):
    crop_scale: tuple[float, float] = (0.08, 1.0)
    """Area of the random crop, as a fraction of the image."""
    crop_ratio: tuple[float, float] = (0.75, 4 / 3)
    """Aspect ratio of the random crop."""
    flip: float = Field(0.5, ge=0, le=1)
    """Probability of a horizontal flip."""
    rand_augment: str | None = None
    """timm's RandAugment string; ffcv and dali have rand-...-inc1, for example rand-m9-mstd0.5-inc1."""
    color_jitter: float = Field(0.0, ge=0, le=1)
    """Brightness, contrast and saturation vary by up to this fraction, after RandAugment; 0 for none."""
    random_erasing: float = Field(0.0, ge=0, le=1)
    """Probability of random erasing, on the device."""
    mixup: float = Field(0.0, ge=0)
    """Alpha of mixup; 0 turns it off. With cutmix too, each batch takes one of them at random."""
    cutmix: float = Field(0.0, ge=0)
    """Alpha of cutmix; 0 turns it off."""
    test_crop: float = Field(0.875, gt=0, le=1)
    """Side of the center crop at test time over the shorter side of the image."""


class ModelRecipe(_Section):
    name: str
    """Any timm model."""
    pretrained: bool | str = False
    """true for timm's hub weights, a path for a local file, false for none."""
    arguments: dict[str, Any] = {}
    """Further arguments of timm.create_model."""
    drop_path: float = Field(0.0, ge=0, lt=1)
    """Stochastic depth rate."""
    feature_norm: bool = False
    """BatchNorm without parameters before the classifier (the DINOv2 head)."""
    cosine_scale: float | None = Field(None, gt=0)
    """Logits are this times the cosine of features and rows (the CLIP head, 100); none for a linear classifier."""
    class_embeddings: Path | None = None
    """First values of the rows: safetensors with one vector for each class name, auxiliary ones included."""


class LossRecipe(_Section):
    tau: float = Field(1.0, ge=0)
    """Strength of the class prior; 0 is plain cross-entropy."""
    lambda_s: float = Field(0.1, ge=0, le=1)
    """Weight of silenced neighbors in the denominator; 1 silences nothing, 0 drops them."""
    silence: Silence = "pairs"
    """Whom a sample silences: its neighbors, or for auxiliary samples every auxiliary class too."""
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """Label mass spread over the classes that are not silenced."""
    impl: Implementation = "auto"
    """Which implementation computes the loss: triton, cpu, reference, or auto for the fused one of the device."""
    memory_limit: int = Field(MEMORY_LIMIT, ge=0)
    """Bytes of logits on one rank up to which they are kept; larger ones are computed twice, in slices of classes."""


class OptimizerRecipe(_Section):
    name: Literal["adamw", "sgd"] = "adamw"
    """AdamW, or SGD with Nesterov momentum."""
    epochs: int = Field(ge=1)
    """Length of training."""
    batch_size: int = Field(ge=1)
    """Images per optimizer step, over all ranks and accumulation steps."""
    accumulation: int = Field(1, ge=1)
    """Micro-steps per optimizer step."""
    blr: float = Field(gt=0)
    """Base learning rate: lr = blr * batch_size / 256."""
    min_lr: float = Field(0.0, ge=0)
    """Learning rate at the end of the cosine, before layer decay."""
    warmup_epochs: float = Field(0.0, ge=0)
    """Linear warm-up from 0."""
    weight_decay: float = Field(0.05, ge=0)
    """Not applied to biases, norms and what the model excludes."""
    betas: tuple[float, float] = (0.9, 0.99)
    """AdamW's moments."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """SGD's momentum."""
    layer_decay: float | None = Field(None, gt=0, le=1)
    """Each layer's learning rate over that of the next one; none for one rate."""
    clip_grad: float = Field(0.0, ge=0)
    """Largest gradient norm; 0 does not clip."""
    head_only_epochs: int = Field(0, ge=0)
    """First epochs in which only the head learns."""
    average: float = Field(0.0, ge=0, lt=1)
    """Decay of a moving average of the weights, per step; then the average is evaluated and kept. 0 for none."""


class EngineRecipe(_Section):
    zero_stage: Literal[0, 1, 2, 3] = 0
    """DeepSpeed ZeRO stage."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Compute type; auto takes bfloat16 where the device has it. Weights and optimizer stay float32."""
    shard_classes: bool = False
    """Split the classifier's rows over the ranks, for label spaces too large for one device; with ZeRO 0."""
    channels_last: bool = True
    """Memory layout of images and convolutions."""
    checkpoint_gradients: bool = False
    """Compute the backbone's activations twice instead of keeping them: less memory, about a third more time."""
    compile: bool = False
    """torch.compile the backbone; with ZeRO 0 to 2."""


class CheckpointRecipe(_Section):
    epochs: int = Field(1, ge=0)
    """Save after every so many epochs; 0 only at the end."""
    minutes: float = Field(30.0, ge=0)
    """Save after so many minutes too; 0 never."""
    keep: int = Field(2, ge=1)
    """Checkpoints kept; older ones are deleted."""


class LogRecipe(_Section):
    steps: int = Field(20, ge=1)
    """Steps between log lines; stop signals and minute checkpoints are seen then, and obeyed at the next one."""
    eval_epochs: int = Field(1, ge=0)
    """Evaluate after every so many epochs and at the end; 0 only at the end."""
    tensorboard: bool = True
    """Write TensorBoard event files beside log.jsonl."""


class Recipe(_Section):
    output: Path
    """Folder of the run."""
    seed: int = Field(0, ge=0)
    """With epoch, step and sample it determines all randomness."""
    data: DataRecipe
    augment: AugmentRecipe = AugmentRecipe()
    model: ModelRecipe
    loss: LossRecipe = LossRecipe()
    optimizer: OptimizerRecipe
    engine: EngineRecipe = EngineRecipe()
    checkpoint: CheckpointRecipe = CheckpointRecipe()
    log: LogRecipe = LogRecipe()

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        if self.optimizer.head_only_epochs > self.optimizer.epochs:
            raise ValueError("optimizer.head_only_epochs exceeds optimizer.epochs")
        if self.engine.shard_classes:
            if self.engine.zero_stage or self.optimizer.clip_grad or self.model.feature_norm:
                raise ValueError(
                    "engine.shard_classes does not go with engine.zero_stage, optimizer.clip_grad or model.feature_norm"
                )
            if self.model.cosine_scale is not None:
                raise ValueError("engine.shard_classes does not go with model.cosine_scale")
            if self.loss.impl == "reference":
                raise ValueError("engine.shard_classes needs a fused loss: set loss.impl to auto")
        if self.model.class_embeddings and self.model.cosine_scale is None:
            raise ValueError("model.class_embeddings are for a cosine head: set model.cosine_scale, CLIP's is 100")
        if self.engine.compile and self.engine.zero_stage == 3:
            raise ValueError("engine.compile does not go with engine.zero_stage=3")
        return self

    def save(self, path: Path) -> None:
        """Writes the resolved recipe as YAML."""
        write_text(path, yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False))


def load_recipe(path: Path, overrides: list[str] | None = None) -> Recipe:
    """Reads a YAML recipe; `base:` names another one, beside it, whose values it overrides.

    Args:
        path: the recipe.
        overrides: words like `optimizer.epochs=3`; values are YAML.

    Raises:
        ValueError: unreadable file, unknown key, or a value of the wrong type.
    """
    values = _read_yaml(path)
    for word in overrides or []:
        key, equals, text = word.partition("=")
        if not equals or not key:
            raise ValueError(f"{word!r} is not of the form key=value, for example optimizer.epochs=3.")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            raise ValueError(f"the value in {word!r} is not valid YAML.") from None
        for part in reversed(key.split(".")):
            value = {part: value}
        values = _merge(values, value)
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        raise ValueError(f"recipe {path}: {'; '.join(_explain(e) for e in error.errors())}.") from None


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ValueError(f"recipe {path} cannot be read: {error.strerror}.") from None
    except yaml.YAMLError as error:
        raise ValueError(f"recipe {path} is not valid YAML: {error}.") from None
    if not isinstance(values, dict):
        raise ValueError(f"recipe {path} is empty or no mapping.")
    base = values.pop("base", None)
    return _merge(_read_yaml(path.parent / base), values) if base else values


def _merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict) and key != "arguments"
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _explain(error: Any) -> str:
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        return f"unknown key {key!r}; known in this section are {', '.join(_known_keys(error['loc'][:-1]))}"
    if error["type"] == "missing":
        return f"key {key!r} is missing"
    return f"{key}: {error['msg']}" if key else error["msg"]


def _known_keys(section: tuple) -> list[str]:
    model: Any = Recipe
    for part in section:
        model = model.model_fields[part].annotation
    return list(model.model_fields)
