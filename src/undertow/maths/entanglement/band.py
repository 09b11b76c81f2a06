"""For which ratios of the weights a pair is disentangled, and how far it is from another case (arXiv 2604.18239).

With positive weights the case depends on them only through ``r = d_w/d_l``: from 0 upwards a pair with
``⟨g_w,g_l⟩ > 0`` is in case 2 (both down), then, in a band of ratios, in case 1, then in case 3 (both up). With
``⟨g_w,g_l⟩ ≤ 0`` every ratio gives case 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from undertow.maths.entanglement.changes import IDEAL, UNKNOWN, cases
from undertow.maths.precision import in_float64

__all__ = ["Band", "CaseDistance", "band", "case_distance"]


@dataclass(frozen=True, slots=True, eq=False)
class Band:
    """The disentanglement band of each pair; float64, ``[...]``.

    ``cosine``: ``ρ`` of the two gradients, NaN where one of them is 0. ``norm_ratio``: ``r* = ‖g_l‖/‖g_w‖``, always
    inside the band; calibration moves the ratio there. ``lower``, ``upper``: ``[ρ r*, r*/ρ]``, the ratios that give
    case 1; 0 and +inf where ``ρ ≤ 0`` or a gradient is 0.
    """

    cosine: Tensor
    norm_ratio: Tensor
    lower: Tensor
    upper: Tensor

    def contains(self, ratio: Tensor | float) -> Tensor:
        """Whether a ratio of positive weights lies in the band, ``[...]``; False where something is NaN."""
        return (self.lower <= ratio) & (ratio <= self.upper)


@dataclass(frozen=True, slots=True, eq=False)
class CaseDistance:
    """How far each pair is from the border of case 1; ``[...]``. NaN, NaN and −1 unless both weights are positive.

    Both distances are positive in case 1, where they are what it takes to leave it, and negative in cases 2 and 3,
    where they are what it takes to come in.

    ``log_ratio``: by how much ``ln(d_w/d_l)`` must move with the gradients as they are, ``ln(edge/⟨g_w,g_l⟩)``; down
    from case 1 to 2, up from case 1 to 3, and the other way in; +inf where no ratio ends case 1 (``⟨g_w,g_l⟩ ≤ 0``).
    ``inner_product``: by how much ``⟨g_w,g_l⟩`` must grow with weights and norms as they are, ``edge − ⟨g_w,g_l⟩``.
    ``edge = min(r‖g_w‖², ‖g_l‖²/r)``, the smaller side of (C1) and (C2).
    ``next_case``, int8: 1 from outside; from case 1 the one behind the nearer edge (2 where both are equally near).
    """

    log_ratio: Tensor
    inner_product: Tensor
    next_case: Tensor


@torch.no_grad()
def band(gg_chosen: Tensor, gg_cross: Tensor, gg_rejected: Tensor) -> Band:
    """The band of ratios ``d_w/d_l`` in which a pair is in case 1; exactly (C1) and (C2) of theory 5.1.

    Args:
        gg_chosen: ``‖g_w‖²``, ``[...]``.
        gg_cross: ``⟨g_w, g_l⟩``.
        gg_rejected: ``‖g_l‖²``.
    """
    ww, wl, ll = (in_float64(t) for t in (gg_chosen, gg_cross, gg_rejected))
    entangled = wl > 0
    unknown = ww.isnan() | wl.isnan() | ll.isnan()
    lower = torch.where(entangled, wl / ww, 0.0)  # ρ r*, without its roots
    upper = torch.where(entangled, ll / wl, torch.inf)
    return Band(
        cosine=wl / (ww.sqrt() * ll.sqrt()),
        norm_ratio=ll.sqrt() / ww.sqrt(),
        lower=lower.masked_fill(unknown, torch.nan),
        upper=upper.masked_fill(unknown, torch.nan),
    )


@torch.no_grad()
def case_distance(
    gg_chosen: Tensor, gg_cross: Tensor, gg_rejected: Tensor, d_chosen: Tensor, d_rejected: Tensor
) -> CaseDistance:
    """How far the ratio of the weights, or the inner product, must move for another case; all arguments ``[...]``."""
    ww, wl, ll, d_w, d_l = (in_float64(t) for t in (gg_chosen, gg_cross, gg_rejected, d_chosen, d_rejected))
    ratio = d_w / d_l
    chosen_edge, rejected_edge = ratio * ww, ll / ratio
    edge = torch.minimum(chosen_edge, rejected_edge)
    log_ratio = torch.where(wl > 0, edge.log() - wl.log(), torch.inf)
    now = cases(gg_chosen, gg_cross, gg_rejected, d_chosen, d_rejected)
    next_case = torch.where(now == IDEAL, torch.where(chosen_edge <= rejected_edge, 2, 3), IDEAL)
    known = (d_w > 0) & (d_l > 0) & edge.isfinite() & (now != UNKNOWN)
    return CaseDistance(
        log_ratio=torch.where(known, log_ratio, torch.nan),
        inner_product=torch.where(known, edge - wl, torch.nan),
        next_case=torch.where(known, next_case, UNKNOWN).to(torch.int8),
    )
