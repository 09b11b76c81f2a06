"""What tilting by a reward does to a mixture, exactly, for finitely many outcomes (Huang 2024; theory 6.1).

The maximiser of ``E_p[r] − β KL(p‖p_ref)`` is ``p*(y) = p_ref(y)e^{r(y)/β}/Z``. With ``p_ref = α p_A + (1 − α) p_U`` it
is again a mixture of the aligned and the unaligned part, ``p* = α_A(y) p_A(y) + α_U(y) p_U(y)`` (Lemma 1), and the
total probability mass that ends on the aligned part is ``TPM(A) = αE_A/(αE_A + (1−α)E_U)``, ``E_A = E_{p_A}[e^{r/β}]``.

Everything is kept as logarithms, in float64: nothing is ever expunged by a finite reward, and no result is exactly 0 or
1 where the mathematics forbids it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from undertow.maths.precision import as_like, in_float64

__all__ = ["TiltedMixture", "implied_reward", "log_amplification", "policy_log_amplification", "tilted_mixture"]

NORMALISED = 1e-6
"""How far the sum of given probabilities may be from 1."""


@dataclass(frozen=True, slots=True, eq=False)
class TiltedMixture:
    """The tilted mixture; float64. Fields per prompt are ``[...]``, per outcome ``[..., Y]``.

    ``log_z``: ``ln Z``. ``log_tilted``: ``ln p*(y)``. ``log_weight_aligned``, ``log_weight_unaligned``: ``ln α_A(y)``
    and ``ln α_U(y)`` of Lemma 1. ``log_membership``: ``ln m(y) = ln(α p_A/p_ref)``, NaN off the support.
    ``log_mean_aligned``, ``log_mean_unaligned``: ``ln E_A``, ``ln E_U``. ``logit_alpha``, ``logit_mass``: ``logit α``
    and ``logit TPM(A)``; their difference never exceeds ``logit_bound = R/β``, R the range of the reward on the
    support. ``log_amplification``: ``r/β − ln Z``, by what each response is scaled; negative where it shrinks, that is
    where ``r < β ln Z``.
    """

    log_z: Tensor
    log_tilted: Tensor
    log_weight_aligned: Tensor
    log_weight_unaligned: Tensor
    log_membership: Tensor
    log_mean_aligned: Tensor
    log_mean_unaligned: Tensor
    logit_alpha: Tensor
    logit_mass: Tensor
    logit_bound: Tensor
    log_amplification: Tensor

    @property
    def log_mass_aligned(self) -> Tensor:
        """``ln TPM(A)``."""
        return logsigmoid(self.logit_mass)

    @property
    def log_mass_unaligned(self) -> Tensor:
        """``ln(1 − TPM(A))``, without cancellation."""
        return logsigmoid(-self.logit_mass)

    @property
    def mass_aligned(self) -> Tensor:
        """``TPM(A)``, strictly between 0 and 1: where float64 would round to either, the nearest number inside."""
        return inside(torch.sigmoid(self.logit_mass))

    @property
    def mass_unaligned(self) -> Tensor:
        """``1 − TPM(A)``, without cancellation, strictly between 0 and 1."""
        return inside(torch.sigmoid(-self.logit_mass))

    @property
    def tilted(self) -> Tensor:
        """``p*(y)``, positive wherever ``p_ref(y)`` is."""
        p = self.log_tilted.exp()
        several = (self.log_tilted > -torch.inf).sum(-1, keepdim=True) > 1
        return torch.where((self.log_tilted > -torch.inf) & several, inside(p), p)


@torch.no_grad()
def tilted_mixture(
    reward: Tensor, log_aligned: Tensor, log_unaligned: Tensor, *, alpha: Tensor | float, beta: Tensor | float
) -> TiltedMixture:
    """Lemma 1 and the total probability mass of the aligned part.

    Args:
        reward: ``r(y)``, ``[..., Y]``, finite wherever the reference has probability.
        log_aligned: ``ln p_A(y)``, ``[..., Y]``, normalised; −inf where ``p_A`` is 0.
        log_unaligned: ``ln p_U(y)``, likewise.
        alpha: the aligned part's share of the reference, strictly between 0 and 1; ``[...]`` or a number.
        beta: the strength of the KL term, positive; ``[...]`` or a number.

    Raises:
        ValueError: when shapes differ, a distribution is not normalised, or a number is out of its range.

    >>> p_a, p_u = torch.tensor([0.1, 0.8, 0.1]), torch.tensor([0.6, 0.1, 0.3])
    >>> tilted_mixture(torch.tensor([0.0, 2.0, 3.0]), p_a.log(), p_u.log(), alpha=0.5, beta=0.5).mass_aligned.item()
    0.39828...
    """
    tilt, log_a, log_u, bound = tilts(reward, log_aligned, log_unaligned, beta)
    share = as_like(alpha, tilt)
    if not bool(((share > 0) & (share < 1)).all()):
        raise ValueError(f"alpha must lie strictly between 0 and 1, got {alpha}")
    share = share.unsqueeze(-1)
    log_ref = torch.logaddexp(share.log() + log_a, torch.log1p(-share) + log_u)
    log_z = (log_ref + tilt).logsumexp(-1)
    log_mean_a, log_mean_u = (log_a + tilt).logsumexp(-1), (log_u + tilt).logsumexp(-1)
    amplification = tilt - log_z.unsqueeze(-1)
    logit_alpha = torch.logit(share.squeeze(-1)).expand(log_z.shape)
    return TiltedMixture(
        log_z=log_z,
        log_tilted=log_ref + amplification,
        log_weight_aligned=share.log() + amplification,
        log_weight_unaligned=torch.log1p(-share) + amplification,
        log_membership=share.log() + log_a - log_ref,
        log_mean_aligned=log_mean_a,
        log_mean_unaligned=log_mean_u,
        logit_alpha=logit_alpha,
        logit_mass=logit_alpha + log_mean_a - log_mean_u,
        logit_bound=bound,
        log_amplification=amplification,
    )


def log_amplification(reward: Tensor, log_z: Tensor, *, beta: Tensor | float) -> Tensor:
    """``ln(p*(y)/p_ref(y)) = r(y)/β − ln Z``: by what one response is scaled (not by ``e^{r/β}`` alone).

    Args:
        reward: ``[...]``.
        log_z: ``ln Z`` of the response's prompt, ``[...]``.
        beta: positive; ``[...]`` or a number.
    """
    return in_float64(reward) / positive_beta(beta, in_float64(reward)) - in_float64(log_z)


def policy_log_amplification(policy_logps: Tensor, reference_logps: Tensor) -> Tensor:
    """The same for any tuned model, no reward needed: ``ln π_θ(y|x) − ln π_ref(y|x)`` (theory 6.3).

    Also the log-weight of a sample from the reference, for :func:`~undertow.maths.tilt.samples.estimate_mass`.

    Args:
        policy_logps: ``[...]``, in nats, summed over the response's tokens.
        reference_logps: ``[...]``, of the very same tokens: no truncation on one side only.
    """
    return in_float64(policy_logps) - in_float64(reference_logps)


def implied_reward(policy_logps: Tensor, reference_logps: Tensor, *, beta: Tensor | float) -> Tensor:
    """``r̂ = β(ln π_θ − ln π_ref)``: the reward of which ``π_θ`` is the optimum, up to a constant for each prompt."""
    ratio = policy_log_amplification(policy_logps, reference_logps)
    return positive_beta(beta, ratio) * ratio


def inside(probability: Tensor) -> Tensor:
    """Strictly between 0 and 1: rounding must not turn "almost none" into "none"."""
    limits = torch.finfo(probability.dtype)
    return probability.clamp(limits.tiny, 1 - limits.eps / 2)


def positive_beta(beta: Tensor | float, like: Tensor) -> Tensor:
    """``β`` in the type of ``like``, or a complaint."""
    value = as_like(beta, like)
    if not bool((value > 0).all()):
        raise ValueError(f"beta must be positive, got {beta}")
    return value


def tilts(
    reward: Tensor, log_aligned: Tensor, log_unaligned: Tensor, beta: Tensor | float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Checks what both entrances take; returns ``r/β`` (0 off the support), both log-probabilities and ``R/β``."""
    r, log_a, log_u = (in_float64(t) for t in (reward, log_aligned, log_unaligned))
    if not r.shape == log_a.shape == log_u.shape or r.ndim == 0:
        raise ValueError(
            "reward, log_aligned and log_unaligned must be [..., Y] and alike, "
            f"got {tuple(r.shape)}, {tuple(log_a.shape)} and {tuple(log_u.shape)}"
        )
    for name, logs in (("log_aligned", log_a), ("log_unaligned", log_u)):
        total = logs.logsumexp(-1).exp()
        if not bool((abs(total - 1) < NORMALISED).all()):
            raise ValueError(
                f"{name} must hold log-probabilities that sum to 1 over the outcomes, got {total.tolist()}"
            )
    support = torch.maximum(log_a, log_u) > -torch.inf
    if not bool(r[support].isfinite().all()):
        raise ValueError("reward must be finite wherever the reference has probability")
    scaled = r / positive_beta(beta, r).unsqueeze(-1)
    high = torch.where(support, scaled, -torch.inf).amax(-1)
    low = torch.where(support, scaled, torch.inf).amin(-1)
    return torch.where(support, scaled, 0.0), log_a, log_u, high - low
