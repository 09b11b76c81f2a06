"""Losses of log-probabilities per token, without a reference."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from undertow.maths.later import functional, torch
from undertow.maths.losses.base import PairLoss
from undertow.maths.losses.logps import Logps
from undertow.maths.losses.parameters import check_ranges

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["ORPO", "SimPO"]


@dataclass(frozen=True, slots=True)
class SimPO(PairLoss):
    """``−ln σ(β(a/n⁺ − b/n⁻) − γ)`` (Meng et al. 2024, arXiv 2405.14734, eq. 6).

    ``beta``: ``β``, 2 to 10. ``gamma``: ``γ``, the margin asked for, itself not multiplied by β; tune ``γ/β`` in 0..1.
    """

    beta: float = 2.0
    gamma: float = 1.0

    name = "simpo"
    needs_lengths = True
    averages_tokens = True

    def __post_init__(self) -> None:
        check_ranges(self, beta="(0, inf)", gamma="[0, inf)")

    def value(self, logps: Logps) -> Tensor:
        """``−ln σ(u)``, ``u = β(a/n⁺ − b/n⁻) − γ``."""
        return -functional.logsigmoid(self._u(logps))

    def derivatives(self, logps: Logps) -> tuple[Tensor, Tensor]:
        """``d_w = βσ(−u)/n⁺``, ``d_l = βσ(−u)/n⁻``."""
        d = self.beta * torch.sigmoid(-self._u(logps))
        return d / logps.given("chosen_tokens"), d / logps.given("rejected_tokens")

    def _u(self, logps: Logps) -> Tensor:
        return self.beta * (logps.chosen_mean - logps.rejected_mean) - self.gamma


@dataclass(frozen=True, slots=True)
class ORPO(PairLoss):
    """``−a/n⁺ − λ ln σ(lo)``, ``lo = logit(e^{a/n⁺}) − logit(e^{b/n⁻})`` (Hong et al. 2024, arXiv 2403.07691, eq. 6).

    TRL's supervised term runs over the prompt as well; ours over the response. ``lam``: ``λ``, the weight of the odds.
    A response of probability 1 (log-probability 0, or above by rounding) has infinite odds: ``ValueError``.
    """

    lam: float = 0.1

    name = "orpo"
    needs_lengths = True
    averages_tokens = True

    def __post_init__(self) -> None:
        check_ranges(self, lam="[0, inf)")

    def value(self, logps: Logps) -> Tensor:
        """``−a/n⁺ − λ ln σ(lo)``."""
        return -logps.chosen_mean - self.lam * functional.logsigmoid(self._log_odds(logps))

    def derivatives(self, logps: Logps) -> tuple[Tensor, Tensor]:
        """``d_w = 1/n⁺ + λσ(−lo)/(n⁺(1 − e^{a/n⁺}))``, ``d_l = λσ(−lo)/(n⁻(1 − e^{b/n⁻}))``."""
        pull = self.lam * torch.sigmoid(-self._log_odds(logps))
        d_w = (1 - pull / torch.expm1(logps.chosen_mean)) / logps.given("chosen_tokens")
        return d_w, -pull / (torch.expm1(logps.rejected_mean) * logps.given("rejected_tokens"))

    def _log_odds(self, logps: Logps) -> Tensor:
        chosen, rejected = logps.chosen_mean, logps.rejected_mean
        for field, mean in (("chosen", chosen), ("rejected", rejected)):
            if bool((mean >= 0).any()):
                pair = int((mean >= 0).flatten().nonzero()[0])
                raise ValueError(
                    f"ORPO: {field}[{pair}] is not below 0, so the response is certain and its odds are infinite; "
                    "leave such pairs out or take another loss"
                )
        return (chosen - _log1mexp(chosen)) - (rejected - _log1mexp(rejected))


def _log1mexp(s: Tensor) -> Tensor:
    """``ln(1 − e^s)`` for ``s < 0`` to full precision: near 0 by ``expm1``, else by ``log1p``.

    Each branch sees only its own numbers: ``where`` alone would let the gradient of the other one, 0 times infinity,
    through as NaN.
    """
    near = s > -math.log(2)
    by_expm1 = torch.log(-torch.expm1(torch.where(near, s, -1.0)))
    by_log1p = torch.log1p(-torch.exp(torch.where(near, -1.0, s)))
    return torch.where(near, by_expm1, by_log1p)
