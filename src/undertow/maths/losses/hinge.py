"""Hinge losses: no pull once the margin is wide enough. At the kink itself the hinge counts as inactive.

``relu`` has derivative 0 at 0 (``clamp`` has 1), and the weights test the very number that ``relu`` sees.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from undertow.maths.later import functional
from undertow.maths.losses.base import PairLoss
from undertow.maths.losses.logps import Logps
from undertow.maths.losses.parameters import check_ranges

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["RRHF", "HingeRef", "SLiC", "SLiCHF", "active"]


@dataclass(frozen=True, slots=True)
class SLiC(PairLoss):
    """``max(0, δ − M)`` (Zhao et al. 2022, arXiv 2210.00045, without its regulariser, as Razin et al. take it).

    ``delta``: ``δ``, the margin asked for, in nats.
    """

    delta: float = 1.0

    name = "slic"

    def __post_init__(self) -> None:
        check_ranges(self, delta="[0, inf)")

    def value(self, logps: Logps) -> Tensor:
        """``max(0, δ − M)``."""
        return functional.relu(self.delta - logps.margin)

    def derivatives(self, logps: Logps) -> tuple[Tensor, Tensor]:
        """``d_w = d_l = 1[M < δ]``."""
        d = active(self.delta - logps.margin)
        return d, d


@dataclass(frozen=True, slots=True)
class SLiCHF(PairLoss):
    """``max(0, δ − M) − λa`` (Zhao et al. 2023, arXiv 2305.10425), the chosen response as the SFT target.

    ``delta``: ``δ``, as in SLiC. ``lam``: ``λ``, the weight of the SFT term (HALOs takes 0.1).
    """

    delta: float = 1.0
    lam: float = 1.0

    name = "slic-hf"

    def __post_init__(self) -> None:
        check_ranges(self, delta="[0, inf)", lam="[0, inf)")

    def value(self, logps: Logps) -> Tensor:
        """``max(0, δ − M) − λa``."""
        return functional.relu(self.delta - logps.margin) - self.lam * logps.chosen

    def derivatives(self, logps: Logps) -> tuple[Tensor, Tensor]:
        """``d_w = 1[M < δ] + λ``, ``d_l = 1[M < δ]``."""
        on = active(self.delta - logps.margin)
        return on + self.lam, on


@dataclass(frozen=True, slots=True)
class HingeRef(PairLoss):
    """``max(0, 1 − βΔ)``: the hinge with a reference, TRL's ``hinge`` (Liu et al. 2023, arXiv 2309.06657).

    ``beta``: ``β``; the margin asked for is ``1/β``.
    """

    beta: float = 0.1

    name = "hinge-ref"
    needs_reference = True

    def __post_init__(self) -> None:
        check_ranges(self, beta="(0, inf)")

    def value(self, logps: Logps) -> Tensor:
        """``max(0, 1 − βΔ)``."""
        return functional.relu(1 - self.beta * logps.corrected_margin)

    def derivatives(self, logps: Logps) -> tuple[Tensor, Tensor]:
        """``d_w = d_l = β·1[βΔ < 1]``."""
        d = self.beta * active(1 - self.beta * logps.corrected_margin)
        return d, d


@dataclass(frozen=True, slots=True)
class RRHF(PairLoss):
    """``max(0, b/n⁻ − a/n⁺) − λa`` (Yuan et al. 2023, arXiv 2304.05302): ranking by means, SFT by the sum.

    ``lam``: ``λ``, the weight of the SFT term.
    """

    lam: float = 1.0

    name = "rrhf"
    needs_lengths = True
    averages_tokens = True

    def __post_init__(self) -> None:
        check_ranges(self, lam="[0, inf)")

    def value(self, logps: Logps) -> Tensor:
        """``max(0, b/n⁻ − a/n⁺) − λa``."""
        return functional.relu(logps.rejected_mean - logps.chosen_mean) - self.lam * logps.chosen

    def derivatives(self, logps: Logps) -> tuple[Tensor, Tensor]:
        """``d_w = 1[on]/n⁺ + λ``, ``d_l = 1[on]/n⁻``, on where the rejected mean is the higher one."""
        on = active(logps.rejected_mean - logps.chosen_mean)
        return on / logps.given("chosen_tokens") + self.lam, on / logps.given("rejected_tokens")


def active(lacking: Tensor) -> Tensor:
    """1 where something is lacking, else 0, and NaN where that is unknown; in the type of the log-probabilities."""
    return (lacking > 0).to(lacking.dtype).masked_fill(lacking.isnan(), float("nan"))
