"""The neighbor-silencing loss: its definition, the table of silenced classes, the kernels, the head."""

from .head import NeighborSilencingHead
from .loss import log_prior, neighbor_silencing_loss
from .neighbor_table import NeighborTable

__all__ = ["NeighborSilencingHead", "NeighborTable", "log_prior", "neighbor_silencing_loss"]
