"""What filter is asked to keep."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class FilterOptions:
    """What is kept.

    Attributes:
        gamma1, gamma2: an image stays if gamma1 < similarity < gamma2; gamma1 None finds it from `wrong_share`.
        duplicate: cosine from which an image is a near-duplicate; always of features as they are, never centered.
        hash_radius: Hamming distance of perceptual hashes up to which it is one as well, mirrored or not.
        center: take the targets' mean off all features: those of small networks all point the same way otherwise.
        own_category: drop images that resemble another category more than their own, by a margin from `wrong_share`.
        wrong_share: how many images under a wrong name may pass a threshold that is found.
        batch_size: images embedded at once.
        workers: processes that read images; None takes all cores.
    """

    gamma1: float | None = 0.7
    gamma2: float = 0.98
    duplicate: float = 0.95
    hash_radius: int = 8
    center: bool = False
    own_category: bool = False
    wrong_share: float = 0.2
    batch_size: int = 128
    workers: int | None = None

    def __post_init__(self) -> None:
        if self.gamma1 is not None and not self.gamma1 < self.gamma2:
            raise ValueError(f"--gamma1 {self.gamma1} must be below --gamma2 {self.gamma2}: nothing lies between them.")
        if not 0 < self.duplicate <= 1:
            raise ValueError(f"--duplicate {self.duplicate} must be a cosine above 0, at most 1: 1 finds copies only.")
        if not 0 < self.wrong_share < 1:
            raise ValueError(f"--wrong-share {self.wrong_share} must lie between 0 and 1.")
