"""How far a forecast may be off, and so how probable it is that a response ends lower."""

from __future__ import annotations

from typing import TYPE_CHECKING

from undertow.maths.later import torch

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["forecast_error", "probability_below"]

BENT = 0.5
"""The part of what curvature adds that is taken as its standard error: it is a second-order term along one direction,
measured at one point, and real paths turn. Measured: residuals of the quarter of pairs that bend most are 0.4 of it."""
DRAWS = 2.0
"""Sketch and draw of rows each lose about as much."""


def forecast_error(squares: Tensor, linear: Tensor, bend: Tensor, length: float, sketch: int) -> Tensor:
    """Standard error of a forecast, ``[R]``, in nats, to a factor of some 1.5.

    ``σ_r² = 2 (K_rr ℓ² + f_r²)/D + (b_r/2)²``: the change ``f_r = ⟨φ_r, θ̂⟩`` is an inner product of two sketches, whose
    variance is at most ``(‖φ_r‖² ‖θ̂‖² + f_r²)/D`` (Charikar, Chen and Farach-Colton 2002).

    Args:
        squares: ``K_rr``, ``[R]``.
        linear: ``f``, ``[R]``, changes on the linear model.
        bend: ``b``, ``[R]``, what curvature adds.
        length: ``ℓ² = wᵀKw``.
        sketch: ``D``; 0 where products are exact.
    """
    drawn = DRAWS * (squares.clamp_min(0) * max(length, 0.0) + linear.square()) / sketch if sketch else 0.0
    return (drawn + (BENT * bend).square()).sqrt()


def probability_below(changes: Tensor, error: Tensor) -> Tensor:
    """``P(change < 0)`` of a normal error, ``[R]``; 0 or 1 where there is none."""
    sure = (changes < 0).to(changes.dtype)
    some = error > 0
    scaled = torch.where(some, changes / torch.where(some, error, torch.ones_like(error)), torch.zeros_like(changes))
    return torch.where(some, torch.special.ndtr(-scaled), sure)
