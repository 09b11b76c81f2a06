"""Gradient entanglement: which way the two log-probabilities of a pair move, to first order, and what would change it.

- :func:`first_order`, :func:`cases`, :func:`thresholds`: the changes for one step, their case, conditions (C1), (C2).
- :func:`band`, :func:`case_distance`: the ratios of weights that give case 1, and how far a pair is from its border.
- :func:`cases_by_loss`: which losses would put a pair into case 1.
- :func:`single_token_products`, :func:`last_token_gap`, :func:`position_gaps`: Theorem 1, Corollary 2, Theorem 3.

Source: Yuan et al. 2024, arXiv 2410.13828; the band: arXiv 2604.18239.
"""

from undertow.maths.entanglement.band import Band, CaseDistance, band, case_distance
from undertow.maths.entanglement.by_loss import CasesByLoss, cases_by_loss
from undertow.maths.entanglement.changes import (
    IDEAL,
    UNKNOWN,
    FirstOrder,
    Thresholds,
    cases,
    first_order,
    thresholds,
)
from undertow.maths.entanglement.theorems import (
    LastTokenGap,
    SingleTokenProducts,
    last_token_gap,
    position_gaps,
    single_token_products,
)

__all__ = [
    "IDEAL",
    "UNKNOWN",
    "Band",
    "CaseDistance",
    "CasesByLoss",
    "FirstOrder",
    "LastTokenGap",
    "SingleTokenProducts",
    "Thresholds",
    "band",
    "case_distance",
    "cases",
    "cases_by_loss",
    "first_order",
    "last_token_gap",
    "position_gaps",
    "single_token_products",
    "thresholds",
]
