"""What a user may choose about the loss; known without importing torch."""

from __future__ import annotations

from typing import Literal

Implementation = Literal["auto", "triton", "cpu", "reference"]
"""triton: a GPU; cpu: numba; reference: plain torch; auto: the fused one of the device where it takes the dtype."""
MEMORY_LIMIT = 2**30
"""Bytes of logits up to which they are kept; larger ones are computed twice, in slices of classes."""
