"""The implementations that are compared: fastlt, the authors' way, eager and compiled torch, and peers' kernels.

An implementation takes the inputs of a case and the labels, and returns the mean loss. Peers compute plain
cross-entropy, without prior and neighbors.

Shapes: B samples, D features, C classes.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.harness.timing import Unavailable
from bench.inputs.label_spaces import Case
from fastlt.kernels import (
    NeighborSilencingLoss,
    linear_neighbor_silencing_loss,
    log_prior,
    neighbor_silencing_loss,
)

LAMBDA = 0.1
MASK_LIMIT = {"cpu": 8 * 10**9, "cuda": 40 * 10**9}  # bytes of the authors' two masks beyond which they are not built
SLICED_LIMIT = {"cpu": 2**24, "cuda": 2**30}  # bytes of logits from which fastlt-sliced is tried; its `memory_limit`
GRAPHED_LIMIT = 2**29  # bytes of logits up to which a call is so short that launching it may take longer
FREE_SHARE = 0.6  # of the GPU's free memory, what whole logits may take
IN_FORWARD = "computes its gradient in forward"
Loss = Callable[..., Tensor]


@dataclass(frozen=True)
class Implementation:
    """A way to compute the loss of a case.

    Attributes:
        loss: (*inputs, labels) -> mean loss.
        objective: "silenced", "plain" (cross-entropy) or "prior" (balanced softmax); equal ones must agree.
        note: what a reader of its times must know.
        has_forward: whether it has a forward pass without the gradient, which can be timed alone.
    """

    loss: Loss
    objective: str = "silenced"
    note: str = ""
    has_forward: bool = True


def names(case: Case, quick: bool) -> list[str]:
    """What is compared on this case, fastlt first."""
    gpu = case.device.type == "cuda"
    graphed = gpu and case.logits_bytes <= GRAPHED_LIMIT
    if case.linear:
        ours = ["fastlt"] + ["fastlt-sliced"] * (case.logits_bytes >= SLICED_LIMIT[case.device.type])
        ours += ["fastlt-graphed"] * graphed
        peers = ["torch-linear", "liger", "cce"]
    else:
        ours = ["fastlt", "fastlt-inplace"] + ["fastlt-unsilenced"] * gpu + ["fastlt-graphed"] * graphed
        peers = ["liger"]
    return [*ours, "authors", "eager", *([] if quick else ["compiled"]), *peers]


def build(name: str, case: Case) -> Implementation:
    """The implementation of that name. Raises Unavailable."""
    return (_LINEAR if case.linear and name in _LINEAR else _ANY)[name](case)


def plain_loss(case: Case) -> Tensor:
    """Cross-entropy, what the peers must give."""
    return neighbor_silencing_loss(case.logits(), case.labels, case.table, lambda_s=1.0)


def _fastlt(case: Case) -> Implementation:
    return Implementation(NeighborSilencingLoss(case.table, case.counts, lambda_s=LAMBDA))


def _fastlt_inplace(case: Case) -> Implementation:
    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        return neighbor_silencing_loss(logits, labels, case.table, case.counts, lambda_s=LAMBDA, inplace=True)

    return Implementation(loss, note="the gradient takes the place of the logits")


def _fastlt_unsilenced(case: Case) -> Implementation:
    return Implementation(NeighborSilencingLoss(case.table, case.counts, lambda_s=1.0), "prior")


def _fastlt_linear(case: Case) -> Implementation:
    needed = case.logits_bytes
    if case.device.type == "cuda" and needed > FREE_SHARE * torch.cuda.mem_get_info(case.device)[0]:
        raise Unavailable(f"logits of {needed / 1e9:.0f} GB take more than {FREE_SHARE:.0%} of the free memory")
    return _linear(case, needed)


def _fastlt_sliced(case: Case) -> Implementation:
    return _linear(case, min(SLICED_LIMIT[case.device.type], case.logits_bytes // 2))  # two slices at least


def _linear(case: Case, memory_limit: int) -> Implementation:
    def loss(features: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
        return linear_neighbor_silencing_loss(
            features, weight, labels, case.table, case.counts, lambda_s=LAMBDA, memory_limit=memory_limit
        )

    return Implementation(loss, note=f"memory_limit={memory_limit}")


def _fastlt_graphed(case: Case) -> Implementation:
    """`fastlt` as CUDA graphs, one a pass: what is left of it where the host's time is none."""
    sample = (*(torch.empty_like(t, requires_grad=True) for t in case.inputs), case.labels)
    try:
        graphed = torch.cuda.make_graphed_callables(build("fastlt", case).loss, sample)
    except RuntimeError as error:
        raise Unavailable(f"cannot be captured: {str(error).splitlines()[0]}") from None
    note = "CUDA graphs, which copy their inputs to where they were captured"
    return Implementation(graphed, note=note, has_forward=False)  # it is captured with the gradient in it


