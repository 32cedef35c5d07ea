"""Checkpoints: the parts of a run and its position, published by rename when every rank's part is on the disk."""

from __future__ import annotations

import json
import pickle
import shutil
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import torch.distributed as dist
from safetensors import SafetensorError

from fastlt.atomic import empty_folder, full_disk_told, publish_folder
from fastlt.foreign import load_json
from fastlt.ownership import stranger
from fastlt.run_folder import RunFolder
from fastlt.training.pickles import require_harmless

_PROGRESS = "progress.json"
_VERSION = 3


class Part(Protocol):
    """Anything with a state; both methods are called by all ranks, in the same order of parts."""

    def save(self, folder: Path) -> None:
        """Writes the state into a checkpoint's folder."""
        ...

    def load(self, folder: Path) -> None:
        """Reads it.

        Raises:
            ValueError: the checkpoint does not fit.
        """
        ...


@dataclass(frozen=True)
class Progress:
    """Where a run stands.

    Attributes:
        step: optimizer steps done.
        batch_size: images of each of them.
        best: best validation accuracy so far, and its epoch.
        data: digest of the images that were encoded.
        label_space: digest of the classes the weights belong to.
        world_size, zero_stage: what the optimizer state is split for.
        shard_classes: whether the head's rows were.
    """

    step: int
    batch_size: int
    best: dict[str, float]
    label_space: str
    data: str
    world_size: int
    zero_stage: int
    shard_classes: bool
    version: int = _VERSION

    def require_fit(self, now: Progress, checkpoint: Path) -> None:
        """Checks that a run as it is now can go on from here.

        Raises:
            ValueError: other classes, another batch size, ZeRO stage or kind of head.
        """
        if self.label_space != now.label_space:
            raise ValueError(
                f"{checkpoint} belongs to another label space: resume with the data set and data.auxiliary of its run."
            )
        if self.batch_size != now.batch_size:
            raise ValueError(
                f"{checkpoint} was written with optimizer.batch_size={self.batch_size}, not {now.batch_size}: resume "
                "with the same one."
            )
        if self.zero_stage != now.zero_stage:
            raise ValueError(
                f"{checkpoint} was written with engine.zero_stage={self.zero_stage}, not {now.zero_stage}: "
                "resume with the same stage."
            )
        if self.shard_classes != now.shard_classes:
            was = str(self.shard_classes).lower()
            raise ValueError(f"{checkpoint} was written with engine.shard_classes={was}: set it so to resume.")


def newest_whole(run: RunFolder) -> tuple[Path | None, list[str]]:
    """The newest checkpoint whose files are as they were written, and a line about each damaged one after it.

    Called by all ranks. Damaged ones are set aside under another name, as their steps will be saved again; where none
    is whole, all stay as they are.

    Raises:
        ValueError: none is whole, or it was written by another version of fastlt.
    """
    damaged: dict[Path, str] = {}
    for checkpoint in reversed(run.all_checkpoints()):
        damage = _damage(checkpoint)
        if not damage:
            return checkpoint, [_set_aside(other, why) for other, why in damaged.items()]
        damaged[checkpoint] = damage
    if damaged:
        why = "; ".join(f"{checkpoint.name}: {damage}" for checkpoint, damage in damaged.items())
        raise ValueError(f"no checkpoint of {run.path} is whole ({why}): remove them to start over.")
    return None, []


def _set_aside(checkpoint: Path, damage: str) -> str:
    """Renames a damaged checkpoint; what to say of it."""
    aside = checkpoint.with_name(f"damaged-{checkpoint.name}")
    dist.barrier()
    if dist.get_rank() == 0:
        shutil.rmtree(aside, ignore_errors=True)
        checkpoint.rename(aside)
    dist.barrier()
    return f"warning: {checkpoint} is damaged ({damage}); it is now {aside.name}, and may be removed"


