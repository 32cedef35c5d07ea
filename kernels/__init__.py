"""The neighbor-silencing loss: its definition, the table of silenced classes, the kernels, the head."""

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