def _authors(case: Case) -> Implementation:
    """Two dense C x C float64 masks, rows of which are gathered at every call; the loss is computed in float64."""
    limits, table, bias = MASK_LIMIT, case.table, log_prior(case.counts)
    needed = 2 * 8 * table.num_classes**2
    held = f"holds two C x C masks, {needed / 1e9:.1f} GB, which no peak here counts"
    # Beyond what a CPU machine holds but not a large GPU, rows gathered before the clock starts stand in for the masks.
    gathered = limits["cpu"] < needed <= limits["cuda"] and case.device.type == "cpu"
    if needed > limits[case.device.type] and not gathered:
        raise Unavailable(f"its two C x C float64 masks would take {needed / 1e9:.0f} GB")
    every = torch.arange(table.num_classes, device=case.device)
    silenced = table.silenced(case.labels if gathered else every)  # [B, C] or [C, C]
    keep, fade = (~silenced).double(), silenced.double() * math.log(LAMBDA)
    del silenced

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        kept, faded = (keep, fade) if gathered else (keep[labels], fade[labels])  # [B, C]
        scores = logits + bias
        masked = scores * kept + (scores + faded) * (1 - kept)  # float64
        return F.cross_entropy(masked, labels)

    note = "faster than it is: rows of the C x C masks are gathered outside of the timed region" if gathered else held
    return Implementation(_of_logits(loss, case), note=note)


def _eager(case: Case) -> Implementation:
    return Implementation(_of_logits(_eager_loss(case), case))


def _compiled(case: Case) -> Implementation:
    torch.compiler.reset()  # or cases would add up to the limit of recompilations
    return Implementation(torch.compile(_of_logits(_eager_loss(case), case), dynamic=False))


def _eager_loss(case: Case) -> Loss:
    """Plain torch in float32 that reads the sparse table."""
    table, bias, log_lambda = case.table, log_prior(case.counts), math.log(LAMBDA)

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        starts, ends = table.indptr[labels], table.indptr[labels + 1]
        rows = torch.repeat_interleave(ends - starts)  # [pairs of the batch]
        place = torch.arange(len(rows), device=rows.device) - ((ends - starts).cumsum(0) - (ends - starts))[rows]
        log_weight = torch.zeros(logits.shape, device=logits.device)
        log_weight[rows, table.indices[starts[rows] + place]] = log_lambda
        scores = logits.float() + bias  # [B, C]
        return ((scores + log_weight).logsumexp(1) - scores.gather(1, labels[:, None])[:, 0]).mean()

    return loss


def _torch_linear(case: Case) -> Implementation:
    if not hasattr(torch.nn, "LinearCrossEntropyOptions"):
        raise Unavailable(f"torch {torch.__version__} has no chunked linear_cross_entropy")
    options = torch.nn.LinearCrossEntropyOptions()

    def loss(features: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
        return F.linear_cross_entropy(features, weight, labels, options=options)

    return Implementation(loss, "plain", note=IN_FORWARD)


def _liger(case: Case) -> Implementation:
    _need("liger_kernel", "liger-kernel", case)
    from liger_kernel.transformers.functional import liger_cross_entropy

    return Implementation(liger_cross_entropy, "plain", note=f"{IN_FORWARD}, over the logits")


def _liger_linear(case: Case) -> Implementation:
    _need("liger_kernel", "liger-kernel", case)
    from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy

    return Implementation(liger_fused_linear_cross_entropy, "plain", note=IN_FORWARD)


def _cce(case: Case) -> Implementation:
    _need("cut_cross_entropy", "cut-cross-entropy", case)
    from cut_cross_entropy import linear_cross_entropy

    return Implementation(linear_cross_entropy, "plain", note="skips gradients below its filter_eps, its default")


def _need(module: str, package: str, case: Case) -> None:
    if case.device.type != "cuda":
        raise Unavailable("needs a GPU")
    if importlib.util.find_spec(module) is None:
        raise Unavailable(f"{package} is not installed: pip install -e .[bench]")


def _of_logits(loss: Loss, case: Case) -> Loss:
    """The same loss of the case's inputs."""
    if not case.linear:
        return loss

    def linear_loss(features: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
        return loss(F.linear(features, weight), labels)

    return linear_loss


_ANY: dict[str, Callable[[Case], Implementation]] = {
    "fastlt": _fastlt,
    "fastlt-inplace": _fastlt_inplace,
    "fastlt-unsilenced": _fastlt_unsilenced,
    "fastlt-graphed": _fastlt_graphed,
    "authors": _authors,
    "eager": _eager,
    "compiled": _compiled,
    "liger": _liger,
}
_LINEAR: dict[str, Callable[[Case], Implementation]] = {
    "fastlt": _fastlt_linear,
    "fastlt-sliced": _fastlt_sliced,
    "torch-linear": _torch_linear,
    "liger": _liger_linear,
    "cce": _cce,
}
EVERY = _ANY.keys() | _LINEAR.keys()
