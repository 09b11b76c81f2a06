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

from undertow.maths.losses.averaged import ORPO, SimPO
from undertow.maths.losses.base import PairLoss
from undertow.maths.losses.calibration import RewardCalibrated
from undertow.maths.losses.gpo import GPO, GPO_FUNCTIONS
from undertow.maths.losses.hinge import RRHF, HingeRef, SLiC, SLiCHF
from undertow.maths.losses.logistic import DPO, RDPO, ConservativeDPO
from undertow.maths.losses.logps import Logps
from undertow.maths.losses.registry import by_name, names, parameters, register
from undertow.maths.losses.regularised import CPO, RPO, BoNBoN
from undertow.maths.losses.separate import DPOP, SPPO, CalDPO, DPOShift, KTOPair, kto_z
from undertow.maths.losses.squared import IPO, REBEL, AveragedIPO

__all__ = [
    "CPO",
    "DPO",
    "DPOP",
    "GPO",
    "GPO_FUNCTIONS",
    "IPO",
    "ORPO",
    "RDPO",
    "REBEL",
    "RPO",
    "RRHF",
    "SPPO",
    "AveragedIPO",
    "BoNBoN",
    "CalDPO",
    "ConservativeDPO",
    "DPOShift",
    "HingeRef",
    "KTOPair",
    "Logps",
    "PairLoss",
    "RewardCalibrated",
    "SLiC",
    "SLiCHF",
    "SimPO",
    "by_name",
    "kto_z",
    "names",
    "parameters",
    "register",
]
