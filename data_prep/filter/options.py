"""What filter is told: which encoder sees the images, and which of them are kept."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Literal

from tyro.conf import arg

from fastlt.options import Flag, OptionalFile, OptionalFolder, OptionalInt, OptionalText, OptionError

Threshold = Annotated[float | Literal["auto"], arg(metavar="FLOAT|auto")]
PRESETS = {"dinov2": (0.7, 0.98)}  # gamma1 and gamma2, as published for an encoder


@dataclass(frozen=True)
class EncoderOptions:
    """What sees the images: the backbone of a run, or a timm model."""

    run: OptionalFolder = None
    """Embed with the backbone of this fastlt run."""
    model: OptionalText = None
    """Embed with this timm model, for example vit_base_patch14_dinov2."""
    weights: OptionalFile = None
    """Weights of --model, from a local file."""
    pretrained: Flag = False
    """Weights of --model, from timm's hub."""
    image_size: OptionalInt = None
    """Side of the images for --model, in pixels (default: the model's own)."""

    def __post_init__(self) -> None:
        if (self.run is None) == (self.model is None):
            raise OptionError("say what sees the images: --run RUN or --model NAME, one of the two.")
        if self.model and self.weights and self.pretrained:
            raise OptionError("--weights and --pretrained are two answers to one question: give one of them.")
        if self.model and not (self.weights or self.pretrained):
            raise OptionError("--model needs --weights FILE or --pretrained: features of random weights mean nothing.")
        if self.run and (self.weights or self.pretrained or self.image_size):
            raise OptionError("--run brings its own weights and image size: leave out the options of --model.")


@dataclass(frozen=True)
class FilterOptions:
    """What is kept."""

    gamma1: Threshold = "auto"
    """Keep images whose similarity to a target they neighbor is above this; auto keeps those that more likely show
    their category than stand under a wrong label, as is found from the images."""
    gamma2: Threshold = "auto"
    """Keep images whose similarity is below this; auto is 0.98, or more where training images are as near to their
    class."""
    duplicate: float = 0.95
    """Cosine from which an image repeats a validation or test image."""
    hash_radius: int = 8
    """Bits in which the perceptual hashes of an image that repeats one may differ, mirrored or not."""
    preset: Annotated[Literal["dinov2"] | None, arg(metavar="dinov2", help_behavior_hint="")] = None
    """The paper's thresholds, --gamma1 0.7 --gamma2 0.98, which are for DINOv2."""
    neighbors: int = 2
    """Targets that become neighbors of a category that has none by discover: those nearest to its kept images."""
    batch_size: int = 128
    """Images embedded at once."""
    workers: OptionalInt = None
    """Processes that read images (default: one for each core); 0 reads them in this one."""

    def __post_init__(self) -> None:
        if self.gamma1 != "auto" and self.gamma2 != "auto" and not self.gamma1 < self.gamma2:
            raise OptionError(
                f"--gamma1 {self.gamma1} must be below --gamma2 {self.gamma2}: nothing lies between them."
            )
        if not 0 < self.duplicate <= 1:
            raise OptionError(f"--duplicate {self.duplicate} must be a cosine above 0, at most 1: 1 finds copies only.")
        if self.neighbors < 0:
            raise OptionError(f"--neighbors is {self.neighbors}; give a number of targets, 0 for none.")
        if self.batch_size < 1:
            raise OptionError(f"--batch-size is {self.batch_size}; give at least 1.")
        if self.workers is not None and self.workers < 0:
            raise OptionError(f"--workers is {self.workers}; give a number of processes, or leave it out.")

    def with_preset(self) -> FilterOptions:
        """The same, where the preset's thresholds stand in the place of auto."""
        if self.preset is None:
            return self
        gamma1, gamma2 = PRESETS[self.preset]
        return replace(
            self,
            preset=None,
            gamma1=gamma1 if self.gamma1 == "auto" else self.gamma1,
            gamma2=gamma2 if self.gamma2 == "auto" else self.gamma2,
        )
