"""The two passes over logits, slice of classes by slice, on whatever computes them: what every fused path is made of.

Pass one, `accumulate`, keeps of each row and label a `state`; `finish` makes loss and `saved` of it; pass two,
`gradient`, needs nothing else. A slice is all classes (logits at once), some (`operators.py`) or a rank's (`sharded`).

Shapes: B samples, C classes, S classes of a slice, L labels a sample (2 for mixup and cutmix, else 1).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# Rows of the state, float32 [L, 5, B]: the largest class so far other than the label, as logit and bias; the mass of
# all others relative to it; the label's logit; the sum of logit + bias over the classes that are not silenced.
CENTER_LOGIT, CENTER_BIAS, MASS, LABEL_LOGIT, OUTSIDE_SUM = range(5)
STATE_ROWS = 5
# Rows of saved, float32 [L, 5, B]: center as above, or the label where that is larger; the whole mass relative to
# it; the probability of all classes but the label; how many classes are not silenced (with smoothing, else 0).
TOTAL = 2
SAVED_ROWS = 5
# Stands for the center of nothing, to base e or 2: finite, so that differences to it are no NaN, and below every logit.
LOWEST = -2e38


@dataclass(frozen=True)
class Rows:
    """What the rows of a batch are judged by; all tensors on one device.

    Attributes:
        stacked_labels: int64 [L, B], contiguous; a row counts nothing when one of them is `ignore_index`.
        weights: float32 [L, B], the share of each label in the loss; None when L is 1.
        indptr, indices, strengths, auxiliary_start: the silenced sets, see `NeighborTable`.
        logit_bias: tau * log prior, float32 [C], or None.
        log_lambda: log of the weight of silenced classes, -inf for 0; 0 silences nobody.
        smoothing: label smoothing, in [0, 1).
        ignore_index: see `stacked_labels`.
    """

    stacked_labels: Tensor
    weights: Tensor | None
    indptr: Tensor
    indices: Tensor
    strengths: Tensor | None
    auxiliary_start: int
    logit_bias: Tensor | None
    log_lambda: float
    smoothing: float
    ignore_index: int

    @property
    def num_classes(self) -> int:
        return len(self.indptr) - 1

    @property
    def silences(self) -> bool:
        return self.log_lambda != 0.0

    def counted(self) -> Tensor:
        """Rows that count, bool [B]."""
        return (self.stacked_labels != self.ignore_index).all(dim=0)

    def new_state(self) -> Tensor:
        """State of rows of which no class was seen, float32 [L, 5, B]."""
        L, B = self.stacked_labels.shape
        state = torch.zeros(L, STATE_ROWS, B, device=self.stacked_labels.device)
        state[:, CENTER_LOGIT] = LOWEST
        return state

    def num_listed(self) -> Tensor:
        """Neighbors that the table lists for each label: int64 [L, B]."""
        known = self.stacked_labels.clamp(0, self.num_classes - 1)
        listed = self.indptr[known + 1] - self.indptr[known]
        return listed if self.silences else torch.zeros_like(listed)

    def num_outside(self, num_listed: Tensor) -> Tensor:
        """Classes that are not silenced for each label, the label included: int64 [L, B]."""
        in_interval = (self.stacked_labels >= self.auxiliary_start) & self.silences
        inside = self.num_classes - self.auxiliary_start - 1
        return self.num_classes - num_listed - torch.where(in_interval, inside, 0)


def finish(state: Tensor, rows: Rows, num_listed: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """(loss [B], saved [L, 5, B]) of rows all of whose classes were seen; `num_listed` where the table lacks some.

    Both are float64: on B numbers that costs nothing, and states of several ranks may lie far apart.
    """
    state = state.double()
    center = state[:, CENTER_LOGIT] + state[:, CENTER_BIAS]  # [L, B]
    bias = torch.zeros_like(center)
    if rows.logit_bias is not None:
        bias = rows.logit_bias[rows.stacked_labels.clamp(0, rows.num_classes - 1)].double()
    label, mass = state[:, LABEL_LOGIT] + bias, state[:, MASS]
    # The log of all other mass over the label's; where there is none and the label has none either, NaN.
    rest = (center - label + mass.log()).masked_fill(mass == 0, -torch.inf)
    rest = rest.masked_fill((mass == 0) & (label <= LOWEST), torch.nan)
    loss = torch.logaddexp(rest, torch.zeros_like(rest))
    outside = torch.zeros_like(center)
    if rows.smoothing > 0:
        outside = rows.num_outside(rows.num_listed() if num_listed is None else num_listed).double()
        loss = loss - rows.smoothing * (state[:, OUTSIDE_SUM] / outside - label)
    loss = loss.masked_fill((rows.stacked_labels < 0) | (rows.stacked_labels >= rows.num_classes), torch.nan)
    loss = loss[0] if rows.weights is None else (loss * rows.weights).sum(dim=0)
    leads = rest < 0
    saved = (
        state[:, LABEL_LOGIT].where(leads, state[:, CENTER_LOGIT]),
        bias.where(leads, state[:, CENTER_BIAS]),
        torch.where(leads, 1 + rest.exp(), mass + (label - center).exp()),
        rest.sigmoid(),
        outside,
    )
    return loss.masked_fill(~rows.counted(), 0), torch.stack(saved, dim=1)
