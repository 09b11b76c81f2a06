"""What one step of descent does to the two log-probabilities, to first order, and which case that is (theory 5.1, 5.2).

Everything follows from five numbers a pair: the inner products of the two gradients, ``gg_chosen = ‖g_w‖²``,
``gg_cross = ⟨g_w, g_l⟩``, ``gg_rejected = ‖g_l‖²``, over whatever parameters are considered, and the weights ``d_w``,
``d_l`` of the loss (:mod:`undertow.maths.losses`). All are ``[...]``; the arithmetic is in float64, without division,
since a weight can be 0 or negative.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from undertow.maths.precision import in_float64

__all__ = ["IDEAL", "UNKNOWN", "FirstOrder", "Thresholds", "cases", "first_order", "thresholds"]

IDEAL = 1
"""The case everybody wants: chosen up, rejected down."""

UNKNOWN = -1
"""No case: an input is NaN, a change is undefined, or no two gradients have such inner products."""

ROUNDING = 1e-4
"""By how much, relative, ``gg_cross²`` may exceed ``gg_chosen·gg_rejected``: what sums in float32 leave."""


@dataclass(frozen=True, slots=True, eq=False)
class FirstOrder:
    """First-order changes for one step with unit learning rate, in nats; float64, ``[...]``.

    ``dlogp_chosen``: ``Δa = d_w‖g_w‖² − d_l⟨g_w,g_l⟩``. ``dlogp_rejected``: ``Δb = d_w⟨g_w,g_l⟩ − d_l‖g_l‖²``.
    ``dmargin``: ``Δ(a − b)``, to be read beside the case: with unequal weights both can rise while the margin shrinks.
    """

    dlogp_chosen: Tensor
    dlogp_rejected: Tensor
    dmargin: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Thresholds:
    """What multiplies the squared norms in (C1) and (C2); float64, ``[...]``.

    For positive weights the chosen response rises iff ``⟨g_w,g_l⟩ ≤ chosen·‖g_w‖²`` (C1, ``chosen = d_w/d_l``) and the
    rejected one falls iff ``⟨g_w,g_l⟩ ≤ rejected·‖g_l‖²`` (C2, ``rejected = d_l/d_w``).
    """

    chosen: Tensor
    rejected: Tensor


@torch.no_grad()
def first_order(
    gg_chosen: Tensor, gg_cross: Tensor, gg_rejected: Tensor, d_chosen: Tensor, d_rejected: Tensor
) -> FirstOrder:
    """The first-order changes of ``ln π(y⁺|x)``, ``ln π(y⁻|x)`` and their margin.

    >>> one = torch.tensor(1.0)  # numbers as gradients: g_w = 1, g_l = 1.5; weights 2 and 1
    >>> found = first_order(one, 1.5 * one, 2.25 * one, 2 * one, one)
    >>> found.dlogp_chosen.item(), found.dlogp_rejected.item(), found.dmargin.item()
    (0.5, 0.75, -0.25)
    """
    ww, wl, ll, d_w, d_l = (in_float64(t) for t in (gg_chosen, gg_cross, gg_rejected, d_chosen, d_rejected))
    chosen, rejected = d_w * ww - d_l * wl, d_w * wl - d_l * ll
    # Not the difference of the two: their large common part would cancel.
    return FirstOrder(chosen, rejected, d_w * (ww - wl) + d_l * (ll - wl))


@torch.no_grad()
def cases(gg_chosen: Tensor, gg_cross: Tensor, gg_rejected: Tensor, d_chosen: Tensor, d_rejected: Tensor) -> Tensor:
    """The case of each pair, ``[...]``, int8.

    1: ``Δa ≥ 0 ≥ Δb``, the ideal. 2: ``Δa < 0``, ``Δb ≤ 0``, both down. 3: ``Δa ≥ 0``, ``Δb > 0``, both up.
    4: ``Δa < 0 < Δb``, reversed, possible only when a weight is not positive. 0: both weights are 0, no gradient.
    −1 (:data:`UNKNOWN`): an input is NaN, infinities meet in a change, or the weights are positive and the result is
    the reverse, which no two gradients can give (Cauchy and Schwarz); where that is only rounding, the changes are 0 to
    rounding and the case is 1.
    """
    found = first_order(gg_chosen, gg_cross, gg_rejected, d_chosen, d_rejected)
    ww, wl, ll, d_w, d_l = (in_float64(t) for t in (gg_chosen, gg_cross, gg_rejected, d_chosen, d_rejected))
    falls, rises = found.dlogp_chosen < 0, found.dlogp_rejected > 0
    code = 1 + falls.to(torch.int8) + 2 * rises.to(torch.int8)  # 1, 2, 3, and 4 for both
    impossible = (code == 4) & (d_w > 0) & (d_l > 0)
    parallel = wl.square() <= (1 + ROUNDING) * ww * ll
    code = torch.where(impossible, torch.where(parallel, IDEAL, UNKNOWN), code)
    code = torch.where((d_w == 0) & (d_l == 0), 0, code)
    code = torch.where(found.dlogp_chosen.isnan() | found.dlogp_rejected.isnan(), UNKNOWN, code)
    return code.to(torch.int8)


@torch.no_grad()
def thresholds(d_chosen: Tensor, d_rejected: Tensor) -> Thresholds:
    """``d_w/d_l`` and ``d_l/d_w``; over a weight of 0: +inf for a positive one, −inf for a negative one, NaN for 0.

    They mean something only while both weights are positive or 0: two negative weights have the ratio of two positive
    ones and the opposite effect. :func:`cases` has no such gap.
    """
    d_w, d_l = in_float64(d_chosen), in_float64(d_rejected)
    return Thresholds(_over(d_w, d_l), _over(d_l, d_w))


def _over(top: Tensor, bottom: Tensor) -> Tensor:
    return top / torch.where(bottom == 0, 0.0, bottom)  # −0 must not turn the infinity round
