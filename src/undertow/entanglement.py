"""First-order changes, cases and the disentanglement band, from tensors: see :mod:`undertow.maths.entanglement`."""

from undertow.maths.entanglement import *  # noqa: F403
from undertow.maths.entanglement import __all__ as __all__
