"""How tilting by a reward moves probability mass between the parts of a mixture (Huang 2024, *Characterizing output
distribution shift*), corrected where the source is wrong.

- :func:`tilted_mixture`: the exact optimum and the total probability mass of the aligned part, for finite supports.
- :func:`tilt_conditions`: the exact condition for that mass to grow, the published one, and those that suffice.
- :func:`estimate_mass`: the same mass from samples of a real model, with intervals and a verdict on the estimate.
- :func:`log_amplification`, :func:`policy_log_amplification`, :func:`implied_reward`: one response.
- :func:`combine_logits`: next-token distributions between and beyond two models.
"""

from undertow.maths.tilt.conditions import TiltConditions, tilt_conditions
from undertow.maths.tilt.logits import combine_logits
from undertow.maths.tilt.mixture import (
    TiltedMixture,
    implied_reward,
    log_amplification,
    policy_log_amplification,
    tilted_mixture,
)
from undertow.maths.tilt.samples import MassEstimate, estimate_mass

__all__ = [
    "MassEstimate",
    "TiltConditions",
    "TiltedMixture",
    "combine_logits",
    "estimate_mass",
    "implied_reward",
    "log_amplification",
    "policy_log_amplification",
    "tilt_conditions",
    "tilted_mixture",
]