def _damage(checkpoint: Path) -> str:
    """What is wrong with the files of a checkpoint, or ""; every rank reads a part of them."""
    try:
        fields = load_json(checkpoint / _PROGRESS)
        is_ours = fields["version"] == _VERSION
        written: dict[str, list[int]] = dict(fields["files"]) if is_ours else {}
        if is_ours:
            read_progress(checkpoint)
    except FileNotFoundError:
        return f"it has no {_PROGRESS}"
    except OSError as error:
        return f"{_PROGRESS} cannot be read: {error.strerror}"
    except (ValueError, TypeError, KeyError):
        return f"{_PROGRESS} is not as it was written"
    if not is_ours:
        raise ValueError(f"{checkpoint} was written by another version of fastlt: finish this run with that one.")
    found = _checksums(checkpoint)
    for name, checksum in written.items():
        if name not in found:
            return f"{name} is missing"
        if found[name] != checksum:
            return f"{name} is not as it was written"
    return ""


def _checksums(folder: Path) -> dict[str, list[int]]:
    """{file: [bytes, CRC-32]}; called by all ranks, each of which reads a part of them."""
    names = [str(path.relative_to(folder)) for path in sorted(folder.rglob("*")) if path.is_file()]
    listed = [[name for name in names if name != _PROGRESS]]
    dist.broadcast_object_list(listed, 0)
    parts: list[dict[str, list[int]]] = [{}] * dist.get_world_size()
    mine = listed[0][dist.get_rank() :: dist.get_world_size()]
    dist.all_gather_object(parts, {name: _checksum(folder / name) for name in mine})
    return {name: checksum for part in parts for name, checksum in part.items()}


def _checksum(file: Path) -> list[int]:
    size = checksum = 0
    with file.open("rb") as stream:
        while block := stream.read(2**22):
            size, checksum = size + len(block), zlib.crc32(block, checksum)
    return [size, checksum]


def whose(run: RunFolder, checkpoint: Path) -> list[str]:
    """A warning where somebody else owns what is gone on with."""
    for path in (run.path, checkpoint, *sorted(checkpoint.rglob("*"))):
        if owner := stranger(path):
            return [
                f"warning: {path} belongs to {owner}, not to you. Nothing that it names is executed, but the weights, "
                "and all that this run learns from them, are as that user wants them."
            ]
    return []


def read_progress(checkpoint: Path) -> Progress:
    """Progress of a whole checkpoint, without loading its weights."""
    fields = load_json(checkpoint / _PROGRESS)
    del fields["files"]
    return Progress(**fields)


def save(run: RunFolder, progress: Progress, keep: int, parts: Sequence[Part]) -> None:
    """Writes a checkpoint; called by all ranks. It gets its name only when every rank's part is on the disk."""
    final = run.checkpoint(progress.step)
    if final.exists():  # saved a moment ago, for another reason
        return
    temporary = final.with_name(f".{final.name}.partial")
    main = dist.get_rank() == 0
    if main:
        empty_folder(temporary)
    dist.barrier()
    with full_disk_told(final):
        for part in parts:
            part.save(temporary)
    dist.barrier()
    files = _checksums(temporary)
    if main:
        (temporary / _PROGRESS).write_text(json.dumps(asdict(progress) | {"files": files}))
        publish_folder(temporary, final)
        for old in run.all_checkpoints()[:-keep]:
            shutil.rmtree(old)
    dist.barrier()


def restore(checkpoint: Path, now: Progress, parts: Sequence[Part]) -> Progress:
    """Loads every part from a checkpoint; called by all ranks. Returns where the run stood.

    Args:
        checkpoint: its folder.
        now: the run that is to go on.
        parts: as they were saved.

    Raises:
        ValueError: the checkpoint is damaged, does not fit, or would have something executed.
    """
    progress = read_progress(checkpoint)
    progress.require_fit(now, checkpoint)
    require_harmless(checkpoint)
    for part in parts:
        try:
            part.load(checkpoint)
        except (OSError, EOFError, RuntimeError, pickle.UnpicklingError, SafetensorError) as error:
            raise ValueError(_damaged(checkpoint, error)) from error
    return progress


def _damaged(checkpoint: Path, error: Exception) -> str:
    reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".:")
    return (
        f"{checkpoint} cannot be loaded ({reason}): if it is damaged, remove it, and --resume takes the one before it."
    )
