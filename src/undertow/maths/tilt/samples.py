"""The aligned mass of a tuned model from samples of its reference, with its doubt (theory 6.3).

For *any* tuned model ``π_θ = π_ref e^{r̂/β}`` with ``r̂ = β(ln π_θ − ln π_ref)`` and ``Z = 1``, so the weight of a
sample from the reference is ``π_θ/π_ref`` and no reward model is needed; ``ln Ẑ`` near 0 then is a check of support.
Where one can sample from the tuned model itself, the plain mean of the labels estimates the same number: prefer that.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from undertow.maths.precision import in_float64
from undertow.maths.tilt.mixture import inside

__all__ = ["MassEstimate", "estimate_mass"]

FEWEST_EFFECTIVE = 10.0
"""Below this many effective samples an estimate is not reliable: our rule (theory 6.3)."""

AT_ONCE = 2**22


@dataclass(frozen=True, slots=True, eq=False)
class MassEstimate:
    """Self-normalised importance estimates from N samples of the reference for one prompt; float64 scalars.

    ``alpha``: the aligned mass under the reference, the mean label. ``logit_mass``: logit of the aligned mass under the
    tilted or tuned model, ±inf only when the samples hold no aligned (no unaligned) part at all. ``log_z``: ``ln Ẑ``.
    ``standard_error``: of ``mass_aligned``. ``ess``: effective sample size ``1/Σw̃²``, in [1, N]; ``ESS/N`` tends to
    ``1/(1+χ²)``. ``largest_weight``: the largest ``w̃``. The intervals, ``[2]`` each, are percentiles of the bootstrap:
    they see the samples only, so that of a sample with labels all alike has no width. ``reliable``: ESS is at least 10;
    then no sample has more than half of the weight either, which would mean an ESS below 4.
    """

    alpha: Tensor
    alpha_interval: Tensor
    logit_mass: Tensor
    mass_interval: Tensor
    standard_error: Tensor
    log_z: Tensor
    log_z_interval: Tensor
    ess: Tensor
    largest_weight: Tensor
    reliable: bool
    samples: int

    @property
    def mass_aligned(self) -> Tensor:
        """``Σ w̃_i m_i``; 0 or 1 only when the samples hold one part alone."""
        return _unless_alone(self.logit_mass)

    @property
    def mass_unaligned(self) -> Tensor:
        """``Σ w̃_i (1 − m_i)``, without cancellation."""
        return _unless_alone(-self.logit_mass)

    @property
    def log_mass_aligned(self) -> Tensor:
        """``ln Σ w̃_i m_i``."""
        return logsigmoid(self.logit_mass)

    @property
    def log_mass_unaligned(self) -> Tensor:
        """``ln Σ w̃_i (1 − m_i)``."""
        return logsigmoid(-self.logit_mass)


@torch.no_grad()
def estimate_mass(
    log_weights: Tensor, labels: Tensor, *, resamples: int = 1000, level: float = 0.95, seed: int = 0
) -> MassEstimate:
    """Estimates the aligned mass before and after the tilt, and ``ln Z``, from samples of the reference.

    Args:
        log_weights: ``ln w_i``, ``[N]``: ``r_i/β`` for a reward, or ``ln π_θ(y_i|x) − ln π_ref(y_i|x)`` for a tuned
            model. −inf is a sample that the tuned model cannot produce.
        labels: ``m_i``, ``[N]``, in [0, 1]: a judge's verdict, or its probability, that the sample is aligned.
        resamples: how many bootstrap samples the intervals are made of.
        level: the intervals' coverage, between 0 and 1.
        seed: of the bootstrap; the same seed gives the same intervals.

    Raises:
        ValueError: when there is no sample, no finite weight, or something is out of its range.

    >>> estimate_mass(torch.tensor([0.5, -1, 0.2, -0.3]), torch.tensor([1, 0, 0.5, 1])).mass_aligned.item()
    0.75405...
    """
    log_w, m = in_float64(log_weights), in_float64(labels)
    _check(log_w, m, resamples, level)
    aligned, unaligned = (log_w + m.log()).logsumexp(0), (log_w + torch.log1p(-m)).logsumexp(0)
    weights = log_w.softmax(0)
    logit = aligned - unaligned
    mass = torch.sigmoid(logit)
    ess = 1 / weights.square().sum()
    alpha_s, mass_s, log_z_s = _bootstrap(log_w, m, resamples, seed)
    return MassEstimate(
        alpha=m.mean(),
        alpha_interval=_interval(alpha_s, level),
        logit_mass=logit,
        mass_interval=_interval(mass_s, level),
        standard_error=(weights * (m - mass)).norm(),
        log_z=log_w.logsumexp(0) - math.log(len(m)),
        log_z_interval=_interval(log_z_s, level),
        ess=ess,
        largest_weight=weights.max(),
        reliable=bool(ess >= FEWEST_EFFECTIVE),
        samples=len(m),
    )


def _unless_alone(logit: Tensor) -> Tensor:
    mass = torch.sigmoid(logit)
    return torch.where(logit.isinf(), mass, inside(mass))


def _interval(resampled: Tensor, level: float) -> Tensor:
    tails = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=resampled.dtype, device=resampled.device)
    # The nearest resample, since between −inf and a number there is nothing to interpolate.
    return resampled.nanquantile(tails, interpolation="nearest")


def _bootstrap(log_w: Tensor, m: Tensor, resamples: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Mean label, mass and ``ln Ẑ`` of each resample, ``[resamples]``; drawn on the CPU, so equal on every device."""
    generator = torch.Generator().manual_seed(seed)
    n = len(m)
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    while (done := sum(len(a) for a, _, _ in found)) < resamples:
        count = min(resamples - done, max(1, AT_ONCE // n))
        drawn = torch.randint(n, (count, n), generator=generator).to(m.device)
        w, labels = log_w[drawn], m[drawn]
        # The softmax of impossible samples alone is NaN: such a resample has no mass, and nanquantile leaves it out.
        found.append((labels.mean(-1), (w.softmax(-1) * labels).sum(-1), w.logsumexp(-1) - math.log(n)))
    alpha, mass, log_z = (torch.cat(parts) for parts in zip(*found, strict=True))
    return alpha, mass, log_z


def _check(log_w: Tensor, m: Tensor, resamples: int, level: float) -> None:
    if log_w.ndim != 1 or log_w.shape != m.shape or not len(m):
        raise ValueError(f"log_weights and labels must be [N] with N ≥ 1, got {tuple(log_w.shape)}, {tuple(m.shape)}")
    if bool((log_w.isnan() | (log_w == torch.inf)).any()) or not bool((log_w > -torch.inf).any()):
        raise ValueError("log_weights must be finite (or −inf for impossible samples), at least one of them finite")
    if not bool(((m >= 0) & (m <= 1)).all()):
        raise ValueError(f"labels must lie in [0, 1], got {m.min().item():g} to {m.max().item():g}")
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, got {resamples}")
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, got {level}")
