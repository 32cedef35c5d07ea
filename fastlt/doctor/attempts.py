"""What is tried of fastlt, on inputs as small as they get: `python attempts.py NAME FOLDER`, each in its own process.

An attempt prints a line about what worked; what it raises, or dies of, is for `doctor.py` to tell.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # a script's own folder is first on the path, where our modules would shadow others
    sys.path[0] = str(Path(__file__).resolve().parent.parent.parent)

PIXELS, IMAGES = 32, 8


def devices(folder: Path) -> str:
    """torch, and the GPUs that it sees."""
    import torch

    if not torch.cuda.is_available():
        return f"torch {torch.__version__} sees no GPU"
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    float(torch.ones(8, device="cuda").sum())
    return f"{', '.join(names)}; CUDA {torch.version.cuda}"


def loss_on_cpu(folder: Path) -> str:
    """The numba kernels, against the definition."""
    return _loss("cpu", "cpu")


def loss_on_gpu(folder: Path) -> str:
    """The Triton kernels, against the definition."""
    return _loss("triton", "cuda")


def _loss(impl: Any, device: str) -> str:
    import torch

    from fastlt.kernels import NeighborTable, neighbor_silencing_loss

    table = NeighborTable.from_pairs(num_classes=5, pairs=[(0, 3), (1, 3), (2, 4)]).to(torch.device(device))
    torch.manual_seed(0)
    labels = torch.tensor([0, 3, 2], device=device)
    given = torch.randn(3, 5, device=device)
    found = []
    for name in (impl, "reference"):
        logits = given.clone().requires_grad_()
        loss = neighbor_silencing_loss(logits, labels, table, impl=name)
        loss.backward()
        found.append((loss.detach(), logits.grad))
    for mine, right in zip(*found, strict=True):
        torch.testing.assert_close(mine, right, rtol=1e-4, atol=1e-5)
    return "loss and gradient equal the definition's"


def ffcv(folder: Path) -> str:
    """The ffcv loader."""
    from fastlt.loaders.ffcv import jpeg

    said = _read(folder / "ffcv", "ffcv")
    return said if not jpeg.MISSING else f"{said}; without its C part ({jpeg.MISSING}), {jpeg.GET_IT}"


def plain(folder: Path) -> str:
    """The plain loader, with a worker process."""
    return _read(folder / "plain", "plain")


def dali(folder: Path) -> str:
    """DALI's loader."""
    return _read(folder / "webdataset", "dali")


def _read(data: Path, backend: Any) -> str:
    import numpy as np

    from fastlt.dataset.encoded import EncodedDataset
    from fastlt.loaders.readers import open_reader
    from fastlt.loaders.transform import Transform

    reader = open_reader(EncodedDataset.open(data), "train", Transform(PIXELS, train=True), IMAGES, 1, backend)
    images = next(iter(reader.batches([np.arange(IMAGES, dtype=np.uint64)])))
    if tuple(images.shape) != (IMAGES, 3, PIXELS, PIXELS) or float(images.float().std()) < 1:
        raise ValueError(f"it read {tuple(images.shape)} with a deviation of {float(images.float().std()):.1f}")
    return f"{IMAGES} images read and augmented"


def compile(folder: Path) -> str:
    """torch.compile, which engine.compile asks for."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    given = torch.randn(8, device=device)
    torch.testing.assert_close(torch.compile(lambda x: (x * 2).sin())(given), (given * 2).sin())
    return "a function compiled"


ATTEMPTS: dict[str, Callable[[Path], str]] = {
    f.__name__: f for f in (devices, loss_on_cpu, loss_on_gpu, ffcv, plain, dali, compile)
}

if __name__ == "__main__":
    print(ATTEMPTS[sys.argv[1]](Path(sys.argv[2])))
