"""The definition of the neighbor-silencing loss in plain torch; every other path is judged by it.

Shapes: B samples, C classes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .neighbor_table import NeighborTable


def reference_loss(
    logits: Tensor,
    labels: Tensor,
    table: NeighborTable,
    logit_bias: Tensor | None,
    lambda_s: float,
    label_smoothing: float,
) -> Tensor:
    """Per-sample loss [B]; arXiv 2410.15980, the balanced softmax with weighted neighbors.

    With s = z + logit_bias and w_j = lambda_s ** strength on N(y), 1 elsewhere, L = -s_y + log sum_j w_j exp(s_j).
    It is computed as softplus(log sum_{j != y} w_j exp(s_j - s_y)), which keeps full relative
    precision when the loss is tiny and never subtracts the neighbors' mass from a total.

    Args:
        logits: [B, C] of any float dtype; float64 stays, all others are computed in float32.
        labels: int64 [B], each in 0..C-1, or -1 where the row does not count: its loss has no meaning.
        table: silenced sets; without strengths, each is 1.
        logit_bias: tau * log prior, [C], or None.
        lambda_s: weight of the silenced classes, in [0, 1].
        label_smoothing: mass spread evenly over the classes outside N(y), y included.
    """
    counted = labels >= 0
    labels = labels.clamp_min(0)
    logits = logits.where(counted[:, None], 0)  # a NaN times a gradient of 0 would still be NaN
    z = logits if logits.dtype == torch.float64 else logits.float()
    margins = z - z.gather(1, labels[:, None])  # [B, C], s_j - s_y
    if logit_bias is not None:
        margins = margins + (logit_bias - logit_bias[labels][:, None]).to(z.dtype)
    strength = table.strength(labels).to(z.dtype)  # [B, C]
    silenced = strength > 0
    # A finite stand-in for log(0): a row of nothing but zeros must give 0, and NaN must show.
    zero = torch.finfo(z.dtype).min / 4
    log_weight = torch.tensor(lambda_s, dtype=z.dtype, device=z.device).log()
    log_weight = (strength * log_weight).clamp_min(zero)
    weighted = torch.where(silenced, margins + log_weight, margins)
    rest = weighted.scatter(1, labels[:, None], zero).logsumexp(dim=1)  # [B]
    loss = torch.logaddexp(rest, torch.zeros_like(rest))
    if label_smoothing > 0:
        outside = margins.masked_fill(silenced, 0.0).sum(dim=1)  # [B]
        loss = loss - label_smoothing * outside / (~silenced).sum(dim=1)
    return loss
