"""Which way log-probabilities move (Theorems 4 to 9), from tensors: see :mod:`undertow.maths.flow`."""

from undertow.maths.flow import *  # noqa: F403
from undertow.maths.flow import __all__ as __all__
