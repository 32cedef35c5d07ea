"""The classifier with its rows split over the ranks of a process group, for more classes than one device holds.

Every rank computes the logits of its own classes for the samples of all ranks. Besides the features, what is sent
grows with the samples and not with the classes: one all-reduce of maxima and one of sums.

Shapes: B samples of a rank, n ranks, D features, C classes, K classes of a rank, L labels a sample.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard
from torch.nn import functional as F

from . import implementations
from . import loss as front
from .head import NeighborSilencingLoss
from .neighbor_table import NeighborTable
from .operators import weight_slices
from .options import MEMORY_LIMIT, Implementation
from .rows import (
    CENTER_BIAS,
    CENTER_LOGIT,
    LABEL_LOGIT,
    MASS,
    OUTSIDE_SUM,
    TOTAL,
    Rows,
    finish,
)
from .silenced_mass import silenced_mass

Group = dist.ProcessGroup | None
_DRAWN_TOGETHER = 1024


class ShardedNeighborSilencingHead(nn.Module):
    """`NeighborSilencingHead` of which this rank holds ceil(C / n) rows; the last ranks may hold fewer, or none.

    Losses and gradients are those of a whole head under data parallelism that averages gradients over the ranks:
    features get the gradient of this rank's loss, and the rows held here that of the average of all ranks' losses.
    So the backbone's gradients are to be averaged over the ranks as usual, and those of this module left alone.
    All ranks bring equally many samples; a short batch can be filled with rows labeled `ignore_index`.

    Args:
        in_features: D.
        table, class_counts: of all C classes; of the table only the neighbors among the rank's classes are kept.
        tau, lambda_s, label_smoothing, impl, memory_limit: see `NeighborSilencingHead`; the limit is that of a rank.
        group: the ranks; default all.
        seed: the rows' first values follow from it and from the class alone, on any number of ranks.

    Attributes:
        measures_silenced: see `NeighborSilencingHead`; the same on all ranks.

    Raises:
        ValueError: impl="reference", which cannot take a part of the classes.
    """

    measures_silenced = False
    silenced: tuple[Tensor, Tensor] | None = None

    def __init__(
        self,
        in_features: int,
        table: NeighborTable,
        class_counts: Tensor | None = None,
        tau: float = 1.0,
        lambda_s: float = 0.1,
        label_smoothing: float = 0.0,
        impl: Implementation = "auto",
        memory_limit: int | None = None,
        group: Group = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if impl == "reference":
            raise ValueError("impl='reference' takes all classes at once: a sharded head needs 'triton' or 'cpu'.")
        # None stands for the default group, which neither this nor a loss's graph may hold: where it outlives
        # `destroy_process_group`, its threads may drop a tensor while Python exits, and that aborts the process.
        self.group = group
        rank, ranks = dist.get_rank(self.group), dist.get_world_size(self.group)
        size = -(-table.num_classes // ranks)  # as torch.chunk, which is what DTensor expects of a shard
        self.first_class = min(rank * size, table.num_classes)
        self.num_classes, held = table.num_classes, min(size, table.num_classes - self.first_class)
        local = table.restricted(self.first_class, self.first_class + held)
        self.loss = NeighborSilencingLoss(local, class_counts, tau, lambda_s, label_smoothing, impl=impl)
        self.memory_limit = MEMORY_LIMIT if memory_limit is None else memory_limit
        self.weight = nn.Parameter(torch.empty(held, in_features))
        self.bias = nn.Parameter(torch.zeros(held))
        self._draw_weight(seed)

    def forward(
        self,
        features: Tensor,
        labels: Tensor,
        mixed_labels: Tensor | None = None,
        mixed_weight: Tensor | float | None = None,
    ) -> Tensor:
        """Mean loss (scalar) of this rank's features [B, D] with labels [B] in 0..C-1; every rank calls it."""
        device = features.device.type
        if torch.is_autocast_enabled(device):
            features = features.to(torch.get_autocast_dtype(device))
        objective = self.loss.objective
        if self.measures_silenced:
            self.silenced = silenced_mass(
                lambda y, other: self._losses(features.detach(), y[None], None, other),
                objective, labels, mixed_labels, mixed_weight,
            )  # fmt: skip
        shape = (len(features), self.num_classes)
        stacked, weights = front.stack_labels(labels, mixed_labels, mixed_weight, objective, shape)  # [L, B]
        return front.reduce_rows(self._losses(features, stacked, weights, objective), stacked, objective)

    def _losses(self, features: Tensor, stacked: Tensor, weights: Tensor | None, objective: front.Objective) -> Tensor:
        """Losses [B] of this rank's features [B, D] with labels and their weights [L, B]; every rank calls it."""
        impl = implementations.resolve(self.loss.impl, features.device, features.dtype)
        if impl == "reference":
            raise ValueError(f"a sharded head cannot compute in {features.dtype} on {features.device}.")
        all_labels = _gather(stacked, self.group)
        all_weights = None if weights is None else _gather(weights, self.group)
        rows = Rows(*front.row_arguments(all_labels, all_weights, objective, impl)[:-1])
        passes = _Passes(rows, impl, self.group, self.first_class, self.memory_limit)
        return _ShardedLoss.apply(features, self.weight, self.bias, passes)

    @torch.no_grad()
    def _draw_weight(self, seed: int) -> None:
        """Truncated normal as in a whole head, a generator for every 1,024 classes."""
        end = self.first_class + len(self.weight)
        for first in range(self.first_class // _DRAWN_TOGETHER * _DRAWN_TOGETHER, end, _DRAWN_TOGETHER):
            generator = torch.Generator().manual_seed(seed * 2**32 + first)
            rows = torch.empty(_DRAWN_TOGETHER, self.weight.shape[1])
            nn.init.trunc_normal_(rows, std=0.02, generator=generator)
            a, b = max(first, self.first_class), min(first + _DRAWN_TOGETHER, end)
            self.weight[a - self.first_class : b - self.first_class] = rows[a - first : b - first]

    @torch.no_grad()
    def gathered(self) -> tuple[Tensor, Tensor]:
        """(weight [C, D], bias [C]) of all ranks, on each; for evaluation and export."""
        size = -(-self.num_classes // dist.get_world_size(self.group))
        padded = (F.pad(p, [0, 0] * (p.ndim - 1) + [0, size - len(p)]) for p in (self.weight, self.bias))
        weight, bias = (_gather(part, self.group, dim=0)[: self.num_classes] for part in padded)
        return weight, bias

    def part_of_whole(self, local: Tensor) -> DTensor:
        """A tensor whose rows are those of the classes held here, as a part of one with a row for every class.

        It shares the memory of `local`; `torch.distributed.checkpoint` saves it and loads it on any number of ranks.
        It holds the group: drop it before `destroy_process_group`, or the process may abort as Python exits.
        """
        group = self.group or dist.distributed_c10d._get_default_group()
        mesh = DeviceMesh.from_group(group, local.device.type)
        shape = torch.Size([self.num_classes, *local.shape[1:]])
        stride = torch.empty(shape, device="meta").stride()
        return DTensor.from_local(local.detach(), mesh, [Shard(0)], run_check=False, shape=shape, stride=stride)


class _Passes:
    """The two passes of one step over this rank's classes."""

    def __init__(self, rows: Rows, impl: str, group: Group, first_class: int, memory_limit: int) -> None:
        self.rows, self.impl, self.group = rows, impl, group
        self.first_class, self.memory_limit = first_class, memory_limit

    def slices(self, features: Tensor, weight: Tensor, bias: Tensor):
        """(first class, weight, logits [nB, S]) of all slices of this rank's classes."""
        size = front.slice_size(features, weight, self.memory_limit)
        for first, part, logits in weight_slices(features, weight, bias, size):
            yield self.first_class + first, part, logits

    def loss(self, features: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """(loss [nB], saved for this rank's classes [L, 5, nB], their logits if one slice) of features [nB, D]."""
        state, logits = self.rows.new_state(), None
        for first, part, logits in self.slices(features, weight, bias):
            implementations.passes(self.impl, logits.device).accumulate(logits, first, self.rows, state)
            logits = logits if len(part) == len(weight) else None
        mine = state.double()
        center = mine[:, CENTER_LOGIT] + mine[:, CENTER_BIAS]  # [L, nB]
        top = center.clone()
        dist.all_reduce(top, dist.ReduceOp.MAX, group=self.group)
        mass = mine[:, MASS] * (center - top).exp()
        sums = torch.stack([mass, mine[:, LABEL_LOGIT], mine[:, OUTSIDE_SUM], self.rows.num_listed().double()])
        dist.all_reduce(sums, group=self.group)
        whole = torch.zeros_like(mine)
        whole[:, CENTER_LOGIT] = top
        whole[:, MASS], whole[:, LABEL_LOGIT], whole[:, OUTSIDE_SUM] = sums[:3]
        loss, saved = finish(whole, self.rows, num_listed=sums[3])
        # Relative to the largest class held here, so that differences to it are as exact as in a whole head; a total
        # too large for float32 then stands for classes that hold nothing.
        held = mine[:, MASS] > 0
        saved[:, TOTAL] *= (saved[:, CENTER_LOGIT] + saved[:, CENTER_BIAS] - center).exp().where(held, 1.0)
        for part in (CENTER_LOGIT, CENTER_BIAS):
            saved[:, part] = mine[:, part].where(held, saved[:, part])
        return loss.float(), saved.float(), logits


class _ShardedLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, bias: Tensor, passes: _Passes) -> Tensor:
        everyone = _gather(features, passes.group, dim=0)  # [nB, D]
        loss, saved, ctx.logits = passes.loss(everyone, weight, bias)
        ctx.save_for_backward(everyone, weight, bias, saved)
        ctx.passes = passes
        return loss[_mine(features, passes.group)].clone()

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
        features, weight, bias, saved = ctx.saved_tensors
        passes: _Passes = ctx.passes
        ranks = dist.get_world_size(passes.group)
        upstream = _gather(grad_loss.contiguous(), passes.group, dim=0)  # [nB]
        grad_features = torch.zeros_like(features, dtype=torch.float32)
        grad_weight, grad_bias = torch.empty_like(weight), torch.empty_like(bias)
        slices = passes.slices(features, weight, bias)
        if ctx.logits is not None:  # the gradient takes their place; a second backward computes them again
            slices, ctx.logits = [(passes.first_class, weight.to(features.dtype), ctx.logits)], None
        for first, part, logits in slices:
            implementations.passes(passes.impl, logits.device).gradient(
                logits, first, passes.rows, saved, upstream, logits
            )
            here = slice(first - passes.first_class, first - passes.first_class + len(part))
            grad_features += logits @ part
            grad_weight[here] = (logits.t() @ features) / ranks
            grad_bias[here] = logits.sum(dim=0, dtype=torch.float32) / ranks
        mine = grad_features.new_empty(len(grad_loss), features.shape[1])  # [B, D]
        dist.reduce_scatter_tensor(mine, grad_features, group=passes.group)
        return mine.to(features.dtype), grad_weight, grad_bias, None


def _gather(tensor: Tensor, group: Group, dim: int = 1) -> Tensor:
    """The tensors of all ranks, one after the other along `dim`."""
    parts = [torch.empty_like(tensor) for _ in range(dist.get_world_size(group))]
    dist.all_gather(parts, tensor.contiguous(), group=group)
    return torch.cat(parts, dim=dim)


def _mine(samples: Tensor, group: Group) -> slice:
    """Where this rank's samples stand among those of all ranks."""
    start = dist.get_rank(group) * len(samples)
    return slice(start, start + len(samples))
