"""A preference loss and a supervised term on the chosen response: its weight is larger than the rejected one's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from undertow.maths.later import functional, torch
from undertow.maths.losses.base import PairLoss
from undertow.maths.losses.logps import Logps
from undertow.maths.losses.parameters import check_choice, check_ranges, check_whole

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["CPO", "RPO", "BoNBoN"]


@dataclass(frozen=True, slots=True)
class CPO(PairLoss):
    """``−ln σ(βM) − λa`` (Xu et al. 2024, arXiv 2401.08417). TRL's extra term is a mean over tokens, not ``a``.

    ``beta``: ``β``, of the margin. ``lam``: ``λ``, the weight of the SFT term.
    """

    beta: float = 0.1
    lam: float = 1.0

    name = "cpo"

    def __post_init__(self) -> None:
        check_ranges(self, beta="(0, inf)", lam="[0, inf)")

    def value(self, logps: Logps) -> Tensor:
        """``−ln σ(βM) − λa``."""
        return -functional.logsigmoid(self.beta * logps.margin) - self.lam * logps.chosen

    def derivatives(self, logps: Logps) -> tuple[Tensor, Tensor]:
        """``d_w = βσ(−βM) + λ``, ``d_l = βσ(−βM)``."""
        d = self.beta * torch.sigmoid(-self.beta * logps.margin)
        return d + self.lam, d


@dataclass(frozen=True, slots=True)
class RPO(PairLoss):
    """``−ln σ(βΔ) − λa`` (DPO+SFT: Liu et al. 2024, arXiv 2405.16436), or with ``a/n⁺`` (Pang et al., 2404.19733).

    ``beta``: as in DPO. ``lam``: ``λ``, to be tuned over 0.01, 0.1, 1; the usual start is 0.1. ``averaged``: whether
    the SFT term is per token.
    """

    beta: float = 0.1
    lam: float = 0.1
    averaged: bool = False

    name = "rpo"
    needs_reference = True

    def __post_init__(self) -> None:
        check_ranges(self, beta="(0, inf)", lam="[0, inf)")
        check_choice(self, "averaged", (True, False))

    @property
    def needs_lengths(self) -> bool:
        """Only the averaged form reads them."""
        return self.averaged

    @property
    def averages_tokens(self) -> bool:
        """In the SFT term of the averaged form."""
        return self.averaged

    def value(self, logps: Logps) -> Tensor:
        """``−ln σ(βΔ) − λa``, or ``… − λa/n⁺``."""
        target = logps.chosen_mean if self.averaged else logps.chosen
        return -functional.logsigmoid(self.beta * logps.corrected_margin) - self.lam * target

    def derivatives(self, logps: Logps) -> tuple[Tensor, Tensor]:
        """``d_w = βσ(−βΔ) + λ`` (or ``λ/n⁺``), ``d_l = βσ(−βΔ)``."""
        d = self.beta * torch.sigmoid(-self.beta * logps.corrected_margin)
        return d + (self.lam / logps.given("chosen_tokens") if self.averaged else self.lam), d


@dataclass(frozen=True, slots=True)
class BoNBoN(PairLoss):
    """``−αa + (1−α)(Δ − T_n)²``, pairs being the best and the worst of ``n`` (Gui et al. 2024, arXiv 2406.00832).

    ``n``: candidates for each prompt, at least 2. ``alpha``: ``α``, the share of the supervised term, in [0, 1].
    """

    n: int = 8
    alpha: float = 0.005

    name = "bonbon"
    needs_reference = True

    def __post_init__(self) -> None:
        check_whole(self, n=2)
        check_ranges(self, alpha="[0, 1]")

    @property
    def target(self) -> float:
        """``T_n = (n−1) Σ_{k=1}^{n−1} 1/k``: the margin of the exact best-of-n policy; 18.15 for n = 8."""
        return (self.n - 1) * sum(1 / k for k in range(1, self.n))

    def value(self, logps: Logps) -> Tensor:
        """``−αa + (1−α)(Δ − T_n)²``."""
        distance = logps.corrected_margin - self.target
        return -self.alpha * logps.chosen + (1 - self.alpha) * distance.square()

    def derivatives(self, logps: Logps) -> tuple[Tensor, Tensor]:
        """``d_w = α + 2(1−α)(T_n − Δ)``, ``d_l = 2(1−α)(T_n − Δ)``; negative past the target."""
        d = 2 * (1 - self.alpha) * (self.target - logps.corrected_margin)
        return d + self.alpha, d
