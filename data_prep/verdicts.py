"""What may be said of a crawled image, and how thresholds say it: filter judges by them, review tries others.

N is a number of images in shapes.
"""

from __future__ import annotations

import numpy as np

KEPT = "kept"
BROKEN, TOO_FAR, TOO_NEAR, LIKE_ANOTHER = "broken", "too far", "too near", "looks like another category"
NEAR_DUPLICATE = "near-duplicate of a {} image"
JUDGED = ("", TOO_FAR, TOO_NEAR, LIKE_ANOTHER)
"""The reasons that thresholds and labels give; no threshold changes another one."""
BANNED_SQL = "image.reason LIKE 'near-duplicate of a %' OR image.reason = 'broken'"
"""`is_banned` of the column `image.reason`."""


def is_banned(reason: str) -> bool:
    """Whether an image of that reason stays out whatever a person decides: a repeat of a held-out image, or broken."""
    return reason.startswith(NEAR_DUPLICATE.partition("{")[0]) or reason == BROKEN


def by_thresholds(similarity: np.ndarray, gamma1: float, gamma2: float, unlike: np.ndarray | None = None) -> np.ndarray:
    """Why each image is dropped, "" of kept ones; object [N].

    Args:
        similarity: to the nearest prototype, [N].
        gamma1, gamma2: between which an image is kept.
        unlike: which look like another category, bool [N]: asked in the place of gamma1.
    """
    reasons = np.full(len(similarity), "", object)
    if unlike is None:
        reasons[similarity <= gamma1] = TOO_FAR
    else:
        reasons[unlike] = LIKE_ANOTHER
    reasons[similarity >= gamma2] = TOO_NEAR
    return reasons


def are_kept(reasons: np.ndarray, ids: np.ndarray, by_hand: dict[int, str]) -> np.ndarray:
    """Which images stay, bool [N], when what people decided wins over reasons, but for those that ban an image.

    Args:
        reasons: object [N].
        ids: of the images, int64 [N], ascending.
        by_hand: {id: "keep" or "drop"}.
    """
    kept = reasons == ""
    decided = np.array(list(by_hand), np.int64)
    places = np.minimum(np.searchsorted(ids, decided), max(len(ids) - 1, 0))
    for image, at in zip(decided.tolist(), places.tolist(), strict=True):
        if len(ids) and ids[at] == image:
            kept[at] = by_hand[image] == "keep" and not is_banned(reasons[at])
    return kept
