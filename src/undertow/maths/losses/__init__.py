"""Preference losses as small immutable objects: a value per pair, and the exact weights ``d_w`` and ``d_l``.

    loss = DPO(beta=0.1)
    loss(logps)            # [pairs], gradients flow
    loss.weights(logps)    # (d_w, d_l), each [pairs]

``d_w = −∂ℓ/∂a`` and ``d_l = +∂ℓ/∂b``, in the summed log-probabilities ``a`` of the chosen and ``b`` of the rejected
response: one step of descent moves the parameters along ``d_w ∇a − d_l ∇b``, so that everything first-order needs only
these two numbers (:mod:`undertow.maths.entanglement`). Throughout, ``r⁺ = a − a_ref``, ``r⁻ = b − b_ref``,
``Δ = r⁺ − r⁻``, ``M = a − b``; ``n±`` are lengths in tokens. Where Yuan et al. 2024 (arXiv 2410.13828, Table 2) prints
another formula for one of these losses, theirs is a slip: signs, the reference terms and β were set right here.
"""

from undertow.maths.losses import averaged, gpo, hinge, logistic, regularised, separate, squared
from undertow.maths.losses.averaged import *  # noqa: F403
from undertow.maths.losses.base import PairLoss
from undertow.maths.losses.calibration import RewardCalibrated
from undertow.maths.losses.gpo import *  # noqa: F403
from undertow.maths.losses.hinge import *  # noqa: F403
from undertow.maths.losses.logistic import *  # noqa: F403
from undertow.maths.losses.logps import Logps
from undertow.maths.losses.registry import by_name, name_of, names, parameters, register
from undertow.maths.losses.regularised import *  # noqa: F403
from undertow.maths.losses.separate import *  # noqa: F403
from undertow.maths.losses.squared import *  # noqa: F403
from undertow.maths.losses.wrapped import TokenWeighted

__all__ = [
    "Logps",
    "PairLoss",
    "RewardCalibrated",
    "TokenWeighted",
    "by_name",
    "name_of",
    "names",
    "parameters",
    "register",
]
# What a family's module exports is exported here.
__all__ += averaged.__all__
__all__ += gpo.__all__
__all__ += hinge.__all__
__all__ += logistic.__all__
__all__ += regularised.__all__
__all__ += separate.__all__
__all__ += squared.__all__
