"""GPO: one family, ``f(βΔ)``, with the convex (or nearly convex) functions ``f`` of its paper by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from undertow.maths.later import functional, torch
from undertow.maths.losses.base import PairLoss
from undertow.maths.losses.hinge import active
from undertow.maths.losses.logps import Logps
from undertow.maths.losses.parameters import check_choice, check_ranges

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["GPO", "GPO_FUNCTIONS"]

Function: TypeAlias = "Callable[[Tensor], Tensor]"

GPO_FUNCTIONS: Mapping[str, tuple[Function, Function]] = {
    "logistic": (lambda u: -functional.logsigmoid(u), lambda u: torch.sigmoid(-u)),
    "hinge": (lambda u: functional.relu(1 - u), lambda u: active(1 - u)),
    "squared": (lambda u: (u - 1).square(), lambda u: 2 * (1 - u)),
    "exponential": (lambda u: torch.exp(-u), lambda u: torch.exp(-u)),
    "truncated_quadratic": (lambda u: functional.relu(1 - u).square(), lambda u: 2 * functional.relu(1 - u)),
    "savage": (lambda u: torch.sigmoid(-u).square(), lambda u: 2 * torch.sigmoid(-u).square() * torch.sigmoid(u)),
}
"""``f(u)`` and ``−f'(u)`` by name: ``ln(1+e^{−u})``, ``max(0,1−u)``, ``(u−1)²``, ``e^{−u}``, ``max(0,1−u)²``,
``1/(1+e^u)²``. The exponential overflows to infinity (never NaN) below ``u ≈ −709`` in float64, −88 in float32."""


@dataclass(frozen=True, slots=True)
class GPO(PairLoss):
    """``f(βΔ)`` (Tang et al. 2024, arXiv 2402.05749). Logistic is DPO; squared is ``β²`` times IPO at ``τ = β/2``.

    ``beta``: as in DPO. ``f``: logistic, hinge, squared, exponential, truncated_quadratic or savage.
    """

    beta: float = 0.1
    f: str = "logistic"

    name = "gpo"
    needs_reference = True

    def __post_init__(self) -> None:
        check_ranges(self, beta="(0, inf)")
        check_choice(self, "f", tuple(GPO_FUNCTIONS))

    def value(self, logps: Logps) -> Tensor:
        """``f(βΔ)``."""
        return GPO_FUNCTIONS[self.f][0](self.beta * logps.corrected_margin)

    def derivatives(self, logps: Logps) -> tuple[Tensor, Tensor]:
        """``d_w = d_l = −βf'(βΔ)``."""
        d = self.beta * GPO_FUNCTIONS[self.f][1](self.beta * logps.corrected_margin)
        return d, d
