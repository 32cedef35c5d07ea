"""Which images show the category that they stand under, by nothing but the labels themselves.

An encoder that tells categories apart at all agrees with most labels; how sharply it tells them apart, and how many
labels are wrong, are the two numbers under which the labels as they are become likeliest. So nothing has to be given,
and the same rule fits every encoder.

Shapes: N images, A categories (of a single one: with all T targets), D features.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fastlt.data_prep.filter.similarity import Space, blocks_of

_MOST = 1 << 26  # cosines at once: 256 MiB
_MOST_FITTED = 50_000  # images; two numbers need no more
_ROUNDS, _GRID = 4, 9  # of the search for the sharpness
_STEPS = 100  # of expectation-maximization
_SEED = 0  # of the images that are fitted


@dataclass(frozen=True)
class Labels:
    """What the labels are worth.

    Attributes:
        right: probability that an image shows its category; 1 where its category has no other image. float32 [N].
        other: the likeliest class besides its own, int64 [N]: a position among the categories, or A + that of a target.
        cosine: to the prototype of `other`, float32 [N].
        wrong_share: how many labels are wrong, as estimated.
        judged: whether there was anything to judge labels by.
    """

    right: np.ndarray
    other: np.ndarray
    cosine: np.ndarray
    wrong_share: float
    judged: bool = True


def judge_labels(space: Space, rows: np.ndarray, categories: np.ndarray) -> Labels:
    """Judges every label by all others.

    An image with cosines c to the prototypes (means of images, without itself) is of category k with probability
    p_k = softmax(s c)_k, and stands under another one, drawn at random, with probability e: its label has the
    likelihood (1 - e) p_label + e (1 - p_label) / (A - 1). Sharpness s and share e are those of maximum likelihood.

    Args:
        space: has the features.
        rows: of the images in it, int64 [N].
        categories: position of each image's category, int64 [N]; every category has an image.
    """
    own = torch.from_numpy(categories).to(space.device)
    sums = space.sums(rows, categories, int(categories.max()) + 1)
    prototypes = F.normalize(sums)
    if len(sums) == 1:  # nothing else to mistake its images for
        prototypes = torch.cat([prototypes, space.prototypes])
    judged = np.bincount(categories)[categories] > 1
    right, other, cosine = (
        np.ones(len(rows), np.float32),
        np.empty(len(rows), np.int64),
        np.empty(len(rows), np.float32),
    )

    def cosines_of(part: np.ndarray) -> tuple[Tensor, Tensor]:
        """Of images [n] to the prototypes, without themselves: to their own [n, 1], and to all [n, A]."""
        features, mine = space(rows[part]), own[part][:, None]
        alone = F.normalize(sums[mine[:, 0]] - features)
        mine_alone = (alone * features).sum(1, keepdim=True)
        return mine_alone, (features @ prototypes.T).scatter_(1, mine, mine_alone)

    most = _MOST // len(prototypes)
    fitted = np.flatnonzero(judged)
    if not len(fitted):
        return Labels(right, other, cosine, 0.0, judged=False)
    if len(fitted) > min(most, _MOST_FITTED):
        fitted = np.random.default_rng(_SEED).choice(fitted, min(most, _MOST_FITTED), replace=False)
    sharpness, wrong = _likeliest(*cosines_of(fitted))
    for part in blocks_of(np.arange(len(rows)), most):
        mine, cosines = cosines_of(part)
        right[part] = _right(_own_share(mine, cosines, sharpness), wrong, len(prototypes)).cpu()
        best, at = cosines.scatter(1, own[part][:, None], -torch.inf).max(1)
        other[part], cosine[part] = at.cpu(), best.cpu()
    right[~judged] = 1
    return Labels(right, other, cosine, float(1 - right[judged].mean()))


def _likeliest(own: Tensor, cosines: Tensor) -> tuple[float, float]:
    """The sharpness and the share of wrong labels under which the labels are likeliest.

    Args:
        own: cosines to the prototypes of the labels, [n, 1].
        cosines: to all, [n, A].
    """
    unit = 1 / float(cosines.std(1).mean().clamp(min=1e-6))  # what "sharp" means depends on the encoder
    low, high = np.log(0.1 * unit), np.log(100 * unit)
    for _ in range(_ROUNDS):
        tried = np.linspace(low, high, _GRID)
        found = [_share(_own_share(own, cosines, float(np.exp(at))), cosines.shape[1]) for at in tried]
        best = int(np.argmax([likelihood for likelihood, _ in found]))
        low, high = tried[max(0, best - 1)], tried[min(best + 1, _GRID - 1)]
    return float(np.exp(tried[best])), found[best][1]


def _share(own_share: Tensor, num_classes: int) -> tuple[float, float]:
    """The log-likelihood of the labels, and the share of wrong ones that makes it largest."""
    wrong = 0.2
    for _ in range(_STEPS):
        wrong = 1 - float(_right(own_share, wrong, num_classes).mean())
    likelihood = (1 - wrong) * own_share + wrong * (1 - own_share) / (num_classes - 1)
    return float(likelihood.clamp(min=1e-30).log().mean()), wrong


def _own_share(own: Tensor, cosines: Tensor, sharpness: float) -> Tensor:
    """softmax(sharpness x cosines) of the own class, [n]."""
    return (sharpness * own[:, 0] - torch.logsumexp(sharpness * cosines, 1)).exp()


def _right(own_share: Tensor, wrong: float, num_classes: int) -> Tensor:
    """The probability that a label is right, [n], when a share of them is wrong."""
    right = (1 - wrong) * own_share
    return right / (right + wrong * (1 - own_share) / (num_classes - 1)).clamp(min=1e-30)
