"""The recipe of a run: typed keys with their meaning, read from YAML and `key=value` words."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import yaml
from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from fastlt.atomic import write_text
from fastlt.foreign import without_credentials
from fastlt.kernels.options import MEMORY_LIMIT, Implementation
from fastlt.label_space import Silence
from fastlt.places import Place, as_place, is_url
from fastlt.yaml_keys import Section, keys_of, validated
from fastlt.yaml_text import parsed, read_mapping

TrackerName = Literal["tensorboard", "wandb", "mlflow", "trackio"]
LoaderName = Literal["auto", "ffcv", "dali", "plain"]


def _as_typed(value: Any) -> Any:
    """A path that YAML takes for a whole number."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _from_home(path: Path) -> Path:
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise ValueError(f"{path} begins with the home of nobody here: {error}") from None


def _no_url(value: Any) -> Any:
    if isinstance(value, str) and is_url(value):
        raise ValueError("must lie on a disk here; only data.path may be a URL")
    return value


def _place(value: Any) -> Any:
    if not isinstance(value, str | Path):
        raise ValueError("must be a path")
    return as_place(value)


_HomePath = Annotated[Path, AfterValidator(_from_home)]
UserPath = Annotated[_HomePath, BeforeValidator(_no_url), BeforeValidator(_as_typed)]
"""A path as people write it, with ~ for home, and maybe a number."""
_UserPlace = Annotated[Place, BeforeValidator(_place), BeforeValidator(_as_typed)]


class DataRecipe(Section):
    path: _UserPlace
    """Encoded data set, made by `fastlt encode`: a folder, or a URL such as s3://bucket/birds, whose copy is read."""
    image_size: int = Field(224, ge=8, le=8192)
    """Side of the training and test images, in pixels."""
    auxiliary: bool = True
    """Train on the auxiliary classes too; false leaves them out of images, labels and prior."""
    auxiliary_per_class: int = Field(50, ge=1)
    """Images of an auxiliary class in one epoch, drawn anew each time."""
    loader: LoaderName = "auto"
    """ffcv, dali or plain; auto takes the fastest that reads the data set and is installed."""
    scaled_decoding: bool = False
    """Decode JPEGs to a half, a quarter or an eighth, in libjpeg's DCT domain, where a training crop is at least that
    many times as large as the image: photographs of 500 px are read faster by a tenth at 112 px, by a hundredth at
    224 px; pixels there differ by 1 to 2 levels of 255 on average (ffcv)."""
    stage_to: UserPath | None = None
    """A folder on each node's own disk: the data set is copied there at the start, read from there, and stays; that of
    a URL is copied into $TMPDIR/fastlt-UID where none is named."""
    workers: int = Field(0, ge=0)
    """Loading threads (ffcv, dali) or processes (plain) per rank; 0 takes the rank's share of the cores."""

    @property
    def is_staged(self) -> bool:
        """Whether images are read from a copy on the node's own disk."""
        return self.stage_to is not None or not isinstance(self.path, Path)


