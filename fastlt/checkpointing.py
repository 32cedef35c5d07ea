"""Checkpoints: DeepSpeed's state plus the position of the run, published by rename; and whole weights beside them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import deepspeed
import torch.distributed as dist
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from fastlt.atomic import new_file, publish_folder
from fastlt.average import EngineAverage
from fastlt.sharded_classes import FOLDER as CLASSES_FOLDER
from fastlt.sharded_classes import ShardedClasses

FOLDER = "checkpoints"


@dataclass(frozen=True)
class Progress:
    """Where a run stands.

    Attributes:
        step: optimizer steps done.
        loader: state of the train loader (epoch and samples consumed in it).
        best: best validation accuracy so far, and its epoch.
        label_space: digest of the classes the weights belong to.
        world_size, zero_stage: what the optimizer state was split for.
    """

    step: int
    loader: dict[str, int]
    best: dict[str, float]
    label_space: str
    world_size: int
    zero_stage: int


def latest(run: Path) -> Path | None:
    """The newest complete checkpoint of a run, or None."""
    found = sorted((run / FOLDER).glob("step-*"))
    return found[-1] if found else None


def read_progress(checkpoint: Path) -> Progress:
    """Progress of a checkpoint, without loading its weights."""
    return Progress(**json.loads((checkpoint / "progress.json").read_text()))


class Part(Protocol):
    """What is saved beside the engine."""

    def save(self, checkpoint: Path) -> None:
        """Writes itself into a checkpoint's folder; called by all ranks."""
        ...


def save(engine: deepspeed.DeepSpeedEngine, run: Path, progress: Progress, keep: int, parts: Sequence[Part]) -> None:
    """Writes a checkpoint; called by all ranks. It gets its name only when every rank's part is on the disk."""
    final = run / FOLDER / f"step-{progress.step:09d}"
    if final.exists():  # saved a moment ago, for another reason
        return
    temporary = final.with_name(f".{final.name}.partial")
    main = dist.get_rank() == 0
    if main and temporary.exists():
        shutil.rmtree(temporary)
    dist.barrier()
    engine.save_checkpoint(str(temporary.parent), tag=temporary.name, save_latest=False)
    for part in parts:
        part.save(temporary)
    dist.barrier()
    if main:
        (temporary / "progress.json").write_text(json.dumps(asdict(progress)))
        publish_folder(temporary, final)
        for old in sorted(final.parent.glob("step-*"))[:-keep]:
            shutil.rmtree(old)
    dist.barrier()


def restore(
    engine: deepspeed.DeepSpeedEngine,
    checkpoint: Path,
    progress: Progress,
    sharded: ShardedClasses | None = None,
    average: EngineAverage | None = None,
) -> None:
    """Loads weights and optimizer state of a checkpoint into the engine, a sharded classifier, and an average.

    Raises:
        ValueError: the checkpoint was written on another number of ranks under ZeRO, by another stage, or with the
            classes sharded and these are not, or the other way round.
    """
    stage, world_size = engine.zero_optimization_stage(), dist.get_world_size()
    if stage != progress.zero_stage:
        raise ValueError(
            f"{checkpoint} was written with engine.zero_stage={progress.zero_stage}, not {stage}: "
            "resume with the same stage."
        )
    if stage and world_size != progress.world_size:
        raise ValueError(
            f"{checkpoint} holds optimizer state split over {progress.world_size} ranks (ZeRO {stage}), "
            f"this run has {world_size}: resume on {progress.world_size} ranks."
        )
    if sharded:
        sharded.load(checkpoint)
    elif (checkpoint / CLASSES_FOLDER).is_dir():
        raise ValueError(f"{checkpoint} was written with engine.shard_classes: resume with it too.")
    loaded, _ = engine.load_checkpoint(str(checkpoint.parent), tag=checkpoint.name)
    if loaded is None:
        raise ValueError(f"{checkpoint} cannot be loaded: it lacks the files of rank {dist.get_rank()}.")
    if average:
        average.load(checkpoint)


def whole_weights(engine: deepspeed.DeepSpeedEngine) -> dict[str, Tensor]:
    """All weights and buffers on the host of rank 0, float32; called by all ranks (ZeRO-3 gathers them one by one)."""
    weights = {}
    main = dist.get_rank() == 0
    partitioned = engine.zero_optimization_stage() == 3
    for name, parameter in engine.module.named_parameters():
        with deepspeed.zero.GatheredParameters(parameter, enabled=partitioned):
            if main:
                weights[name] = parameter.detach().cpu().clone().contiguous()
    if main:
        persistent = engine.module.state_dict().keys()
        weights |= {n: b.detach().cpu().clone() for n, b in engine.module.named_buffers() if n in persistent}
    return weights


def save_weights(weights: dict[str, Tensor], file: Path, about: dict[str, Any]) -> None:
    """Writes whole weights as safetensors, with `about` in the header; only rank 0 calls it."""
    with new_file(file) as temporary:
        save_file(weights, temporary, {name: json.dumps(value) for name, value in about.items()})


def load_weights(model: nn.Module, file: Path, label_space: str) -> dict[str, Any]:
    """Loads whole weights into a model and returns what was saved about them.

    Raises:
        ValueError: no such file, or weights of another label space.
    """
    if not file.is_file():
        raise ValueError(f"there are no weights at {file}: the run has not finished an epoch.")
    with safe_open(file, framework="pt") as stored:
        about = {name: json.loads(value) for name, value in (stored.metadata() or {}).items()}
        weights = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    if about.get("label_space") != label_space:
        raise ValueError(f"{file} belongs to another label space ({about.get('label_space')}, not {label_space}).")
    model.load_state_dict(weights)
    return about
