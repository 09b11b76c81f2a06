"""Squared losses: the margin is pulled to a target, from both sides. Past the target the weights are negative."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from undertow.maths.losses.base import PairLoss
from undertow.maths.losses.logps import Logps
from undertow.maths.losses.parameters import check_ranges

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["IPO", "REBEL", "AveragedIPO"]


@dataclass(frozen=True, slots=True)
class IPO(PairLoss):
    """``(Δ − 1/(2τ))²`` (Azar et al. 2023, arXiv 2310.12036, eq. 17).

    ``tau``: ``τ``, the strength of the KL term; the target of the margin is ``1/(2τ)``.
    """

    tau: float = 0.1

    name = "ipo"
    needs_reference = True

    def __post_init__(self) -> None:
        check_ranges(self, tau="(0, inf)")

    def value(self, logps: Logps) -> Tensor:
        """``(Δ − 1/(2τ))²``."""
        return (logps.corrected_margin - 0.5 / self.tau).square()

    def derivatives(self, logps: Logps) -> tuple[Tensor, Tensor]:
        """``d_w = d_l = 2(1/(2τ) − Δ)``; negative past the target."""
        d = 2 * (0.5 / self.tau - logps.corrected_margin)
        return d, d


@dataclass(frozen=True, slots=True)
class AveragedIPO(PairLoss):
    """``(r⁺/n⁺ − r⁻/n⁻ − 1/(2τ))²``: IPO per token, the authors' later advice, and what TRL's and HALOs' ``ipo`` is.

    ``tau``: ``τ``; the target ``1/(2τ)`` is here in nats a token.
    """

    tau: float = 0.1

    name = "averaged-ipo"
    needs_reference = True
    needs_lengths = True
    averages_tokens = True

    def __post_init__(self) -> None:
        check_ranges(self, tau="(0, inf)")

    def value(self, logps: Logps) -> Tensor:
        """``e²``, ``e = 1/(2τ) − (r⁺/n⁺ − r⁻/n⁻)``."""
        return self._e(logps).square()

    def derivatives(self, logps: Logps) -> tuple[Tensor, Tensor]:
        """``d_w = 2e/n⁺``, ``d_l = 2e/n⁻``."""
        e = self._e(logps)
        return 2 * e / logps.given("chosen_tokens"), 2 * e / logps.given("rejected_tokens")

    def _e(self, logps: Logps) -> Tensor:
        chosen = logps.chosen_logratio / logps.given("chosen_tokens")
        rejected = logps.rejected_logratio / logps.given("rejected_tokens")
        return 0.5 / self.tau - (chosen - rejected)


@dataclass(frozen=True, slots=True)
class REBEL(PairLoss):
    """``(Δ/η − (ρ⁺ − ρ⁻))²``: regress the margin on a difference of rewards (Gao et al. 2024, arXiv 2404.16767).

    The reference is the previous policy; ``ρ±`` are ``chosen_scores`` and ``rejected_scores``. ``eta``: ``η``, nats for
    one unit of reward; it depends on the scale of the scores, so it has no usual value and must be given.
    """

    eta: float

    name = "rebel"
    needs_reference = True
    needs_scores = True

    def __post_init__(self) -> None:
        check_ranges(self, eta="(0, inf)")

    def value(self, logps: Logps) -> Tensor:
        """``(Δ/η − (ρ⁺ − ρ⁻))²``."""
        return self._lacking(logps).square()

    def derivatives(self, logps: Logps) -> tuple[Tensor, Tensor]:
        """``d_w = d_l = (2/η)(ρ⁺ − ρ⁻ − Δ/η)``; negative past the target."""
        d = 2 / self.eta * self._lacking(logps)
        return d, d

    def _lacking(self, logps: Logps) -> Tensor:
        return logps.given("chosen_scores") - logps.given("rejected_scores") - logps.corrected_margin / self.eta
