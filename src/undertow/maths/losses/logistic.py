"""Logistic losses of the reference-corrected margin, with one weight for both responses.

``−ln σ(u)`` is taken as ``−logsigmoid(u)`` everywhere: it neither overflows nor rounds to 0 on either side, while
``softplus`` switches to a straight line at 20, visible in float64.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from undertow.maths.later import functional, torch
from undertow.maths.losses.base import PairLoss
from undertow.maths.losses.logps import Logps
from undertow.maths.losses.parameters import check_ranges

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["DPO", "RDPO", "ConservativeDPO"]


@dataclass(frozen=True, slots=True)
class DPO(PairLoss):
    """``−ln σ(βΔ)`` (Rafailov et al. 2023, arXiv 2305.18290, eq. 7).

    ``beta``: ``β``, how strongly the policy is held to the reference.

    >>> a, b = torch.tensor([-12.0]), torch.tensor([-9.0])
    >>> loss = DPO(beta=0.1)
    >>> loss(Logps(a, b, ref_chosen=a, ref_rejected=b))  # the policy is the reference: ln 2
    tensor([0.6931])
    """

    beta: float = 0.1

    name = "dpo"
    needs_reference = True

    def __post_init__(self) -> None:
        check_ranges(self, beta="(0, inf)")

    def value(self, logps: Logps) -> Tensor:
        """``−ln σ(βΔ)``."""
        return -functional.logsigmoid(self.beta * logps.corrected_margin)

    def derivatives(self, logps: Logps) -> tuple[Tensor, Tensor]:
        """``d_w = d_l = βσ(−βΔ)``."""
        d = self.beta * torch.sigmoid(-self.beta * logps.corrected_margin)
        return d, d


@dataclass(frozen=True, slots=True)
class ConservativeDPO(PairLoss):
    """``−(1−ε) ln σ(βΔ) − ε ln σ(−βΔ)``: DPO with labels that are wrong at the rate ``ε`` (Mitchell 2023).

    ``beta``: as in DPO. ``epsilon``: ``ε``, the share of flipped labels, in [0, 0.5].
    """

    beta: float = 0.1
    epsilon: float = 0.1

    name = "conservative-dpo"
    needs_reference = True

    def __post_init__(self) -> None:
        check_ranges(self, beta="(0, inf)", epsilon="[0, 0.5]")

    def value(self, logps: Logps) -> Tensor:
        """``−(1−ε) ln σ(βΔ) − ε ln σ(−βΔ)``."""
        u = self.beta * logps.corrected_margin
        return -(1 - self.epsilon) * functional.logsigmoid(u) - self.epsilon * functional.logsigmoid(-u)

    def derivatives(self, logps: Logps) -> tuple[Tensor, Tensor]:
        """``d_w = d_l = β(σ(−βΔ) − ε)``; negative once the pair is surer than its label."""
        d = self.beta * (torch.sigmoid(-self.beta * logps.corrected_margin) - self.epsilon)
        return d, d


@dataclass(frozen=True, slots=True)
class RDPO(PairLoss):
    """``−ln σ(βΔ + α(n⁺ − n⁻))``: DPO with a price on length (Park et al. 2024, arXiv 2403.19159).

    ``beta``: as in DPO. ``alpha``: ``α``, nats a token; the paper takes 0.2 or 0.5 (TL;DR), 0.005 or 0.01 (HH). The
    sign is plus: a longer chosen response must not win by its length.
    """

    beta: float = 0.1
    alpha: float = 0.2

    name = "r-dpo"
    needs_reference = True
    needs_lengths = True

    def __post_init__(self) -> None:
        check_ranges(self, beta="(0, inf)", alpha="[0, inf)")

    def value(self, logps: Logps) -> Tensor:
        """``−ln σ(u)``, ``u = βΔ + α(n⁺ − n⁻)``."""
        return -functional.logsigmoid(self._u(logps))

    def derivatives(self, logps: Logps) -> tuple[Tensor, Tensor]:
        """``d_w = d_l = βσ(−u)``."""
        d = self.beta * torch.sigmoid(-self._u(logps))
        return d, d

    def _u(self, logps: Logps) -> Tensor:
        longer = logps.given("chosen_tokens") - logps.given("rejected_tokens")
        return self.beta * logps.corrected_margin + self.alpha * longer
