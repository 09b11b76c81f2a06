"""CHES and the similarities it is compared with, from tensors: see :mod:`undertow.maths.similarity`."""

from undertow.maths.similarity import (
    ches,
    ches_matrix,
    edit_distance,
    hidden_sum,
    last_hidden_ip,
    ln_ches,
    ln_ches_matrix,
)

__all__ = ["ches", "ches_matrix", "edit_distance", "hidden_sum", "last_hidden_ip", "ln_ches", "ln_ches_matrix"]
