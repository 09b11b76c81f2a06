"""What an SFT term or unequal weights add (Razin et al. 2024, arXiv 2410.08847, Propositions 1 and 2).

``a = ln π(y⁺|x)``, ``b = ln π(y⁻|x)``, ``M = a − b``, ``g_w = ∇a``, ``g_l = ∇b`` in *any* parametrisation, and
``E = −ℓ'(M)·⟨g_w, g_w − g_l⟩``, the rate of ``a`` under the plain loss. Everything is per pair, ``[...]``; rates are in
nats per unit time.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from undertow.maths.precision import as_like

__all__ = ["SFTRate", "UnequalWeightsRate", "sft_rate", "unequal_weights_rate"]


@dataclass(frozen=True, slots=True, eq=False)
class SFTRate:
    """Proposition 1: under ``ℓ(a − b) − λa`` the rate of ``a`` is ``E + λ‖g_w‖²``; ``sft ≥ 0`` is the second term."""

    E: Tensor
    sft: Tensor

    @property
    def rate(self) -> Tensor:
        """``E + sft``."""
        return self.E + self.sft


@dataclass(frozen=True, slots=True, eq=False)
class UnequalWeightsRate:
    """Proposition 2: under ``ℓ(λ⁺a − λ⁻b)`` the rate of ``a`` is ``ρE + γ‖g_w‖²``.

    ``rho = λ⁻μ'/ℓ'(M)``, NaN or infinite where ``ℓ'(M) = 0``; ``gamma = (λ⁺ − λ⁻)(−μ')``, ``μ' = ℓ'(λ⁺a − λ⁻b)``.
    ``rate`` is computed as ``−μ'(λ⁺‖g_w‖² − λ⁻⟨g_w, g_l⟩)``: the same number, and defined there as well.
    """

    E: Tensor
    rho: Tensor
    gamma: Tensor
    rate: Tensor


def sft_rate(slope: Tensor, chosen_square: Tensor, cross: Tensor, *, sft_weight: Tensor | float) -> SFTRate:
    """Proposition 1.

    Args:
        slope: ``ℓ'(M)``, ``[...]``, negative for a loss that falls with the margin.
        chosen_square: ``‖g_w‖²``, ``[...]``.
        cross: ``⟨g_w, g_l⟩``, ``[...]``.
        sft_weight: ``λ``.

    Raises:
        ValueError: when a squared norm is negative.
    """
    _check_square(chosen_square)
    return SFTRate(-slope * (chosen_square - cross), sft_weight * chosen_square)


def unequal_weights_rate(
    slope: Tensor,
    weighted_slope: Tensor,
    chosen_square: Tensor,
    cross: Tensor,
    *,
    chosen_weight: Tensor | float,
    rejected_weight: Tensor | float,
) -> UnequalWeightsRate:
    """Proposition 2.

    Args:
        slope: ``ℓ'(M)``, ``[...]``.
        weighted_slope: ``μ' = ℓ'(λ⁺a − λ⁻b)``, ``[...]``.
        chosen_square: ``‖g_w‖²``, ``[...]``.
        cross: ``⟨g_w, g_l⟩``, ``[...]``.
        chosen_weight: ``λ⁺``.
        rejected_weight: ``λ⁻``.

    Raises:
        ValueError: when a squared norm is negative.
    """
    _check_square(chosen_square)
    plus, minus = (as_like(w, chosen_square) for w in (chosen_weight, rejected_weight))
    return UnequalWeightsRate(
        E=-slope * (chosen_square - cross),
        rho=minus * weighted_slope / slope,
        gamma=-(plus - minus) * weighted_slope,
        rate=-weighted_slope * (plus * chosen_square - minus * cross),
    )


def _check_square(square: Tensor) -> None:
    if bool((square < 0).any()):
        raise ValueError(f"‖g_w‖² cannot be negative, got {square.min().item():g}; were the arguments swapped?")
