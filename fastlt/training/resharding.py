"""What ZeRO split over some ranks, read by another number of them.

DeepSpeed itself goes on with as many ranks as wrote a checkpoint. Here each rank takes from the files of all those what
it holds now, and gives it to DeepSpeed as if it had written that itself. Nothing is written: the files are mapped, and
of them only what a rank needs is read.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from torch import Tensor

_PART = "zero_pp_rank_{}_mp_rank_00_{}_states.pt"
# What DeepSpeed calls a rank's flat weights, and the state of torch's optimizer, under ZeRO-3 and below it.
_WEIGHTS = {True: "fp32_flat_groups", False: "single_partition_of_fp32_groups"}
_OPTIMIZER = {True: "optimizer_state_dict", False: "base_optimizer_state"}

Held = list[dict[str, tuple[int, int]]]
"""What a rank holds: for each of its flat tensors {parameter: (where it starts there, values)}."""


@dataclass(frozen=True)
class _Piece:
    """Values of a parameter from `offset` on, which lie from `start` on in a flat tensor of a rank."""

    rank: int
    flat: int
    start: int
    numel: int
    offset: int


def ranks_that_wrote(checkpoint: Path) -> int:
    """Over how many ranks ZeRO had split what lies here; 0 where it had not."""
    return len(list(checkpoint.glob(_PART.format("*", "optim"))))


def load_resharded(engine: deepspeed.DeepSpeedEngine, checkpoint: Path) -> None:
    """Loads weights, buffers and optimizer state; called by all ranks.

    Raises:
        ValueError: the optimizer state has a form that only as many ranks can read, or is that of another model.
    """
    ranks = ranks_that_wrote(checkpoint)
    try:
        _load(engine, checkpoint, ranks)
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{checkpoint} holds optimizer state of {ranks} ranks in a form that only as many can read, as settings in "
            f"engine.deepspeed or another version of DeepSpeed wrote it ({error!r}): resume on {ranks} ranks."
        ) from error


def _load(engine: deepspeed.DeepSpeedEngine, checkpoint: Path, ranks: int) -> None:
    partitioned = engine.zero_optimization_stage() == 3
    parts = [_mapped(checkpoint, rank, "optim")["optimizer_state_dict"] for rank in range(ranks)]
    if partitioned:
        shapes = _mapped(checkpoint, 0, "model")["param_shapes"]
        before = [_held_of_shapes(shapes, rank, ranks) for rank in range(ranks)]
        engine.optimizer.checkpoint_event_prologue()  # weights that are whole everywhere become parts
        _load_optimizer(engine, parts, before, checkpoint)
        _load_unsplit(engine, checkpoint, ranks)
        engine.optimizer.checkpoint_event_epilogue()
    else:
        before = [_plain(part["param_slice_mappings"]) for part in parts]
        engine.load_checkpoint(str(checkpoint.parent), tag=checkpoint.name, load_optimizer_states=False)
        _load_optimizer(engine, parts, before, checkpoint)


def part_of(parts: Sequence[Tensor], numel: int) -> Tensor:
    """This rank's part of a parameter of so many values, of the parts of all ranks that wrote it.

    Each of n ranks has ceil(numel / n) values, the last ones with padding, here zeros.
    """
    ranks, size = dist.get_world_size(), len(parts[0])
    held = math.ceil(numel / ranks)
    first = dist.get_rank() * held
    mine = parts[0].new_zeros(held)
    for i, part in enumerate(parts):
        begin, end = max(first, i * size), min(first + held, (i + 1) * size, numel)
        if begin < end:
            mine[begin - first : end - first] = part[begin - i * size : end - i * size]
    return mine


def _mapped(checkpoint: Path, rank: int, kind: str) -> dict[str, Any]:
    return torch.load(checkpoint / _PART.format(rank, kind), map_location="cpu", mmap=True)


def _plain(mappings: Sequence[dict[str, Any]]) -> Held:
    return [{name: (place.start, place.numel) for name, place in names.items()} for names in mappings]


def _held_of_shapes(shapes: Sequence[dict[str, torch.Size]], rank: int, ranks: int) -> Held:
    """What ZeRO-3 gives a rank of parameters with these shapes, in the order of its flat tensors."""
    held: Held = []
    for names in shapes:
        start, flat = 0, {}
        for name, shape in names.items():
            size = math.ceil(shape.numel() / ranks)
            flat[name] = start, max(0, min(size, shape.numel() - rank * size))
            start += size
        held.append(flat)
    return held


def _pieces(held: Sequence[Held]) -> dict[str, list[_Piece]]:
    """Where each parameter lies, of what all ranks hold; ranks have its values one after the other."""
    pieces: dict[str, list[_Piece]] = defaultdict(list)
    for rank, flats in enumerate(held):
        for flat, names in enumerate(flats):
            for name, (start, numel) in names.items():
                last = pieces[name][-1] if name in pieces else _Piece(0, 0, 0, 0, 0)
                pieces[name].append(_Piece(rank, flat, start, numel, last.offset + last.numel))
    return pieces


def _sizes(pieces: dict[str, list[_Piece]]) -> dict[str, int]:
    return {name: sum(piece.numel for piece in of) for name, of in pieces.items()}


def _load_unsplit(engine: deepspeed.DeepSpeedEngine, checkpoint: Path, ranks: int) -> None:
    """What ZeRO-3's optimizer does not hold: buffers, frozen weights, the count of steps."""
    models = [_mapped(checkpoint, rank, "model") for rank in range(ranks)]
    buffers, parameters = dict(engine.module.named_buffers()), dict(engine.module.named_parameters())
    with torch.no_grad():
        for name in models[0]["buffer_names"]:
            buffers[name].copy_(models[0]["module"][name])
        for name in models[0]["frozen_param_fragments"] or ():
            parameter = parameters[name]
            frozen = [model["frozen_param_fragments"][name] for model in models]
            parameter.ds_tensor.copy_(part_of(frozen, parameter.ds_numel))
    engine.global_steps, engine.skipped_steps = models[0]["global_steps"], models[0]["skipped_steps"]
    engine.global_samples = models[0]["global_samples"]


