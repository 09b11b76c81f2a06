"""Losses that see the two log-ratios apart, not only their difference: the weights differ by design.

KTO in pair form, SPPO, Cal-DPO, DPOP and DPO-Shift.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from undertow.maths.later import functional, torch
from undertow.maths.losses.base import PairLoss
from undertow.maths.losses.logps import Logps
from undertow.maths.losses.parameters import check_ranges, check_whole

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["DPOP", "SPPO", "CalDPO", "DPOShift", "KTOPair", "kto_z"]


@dataclass(frozen=True, slots=True)
class KTOPair(PairLoss):
    """``λ_w[1 − σ(β(r⁺ − z))] + λ_l[1 − σ(β(z − r⁻))]`` (Ethayarajh et al. 2024, arXiv 2402.01306), for pairs.

    KTO as a loss of single responses averages over twice as many terms: half this value when both kinds are equally
    many. ``beta``: as in DPO. ``lam_chosen``, ``lam_rejected``: ``λ_w``, ``λ_l``. ``z``: the reference point, a
    constant in the gradient; 0 while policy and reference agree, else from :func:`kto_z`.
    """

    beta: float = 0.1
    lam_chosen: float = 1.0
    lam_rejected: float = 1.0
    z: float = 0.0

    name = "kto-pair"
    needs_reference = True

    def __post_init__(self) -> None:
        check_ranges(self, beta="(0, inf)", lam_chosen="[0, inf)", lam_rejected="[0, inf)", z="[0, inf)")

    def value(self, logps: Logps) -> Tensor:
        """``λ_w σ(−s) + λ_l σ(t)``, the same without ``1 − …``."""
        s, t = self._s_and_t(logps)
        return self.lam_chosen * torch.sigmoid(-s) + self.lam_rejected * torch.sigmoid(t)

    def derivatives(self, logps: Logps) -> tuple[Tensor, Tensor]:
        """``d_w = λ_w βσ(s)σ(−s)``, ``s = β(r⁺ − z)``; ``d_l = λ_l βσ(t)σ(−t)``, ``t = β(r⁻ − z)``."""
        slopes = [self.beta * torch.sigmoid(x) * torch.sigmoid(-x) for x in self._s_and_t(logps)]
        return self.lam_chosen * slopes[0], self.lam_rejected * slopes[1]

    def _s_and_t(self, logps: Logps) -> tuple[Tensor, Tensor]:
        return self.beta * (logps.chosen_logratio - self.z), self.beta * (logps.rejected_logratio - self.z)


def kto_z(policy_logps: Tensor, ref_logps: Tensor) -> float:
    """KTO's reference point ``z = max(0, mean(ln π(y'|x) − ln π_ref(y'|x)))``.

    Args:
        policy_logps: ``[mismatched]``, of prompts with responses that belong to other prompts of the batch, summed
            over tokens, in nats.
        ref_logps: the same under the reference.

    Raises:
        ValueError: when the shapes differ or there is nothing to average.
    """
    if policy_logps.shape != ref_logps.shape or not policy_logps.numel():
        raise ValueError(
            "policy_logps and ref_logps must be alike and not empty, "
            f"got {tuple(policy_logps.shape)} and {tuple(ref_logps.shape)}"
        )
    return max(0.0, (policy_logps - ref_logps).mean().item())


@dataclass(frozen=True, slots=True)
class SPPO(PairLoss):
    """``(r⁺ − 1/(2β))² + (r⁻ + 1/(2β))²``: SPPO with hard labels (Wu et al. 2024, arXiv 2405.00675).

    ``beta``: ``β``; the paper's ``η`` is ``1/β``.
    """

    beta: float = 0.001

    name = "sppo"
    needs_reference = True

    def __post_init__(self) -> None:
        check_ranges(self, beta="(0, inf)")

    def value(self, logps: Logps) -> Tensor:
        """``(r⁺ − 1/(2β))² + (r⁻ + 1/(2β))²``."""
        target = 0.5 / self.beta
        return (logps.chosen_logratio - target).square() + (logps.rejected_logratio + target).square()

    def derivatives(self, logps: Logps) -> tuple[Tensor, Tensor]:
        """``d_w = 1/β − 2r⁺``, ``d_l = 1/β + 2r⁻``; each negative past its own target."""
        return 1 / self.beta - 2 * logps.chosen_logratio, 1 / self.beta + 2 * logps.rejected_logratio


@dataclass(frozen=True, slots=True)
class CalDPO(PairLoss):
    """``−ln σ(Δ) + κ[(r⁺ − 1/(2β))² + (r⁻ + 1/(2β))²]`` (Xiao et al. 2024, arXiv 2412.14516); no ``β`` inside ``σ``.

    ``beta``: ``β``, of the targets. ``kappa``: ``κ``, the weight of the calibration, 0.5 in the authors' code.
    """

    beta: float = 0.002
    kappa: float = 0.5

    name = "cal-dpo"
    needs_reference = True

    def __post_init__(self) -> None:
        check_ranges(self, beta="(0, inf)", kappa="[0, inf)")

    def value(self, logps: Logps) -> Tensor:
        """``−ln σ(Δ) + κ[(r⁺ − 1/(2β))² + (r⁻ + 1/(2β))²]``."""
        target = 0.5 / self.beta
        squares = (logps.chosen_logratio - target).square() + (logps.rejected_logratio + target).square()
        return -functional.logsigmoid(logps.corrected_margin) + self.kappa * squares

    def derivatives(self, logps: Logps) -> tuple[Tensor, Tensor]:
        """``d_w = σ(−Δ) + 2κ(1/(2β) − r⁺)``, ``d_l = σ(−Δ) + 2κ(1/(2β) + r⁻)``."""
        target, d = 0.5 / self.beta, torch.sigmoid(-logps.corrected_margin)
        d_w = d + 2 * self.kappa * (target - logps.chosen_logratio)
        return d_w, d + 2 * self.kappa * (target + logps.rejected_logratio)


@dataclass(frozen=True, slots=True)
class DPOP(PairLoss):
    """``−ln σ(β[Δ − λ max(0, a_ref − a)])``: DPO-Positive (Pal et al. 2024, arXiv 2402.13228, eq. 3).

    ``beta``: as in DPO. ``lam``: ``λ``, the price of a chosen response below the reference; 5, 50, 500 were tried.
    """

    beta: float = 0.1
    lam: float = 50.0

    name = "dpop"
    needs_reference = True

    def __post_init__(self) -> None:
        check_ranges(self, beta="(0, inf)", lam="[0, inf)")

    def value(self, logps: Logps) -> Tensor:
        """``−ln σ(u)``, ``u = β[Δ − λ max(0, −r⁺)]``."""
        return -functional.logsigmoid(self._u(logps))

    def derivatives(self, logps: Logps) -> tuple[Tensor, Tensor]:
        """``d_w = βσ(−u)(1 + λ·1[a < a_ref])``, ``d_l = βσ(−u)``; at ``a = a_ref`` the penalty is off."""
        d = self.beta * torch.sigmoid(-self._u(logps))
        return d * (1 + self.lam * (logps.chosen_logratio < 0)), d

    def _u(self, logps: Logps) -> Tensor:
        return self.beta * (logps.corrected_margin - self.lam * functional.relu(-logps.chosen_logratio))


@dataclass(frozen=True, slots=True)
class DPOShift(PairLoss):
    """``−ln σ(βr⁺ − fβr⁻)`` (Yang et al. 2025, arXiv 2502.07599).

    ``beta``: as in DPO (the authors ran 0.01). ``f``: in (0, 1], the share of the rejected reward; 0.55 to 0.95 were
    used. ``f_end`` and ``steps``: given together, ``f`` goes in a straight line to ``f_end`` over so many optimiser
    steps, upwards or downwards; ``step`` is where the schedule stands, set by :meth:`at_step`.
    """

    beta: float = 0.1
    f: float = 0.75
    f_end: float | None = None
    steps: int | None = None
    step: int = 0

    name = "dpo-shift"
    needs_reference = True

    def __post_init__(self) -> None:
        check_ranges(self, beta="(0, inf)", f="(0, 1]")
        check_whole(self, step=0)
        if (self.f_end is None) != (self.steps is None):
            raise ValueError(
                f"DPOShift: f_end and steps belong together, got f_end={self.f_end!r} and steps={self.steps!r}"
            )
        if self.steps is not None:
            check_ranges(self, f_end="(0, 1]")
            check_whole(self, steps=1)
            check_ranges(self, step=f"[0, {self.steps}]")

    @property
    def f_now(self) -> float:
        """``f + (f_end − f)·step/steps``; ``f`` itself without a schedule."""
        if self.f_end is None or self.steps is None:
            return self.f
        return self.f + (self.f_end - self.f) * self.step / self.steps

    def at_step(self, step: int) -> DPOShift:
        """The loss at an optimiser step, 0 to ``steps``; itself without a schedule."""
        return self if self.steps is None else replace(self, step=step)

    def value(self, logps: Logps) -> Tensor:
        """``−ln σ(u)``, ``u = βr⁺ − fβr⁻``."""
        return -functional.logsigmoid(self._u(logps))

    def derivatives(self, logps: Logps) -> tuple[Tensor, Tensor]:
        """``d_w = βσ(−u)``, ``d_l = fβσ(−u)``."""
        d = self.beta * torch.sigmoid(-self._u(logps))
        return d, self.f_now * d

    def _u(self, logps: Logps) -> Tensor:
        return self.beta * (logps.chosen_logratio - self.f_now * logps.rejected_logratio)
