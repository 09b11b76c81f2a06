"""Total probability mass under a tilt, from tensors: see :mod:`undertow.maths.tilt`."""

from undertow.maths.tilt import (
    MassEstimate,
    TiltConditions,
    TiltedMixture,
    combine_logits,
    estimate_mass,
    implied_reward,
    log_amplification,
    policy_log_amplification,
    tilt_conditions,
    tilted_mixture,
)

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