def _load_optimizer(
    engine: deepspeed.DeepSpeedEngine, parts: Sequence[dict[str, Any]], before: Sequence[Held], checkpoint: Path
) -> None:
    """Weights and optimizer state of what is trained.

    Args:
        engine: whose optimizer has it split as it is to be.
        parts: what each rank's optimizer wrote.
        before: what each of them held.
        checkpoint: where that lies.

    Raises:
        ValueError: it is that of other parameters.
    """
    partitioned = engine.zero_optimization_stage() == 3
    weights, optimizer = _WEIGHTS[partitioned], _OPTIMIZER[partitioned]
    rank, ranks, mine = dist.get_rank(), dist.get_world_size(), engine.optimizer.state_dict()
    if partitioned:
        now = [_held_of_shapes(engine._get_zero_param_shapes(), r, ranks) for r in range(ranks)]
        flats = engine.optimizer.fp32_partitioned_groups_flat
    else:
        now = [[] for _ in range(ranks)]
        dist.all_gather_object(now, _plain(mine["param_slice_mappings"]))
        flats = engine.optimizer.single_partition_of_fp32_groups
    theirs, ours = _pieces(before), _pieces(now)
    if _sizes(theirs) != _sizes(ours):
        raise ValueError(f"{checkpoint} holds other weights than this model trains: resume with the model of its run.")

    def filled(flat: int, read: Callable[[_Piece], Tensor]) -> Tensor:
        """A flat tensor of this rank, of those in which the pieces of its parameters were."""
        made = torch.zeros_like(flats[flat], device="cpu")
        for name in now[rank][flat]:
            for piece in ours[name]:
                if piece.rank == rank:
                    _copy(made, piece, theirs[name], read)
        return made

    def reader_of(key: str) -> Callable[[_Piece], Tensor]:
        return lambda piece: parts[piece.rank][optimizer]["state"][piece.flat][key]

    state: dict[int, dict[str, Any]] = {}
    for flat in range(len(flats)):
        name = next(name for held in now for name in held[flat])  # of this rank itself there may be padding alone
        first = theirs[name][0]
        saved = parts[first.rank][optimizer]["state"].get(first.flat)
        if saved is not None:
            state[flat] = {
                key: filled(flat, reader_of(key))
                if isinstance(value, Tensor) and value.ndim  # the count of steps is whole
                else value
                for key, value in saved.items()
            }
    groups = parts[0][optimizer]["param_groups"], mine[optimizer]["param_groups"]
    mine[weights] = [filled(flat, lambda piece: parts[piece.rank][weights][piece.flat]) for flat in range(len(flats))]
    mine[optimizer] = {
        "state": state,
        "param_groups": [was | {"params": group["params"]} for was, group in zip(*groups, strict=True)],
    }
    engine.optimizer.load_state_dict([mine] * ranks)


def _copy(into: Tensor, piece: _Piece, sources: Sequence[_Piece], read: Callable[[_Piece], Tensor]) -> None:
    """Fills a piece of a flat tensor from the pieces of the same parameter elsewhere."""
    for source in sources:
        begin = max(piece.offset, source.offset)
        end = min(piece.offset + piece.numel, source.offset + source.numel)
        if begin < end:
            there = source.start + begin - source.offset
            here = piece.start + begin - piece.offset
            into[here : here + end - begin] = read(source)[there : there + end - begin]