class AugmentRecipe(Section):
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
    crop_pct: float = Field(0.875, gt=0, le=1)
    """Side of the center crop at test time over the shorter side of the image."""

    @field_validator("crop_scale", "crop_ratio")
    @classmethod
    def _from_small_to_large(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 < value[0] <= value[1]:
            raise ValueError("must be two numbers above 0, the smaller one first")
        return value

    @field_validator("crop_scale")
    @classmethod
    def _within_the_image(cls, value: tuple[float, float]) -> tuple[float, float]:
        if value[1] > 1:
            raise ValueError("must be fractions of the image, at most 1")
        return value


class ModelRecipe(Section):
    name: str
    """Any timm model, for example resnet50 or vit_base_patch14_dinov2.lvd142m."""
    pretrained: bool | str = False
    """true for timm's hub weights, a path for a local file, false for none."""
    allow_missing: bool | Annotated[int, Field(ge=0)] = False
    """How many of the backbone's tensors may be missing in a local file and stay as drawn; true for any number."""
    arguments: dict[str, Any] = Field({})
    """Further arguments of timm.create_model."""
    drop_path: float = Field(0.0, ge=0, lt=1)
    """Stochastic depth rate."""
    tune: Literal["full", "head", "lora", "adaptformer"] = "full"
    """What of the backbone is trained with the head: full, all of it; head, nothing; lora, low-rank products added to
    its weights, merged in what is saved (pip install 'fastlt[lora]'); adaptformer, a bottleneck beside the MLP of
    each transformer block. What is frozen stays so, BatchNorm's statistics too."""
    tune_rank: int = Field(8, ge=1)
    """Rank of LoRA's products, or width of AdaptFormer's bottlenecks; LIFT takes 2^floor(log2(classes / (2 * blocks))),
    blocks being those of the backbone."""
    tune_scale: float = Field(0.1, gt=0)
    """Factor of what AdaptFormer's bottlenecks add; LIFT begins with 1."""
    tune_as_lift: bool = False
    """Learn tune_scale too, and a LayerNorm before each of AdaptFormer's bottlenecks, as LIFT does."""
    tune_places: tuple[str, ...] = ()
    """Layers that lora or adaptformer tunes, by parts of their names in timm, such as [qkv, proj] or [blocks.11]; []
    for all linear layers and ungrouped convolutions (qkv, proj, fc1 and fc2 in a ViT) but that of the image itself, or
    all blocks."""
    feature_norm: bool = False
    """BatchNorm without parameters before the classifier (the DINOv2 head)."""
    cosine_scale: float | None = Field(None, gt=0)
    """Logits are this times the cosine of features and rows (the CLIP head, 100); none for a linear classifier."""
    class_embeddings: UserPath | None = None
    """First values of the rows: safetensors with one vector for each class name, auxiliary ones included."""


class LossRecipe(Section):
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


class OptimizerRecipe(Section):
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
    ema_decay: float = Field(0.0, ge=0, lt=1)
    """Decay per step of an exponential moving average (EMA) of the weights, which is then evaluated and kept; 0 for
    none."""

    def micro_batch(self, ranks: int) -> int:
        """Images of one rank in one micro-step.

        Raises:
            ValueError: the batch does not divide.
        """
        if self.batch_size % (ranks * self.accumulation):
            raise ValueError(
                f"optimizer.batch_size={self.batch_size} is not divisible by {ranks} ranks x {self.accumulation} "
                "accumulation steps."
            )
        return self.batch_size // (ranks * self.accumulation)


class EngineRecipe(Section):
    zero_stage: Literal[0, 1, 2, 3] = 0
    """DeepSpeed ZeRO stage."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Compute type; auto takes bfloat16 where the device has it. Weights and optimizer stay float32."""
    shard_classes: bool = False
    """Split the classifier's rows over the ranks, for label spaces too large for one device; with ZeRO 0."""
    channels_last: bool = True
    """Memory layout of convolutions, with ZeRO 0; images always have it."""
    activation_checkpointing: bool = False
    """Compute the backbone's activations twice instead of keeping them: less memory, about a third more time."""
    compile: bool = False
    """torch.compile the backbone; with ZeRO 0 to 2."""
    deepspeed: _HomePath | dict[str, Any] | None = None
    """Further DeepSpeed settings, a JSON file or a mapping: offload, buckets, communication types and the like."""


class CheckpointRecipe(Section):
    epochs: int = Field(1, ge=0)
    """Save after every so many epochs; 0 only at the end."""
    minutes: float = Field(30.0, ge=0)
    """Save after so many minutes too; 0 never."""
    keep: int = Field(2, ge=1)
    """Checkpoints kept; older ones are deleted."""


class LogRecipe(Section):
    steps: int = Field(20, ge=1)
    """Steps between log lines; stop signals and minute checkpoints are seen then, and obeyed at the next one."""
    eval_epochs: int = Field(1, ge=0)
    """Evaluate after every so many epochs and at the end; 0 only at the end."""
    trackers: tuple[TrackerName, ...] = ("tensorboard",)
    """Who shows the values of log.jsonl too: tensorboard, by event files in the run folder; wandb, mlflow and trackio
    (pip install 'fastlt[wandb]' and so on), each where its own environment variables say, such as WANDB_PROJECT,
    MLFLOW_TRACKING_URI or TRACKIO_SPACE_ID. A resumed run continues the same record."""

    @model_validator(mode="before")
    @classmethod
    def _as_before(cls, values: Any) -> Any:
        """`tensorboard: true` or `false`, as recipes had it when that was the only one."""
        if not (isinstance(values, dict) and isinstance(values.get("tensorboard"), bool)):
            return values
        if "trackers" in values:
            raise ValueError("log.tensorboard is now a part of log.trackers: leave it out")
        others = {key: value for key, value in values.items() if key != "tensorboard"}
        return others | {"trackers": ["tensorboard"] * values["tensorboard"]}


class Recipe(Section):
    renamed: ClassVar[dict[str, str]] = {
        "augment.test_crop": "augment.crop_pct",
        "optimizer.average": "optimizer.ema_decay",
        "engine.checkpoint_gradients": "engine.activation_checkpointing",
    }
    meant: ClassVar[dict[str, str]] = {
        "optimizer.lr": "optimizer.blr (lr = blr * batch_size / 256)",
        "optimizer.learning_rate": "optimizer.blr (lr = blr * batch_size / 256)",
        "optimizer.gradient_accumulation": "optimizer.accumulation",
        "optimizer.grad_clip": "optimizer.clip_grad",
        "data.batch_size": "optimizer.batch_size",
        "data.num_workers": "data.workers",
        "engine.dtype": "engine.precision",
    }
    output: UserPath
    """Folder of the run."""
    seed: int = Field(0, ge=0, lt=2**63)
    """With epoch, step and sample it determines all randomness."""
    data: DataRecipe
    augment: AugmentRecipe = AugmentRecipe()
    model: ModelRecipe
    loss: LossRecipe = LossRecipe()
    optimizer: OptimizerRecipe
    engine: EngineRecipe = EngineRecipe()
    checkpoint: CheckpointRecipe = CheckpointRecipe()
    log: LogRecipe = LogRecipe()

    @field_validator("output")
    @classmethod
    def _is_named(cls, value: Path) -> Path:
        if value == Path():
            raise ValueError("names no folder")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        if self.optimizer.head_only_epochs > self.optimizer.epochs:
            raise ValueError("optimizer.head_only_epochs exceeds optimizer.epochs")
        if self.engine.shard_classes:
            if self.engine.zero_stage or self.optimizer.clip_grad or self.model.feature_norm:
                raise ValueError(
                    "engine.shard_classes cannot be combined with engine.zero_stage, optimizer.clip_grad or "
                    "model.feature_norm"
                )
            if self.model.cosine_scale is not None:
                raise ValueError("engine.shard_classes cannot be combined with model.cosine_scale")
            if self.loss.impl == "reference":
                raise ValueError("engine.shard_classes needs a fused loss: set loss.impl to auto")
        if self.model.class_embeddings and self.model.cosine_scale is None:
            raise ValueError("model.class_embeddings are for a cosine head: set model.cosine_scale, CLIP's is 100")
        if self.engine.compile and self.engine.zero_stage == 3:
            raise ValueError("engine.compile cannot be combined with engine.zero_stage=3")
        return self

    def text(self) -> str:
        """All keys, resolved, as YAML."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)

    def save(self, path: Path) -> None:
        """Writes `text` into a file."""
        write_text(path, self.text())


def find_recipe(name: str | Path) -> Path:
    """The file of a recipe: a path, or the name of one of ours such as `demo/species`.

    Raises:
        ValueError: there is neither.
    """
    path = Path(name)
    if path.is_file():
        return path
    ours = packaged_recipes()
    if str(name).removesuffix(".yaml") in ours:
        return ours[str(name).removesuffix(".yaml")]
    close = difflib.get_close_matches(str(name), ours, 1)
    meant = f"did you mean {close[0]}?" if close else f"ours are {', '.join(ours)}."
    raise ValueError(f"there is no recipe {str(name)[:100]!r}: it is neither a file nor one of ours; {meant}")


def packaged_recipes() -> dict[str, Path]:
    """{name: file} of the recipes that come with fastlt."""
    folder = Path(str(files("fastlt.configs")))
    return {str(file.relative_to(folder).with_suffix("")): file for file in sorted(folder.rglob("*.yaml"))}


def load_recipe(name: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Reads a YAML recipe; `base:` names another one, beside it, whose values it overrides.

    Args:
        name: as `find_recipe` takes it.
        overrides: words like `optimizer.epochs=3`; values are YAML.

    Raises:
        ValueError: unreadable file, unknown or renamed key, or a value of the wrong type.
    """
    path = find_recipe(name)
    values = _read_yaml(path)
    for word in overrides:
        key, equals, text = word.partition("=")
        if not equals or not key:
            raise ValueError(f"{word!r} is not of the form key=value, for example optimizer.epochs=3.")
        value = parsed(text, f"the value in {without_credentials(word)[:100]!r}")
        for part in reversed(key.split(".")):
            value = {part: value}
        values = _merge(values, value)
    return validated(Recipe, values, f"recipe {path}", [word.partition("=")[0] for word in overrides])


def changed_keys(before: Recipe, after: Recipe) -> dict[str, tuple[Any, Any]]:
    """{key: (value before, value after)} of the keys that differ."""
    old, new = flat(before), flat(after)
    keys = [key for key, _ in keys_of(Recipe)]
    return {key: (old[key], new[key]) for key in keys if old[key] != new[key]}


def flat(recipe: Recipe) -> dict[str, Any]:
    """{key: value} of all keys, as JSON has them."""
    return dict(_flat(recipe.model_dump(mode="json")))


def _flat(values: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, _ in keys_of(Recipe):
        value: Any = values
        for part in key.split("."):
            value = value[part]
        yield key, value


def _read_yaml(path: Path) -> dict[str, Any]:
    """The values of a recipe over those of its base, which may have a base of its own."""
    merged: dict[str, Any] = {}
    read: list[Path] = []
    base: Any = path
    while base is not None:
        if not isinstance(base, str | Path):
            raise ValueError(f"recipe {path}: base is {base!r}, not the name of a recipe beside it.")
        path = path.parent / base if read else path
        values = read_mapping(path, "recipe")
        if path.resolve() in read:
            raise ValueError(f"recipe {path} is its own base.")
        read.append(path.resolve())
        base = values.pop("base", None)
        merged = _merge(values, merged)
    return merged


def _merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict) and key != "arguments"
        merged[key] = _merge(merged[key], value) if both else value
    return merged
