"""Which implementation computes the loss: what is installed, what a device and a type allow, and where it lives."""

from __future__ import annotations

import importlib.util
from types import ModuleType

import torch

# Compilers of kernels that can be imported; both are optional.
INSTALLED = {name for name in ("numba", "triton") if importlib.util.find_spec(name)}


def resolve(impl: str, device: torch.device, dtype: torch.dtype) -> str:
    """The implementation that `impl` stands for: "auto" is the fused one of the device where it takes the dtype.

    Raises:
        ValueError: there is no such implementation, or it does not compute in this dtype.
    """
    if impl == "auto":
        if device.type == "cpu":
            return "cpu" if dtype in (torch.float32, torch.bfloat16) and "numba" in INSTALLED else "reference"
        fits = device.type == "cuda" and dtype != torch.float64 and "triton" in INSTALLED
        return "triton" if fits else "reference"
    if impl not in ("triton", "cpu", "reference"):
        raise ValueError(f"impl must be 'auto', 'triton', 'cpu' or 'reference', got {impl!r}.")
    if impl != "reference" and dtype == torch.float64:
        raise ValueError("the fused loss computes in float32: use impl='reference' for float64.")
    if impl == "cpu" and dtype == torch.float16:
        raise ValueError("impl='cpu' takes float32 and bfloat16: use impl='reference' for float16.")
    return impl


def passes(impl: str, device: torch.device) -> ModuleType:
    """The module that computes the two passes of `rows.py`: `accumulate`, `loss_of`, `gradient`, `loss_and_gradient`.

    Raises:
        ValueError: it cannot run here.
    """
    if impl == "cpu":
        if device.type != "cpu":
            raise ValueError(f"impl='cpu' needs tensors on the CPU, these are on {device}.")
        if "numba" not in INSTALLED:
            raise ValueError("impl='cpu' needs numba, which is not installed: use impl='reference'.")
        from . import numba_rows

        return numba_rows
    if "triton" not in INSTALLED:
        raise ValueError("impl='triton' needs Triton, which is not installed: use impl='reference'.")
    from . import triton_rows

    triton_rows.check_device(device)
    return triton_rows
