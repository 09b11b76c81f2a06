"""When does tilting by a reward raise the aligned mass? What is true, and what Theorem 2 of Huang 2024 assumes.

The theorem as printed infers it from ``corr(r, p_A) > 0 > corr(r, p_U)``, uniform over the outcomes. That is not
enough: a monotone map of the reward, ``e^{r/β}``, need not keep the sign of a correlation, and one unaligned answer
that the reward likes best wins when the tilt is strong (theory 6.2 has the numbers). So each condition is reported by
itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from undertow.maths.tilt.mixture import tilts

__all__ = ["TiltConditions", "tilt_conditions"]

ROUNDING = 1e-12
"""Relative: tail masses this close count as equal, which can change ``E_A/E_U`` by no more, at any beta."""


@dataclass(frozen=True, slots=True, eq=False)
class TiltConditions:
    """Conditions on ``(r, p_A, p_U, β)`` for ``TPM(A) ≥ α``; none depends on α. Each ``[...]``.

    ``log_ratio``: ``ln E_A − ln E_U = logit TPM(A) − logit α``. ``mass_grows``: it is not negative, the exact condition
    (necessary and sufficient). ``reward_correlations``, ``[..., 2]``: of ``r`` with ``p_A`` and ``p_U``, uniform over
    the support, NaN where one of them is constant; ``theorem_2``: the hypotheses as printed, first positive, second
    negative, **not** sufficient. ``tilt_correlations`` and ``corrected``: the same with ``e^{r/β}`` in place of ``r``,
    sufficient. ``dominates``: ``p_A`` stochastically dominates ``p_U`` in ``r``, sufficient for every beta.
    ``logit_bound``: ``R/β ≥ |log_ratio|``.
    """

    log_ratio: Tensor
    mass_grows: Tensor
    reward_correlations: Tensor
    theorem_2: Tensor
    tilt_correlations: Tensor
    corrected: Tensor
    dominates: Tensor
    logit_bound: Tensor


@torch.no_grad()
def tilt_conditions(
    reward: Tensor, log_aligned: Tensor, log_unaligned: Tensor, *, beta: Tensor | float
) -> TiltConditions:
    """Evaluates every condition of theory 6.2; arguments as in :func:`~undertow.maths.tilt.mixture.tilted_mixture`."""
    tilt, log_a, log_u, bound = tilts(reward, log_aligned, log_unaligned, beta)
    support = torch.maximum(log_a, log_u) > -torch.inf
    # A common factor changes no correlation, so the largest weight may be 1: no overflow.
    peak = torch.where(support, tilt, -torch.inf).amax(-1, keepdim=True)
    weights = torch.where(support, (tilt - peak).exp(), 0.0)
    p_a, p_u = log_a.exp(), log_u.exp()
    of_reward = torch.stack([_correlation(tilt, p, support) for p in (p_a, p_u)], dim=-1)
    of_tilt = torch.stack([_correlation(weights, p, support) for p in (p_a, p_u)], dim=-1)
    log_ratio = (log_a + tilt).logsumexp(-1) - (log_u + tilt).logsumexp(-1)
    return TiltConditions(
        log_ratio=log_ratio,
        mass_grows=log_ratio >= -ROUNDING,
        reward_correlations=of_reward,
        theorem_2=(of_reward[..., 0] > 0) & (of_reward[..., 1] < 0),
        tilt_correlations=of_tilt,
        corrected=(of_tilt[..., 0] > 0) & (of_tilt[..., 1] < 0),
        dominates=_dominates(tilt, p_a, p_u),
        logit_bound=bound,
    )


def _correlation(x: Tensor, y: Tensor, support: Tensor) -> Tensor:
    """Pearson's, uniform over the support; NaN where one of the two does not vary beyond rounding."""
    count = support.sum(-1, keepdim=True)

    def centred(values: Tensor) -> Tensor:
        mean = torch.where(support, values, 0.0).sum(-1, keepdim=True) / count
        return torch.where(support, values - mean, 0.0)

    a, b = centred(x), centred(y)
    varies = [c.square().sum(-1).sqrt() > ROUNDING * v.abs().amax(-1) for c, v in ((a, x), (b, y))]
    found = (a * b).sum(-1) / (a.square().sum(-1) * b.square().sum(-1)).sqrt()
    return torch.where(varies[0] & varies[1], found, torch.nan)


def _dominates(reward: Tensor, p_a: Tensor, p_u: Tensor) -> Tensor:
    """``P_A(r ≥ t) ≥ P_U(r ≥ t)`` for every t, to rounding."""
    ordered, order = reward.sort(dim=-1, descending=True)
    tail_a, tail_u = (p.gather(-1, order).cumsum(-1) for p in (p_a, p_u))
    # Outcomes with one reward enter together; below the lowest reward both tails are 1.
    complete = ordered[..., :-1] > ordered[..., 1:]
    holds = tail_a[..., :-1] >= tail_u[..., :-1] * (1 - ROUNDING)
    return (holds | ~complete).all(-1)
