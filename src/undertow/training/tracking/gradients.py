"""Which way the run's own loss pushes each probe pair, by exact inner products of its gradients, look by look.

The numbers are those of an audit of the model as it is, with the run's loss and reference: of level ``unembedding`` for
all probe pairs, and of level ``gradient``, over all trained parameters (``full_``), for as many as are cheap enough.
For the columns of an audit that start with ``free_``, the hidden embeddings move too (Razin et al. 2024, Theorem 6).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from undertow.data.tokens.encoder import TokenPair
from undertow.maths.losses import PairLoss
from undertow.models.families import Head
from undertow.models.forward import PairStates
from undertow.models.gradients import trained_parameters
from undertow.models.model import Model
from undertow.scoring.columns import CASES, PRODUCT_PARTS, Row
from undertow.scoring.gradient import FullProducts, full_row
from undertow.scoring.unembedding import unembedding_row
from undertow.training.tracking.names import FREE, FULL, OWN

__all__ = ["FullProbe", "GradientProbe", "gradient_summary"]

_KINDS = {OWN: ("gg",), FREE: ("gg", "hh"), FULL: ("full_gg",)}
"""Of each the columns of products that add up."""


class FullProbe:
    """The probe pairs whose gradients over all trained parameters are multiplied.

    Args:
        numbers: theirs, among the probe pairs.
        products: bfloat16 where the run trains with products in it.
    """

    def __init__(self, numbers: Sequence[int], products: torch.dtype | None = None) -> None:
        self.numbers = numbers
        self._dtype = products
        self._packed: bool | None = None

    def of(self, model: Model) -> FullProducts:
        """The model's; whether its gradients can be had by layers is found out once."""
        parameters = trained_parameters(model.hf)
        if self._packed is None:
            self._packed = FullProducts.of(model, parameters).packed
        return FullProducts(model, parameters, self._packed, products=self._dtype)


@dataclass(frozen=True, slots=True, eq=False)
class GradientProbe:
    """What an audit of the probe pairs needs besides the model in training.

    ``loss``: the run's, which gives the weights. ``reference``: ``ln π_ref`` of each probe pair's two responses,
    ``[pairs, 2]``; None where the model as it is now is its own reference. ``full``: for which pairs the gradients over
    all trained parameters are multiplied too.
    """

    loss: PairLoss
    reference: Tensor | None = None
    full: FullProbe | None = None

    def at_step(self, step: int) -> Self:
        """The same with the loss as it is at that step of the optimiser."""
        return replace(self, loss=self.loss.at_step(step))

    def row(self, index: int, states: PairStates, head: Head) -> Row:
        """An audit's numbers of one probe pair."""
        return unembedding_row(states, head, self.loss, self._reference(index))

    def full_rows(self, model: Model, probe: Sequence[TokenPair]) -> list[Row]:
        """The numbers that level ``gradient`` adds, of those pairs that it is for."""
        if self.full is None:
            return []
        products = self.full.of(model)
        some = [probe[number] for number in self.full.numbers]
        each = zip(self.full.numbers, some, products.pairs(some), strict=True)
        return [
            full_row(
                found,
                list(products.parameters),
                logps,
                (pair.chosen_tokens, pair.rejected_tokens),
                self.loss,
                self._reference(number),
            )
            for number, pair, (found, logps) in each
        ]

    def _reference(self, index: int) -> tuple[float, float] | None:
        if self.reference is None or not self.loss.needs_reference:
            return None
        chosen, rejected = self.reference[index].tolist()
        return chosen, rejected


@torch.no_grad()
def gradient_summary(rows: Sequence[Row], prefixes: Sequence[str] = (OWN, FREE)) -> dict[str, float]:
    """The tracked values of the probe pairs' gradients, in each way that is asked for, its prefix before the names.

    ``gradient/chosen``, ``gradient/cross``, ``gradient/rejected``: the mean inner products. ``gradient/condition``: the
    share of pairs whose chosen response one step on the pair raises, to first order. ``case/0`` … ``case/4``: the share
    of pairs of each case, which sum to 1. Of the shares, pairs with a number that is not finite are left out.
    """
    found: dict[str, float] = {}
    for prefix in prefixes:
        for part in PRODUCT_PARTS:
            values = sum(_column(rows, f"{kind}_{part}") for kind in _KINDS[prefix])
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
