"""Total probability mass under a tilt, from tensors: see :mod:`undertow.maths.tilt`."""

from undertow.maths.tilt import *  # noqa: F403
from undertow.maths.tilt import __all__ as __all__
