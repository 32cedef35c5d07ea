"""The neighbor-silencing loss: its definition, the table of silenced classes, the kernels, the head."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .head import NeighborSilencingHead, NeighborSilencingLoss
    from .loss import linear_neighbor_silencing_loss, log_prior, neighbor_silencing_loss
    from .neighbor_table import NeighborTable

__all__ = [
    "NeighborSilencingHead",
    "NeighborSilencingLoss",
    "NeighborTable",
    "linear_neighbor_silencing_loss",
    "log_prior",
    "neighbor_silencing_loss",
]
_MODULES = {"NeighborSilencingHead": "head", "NeighborSilencingLoss": "head", "NeighborTable": "neighbor_table"}


def __getattr__(name: str) -> Any:
    """Imports what is asked for: a recipe is checked by `options.py` alone, without waiting for torch."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULES.get(name, 'loss')}", __name__), name)
