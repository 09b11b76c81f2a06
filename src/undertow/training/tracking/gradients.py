"""Which way the run's own loss pushes each probe pair, by exact inner products of its gradients, look by look.

The numbers are those of an audit of the model as it is (level ``unembedding``), with the run's loss and reference. For
the columns of an audit that start with ``free_``, the hidden embeddings move too (Razin et al. 2024, Theorem 6).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from undertow.maths.losses import PairLoss
from undertow.models.families import Head
from undertow.models.forward import PairStates
from undertow.scoring.columns import CASES, PRODUCT_PARTS, Row
from undertow.scoring.unembedding import unembedding_row

__all__ = ["GradientProbe", "gradient_summary"]


@dataclass(frozen=True, slots=True, eq=False)
class GradientProbe:
    """What an audit of the probe pairs needs besides the model in training.

    ``loss``: the run's, which gives the weights. ``reference``: ``ln π_ref`` of each probe pair's two responses,
    ``[pairs, 2]``; None where the model as it is now is its own reference.
    """

    loss: PairLoss
    reference: Tensor | None = None

    def at_step(self, step: int) -> Self:
        """The same with the loss as it is at that step of the optimiser."""
        return replace(self, loss=self.loss.at_step(step))

    def row(self, index: int, states: PairStates, head: Head) -> Row:
        """An audit's numbers of one probe pair."""
        reference: tuple[float, float] | None = None
        if self.reference is not None and self.loss.needs_reference:
            chosen, rejected = self.reference[index].tolist()
            reference = chosen, rejected
        return unembedding_row(states, head, self.loss, reference)


@torch.no_grad()
def gradient_summary(rows: Sequence[Row]) -> dict[str, float]:
    """The tracked values of the probe pairs' gradients, each with and without ``free_`` before its name.

    ``gradient/chosen``, ``gradient/cross``, ``gradient/rejected``: the mean inner products. ``gradient/condition``: the
    share of pairs whose chosen response one step on the pair raises, to first order. ``case/0`` … ``case/4``: the share
    of pairs of each case, which sum to 1. Of the shares, pairs with a number that is not finite are left out.
    """
    found: dict[str, float] = {}
    for prefix, kinds in (("", ("gg",)), ("free_", ("gg", "hh"))):
        for part in PRODUCT_PARTS:
            values = sum(_column(rows, f"{kind}_{part}") for kind in kinds)
            found[f"{prefix}gradient/{part}"] = float(np.mean(values))
        case = _column(rows, f"{prefix}case")
        known = case >= 0
        rises = _column(rows, f"{prefix}dlogp_chosen") > 0
        found[f"{prefix}gradient/condition"] = _share(rises[known])
        found |= {f"{prefix}case/{number}": _share(case[known] == number) for number in CASES}
    return found


def _column(rows: Sequence[Row], name: str) -> NDArray[np.float64]:
    return np.array([row[name] for row in rows], dtype=np.float64)


def _share(flags: NDArray[np.bool_]) -> float:
    return float(flags.mean()) if flags.size else float("nan")
