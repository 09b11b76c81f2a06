"""Preference losses and their weights, from tensors: see :mod:`undertow.maths.losses`."""

from undertow.maths.losses import *  # noqa: F403
from undertow.maths.losses import __all__ as __all__
