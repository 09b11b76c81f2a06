"""What every preference loss would do to the pairs of an audit: from its table alone, at the audited model.

The gradients are the model's, so one pass over the data answers for all losses: only the two weights differ.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from undertow.filtering.what_if import CHANGES, falling
from undertow.maths.entanglement import cases, first_order
from undertow.maths.losses import Logps, PairLoss, RewardCalibrated, by_name, names
from undertow.scoring.columns import PRODUCT_PARTS, numbers_of

__all__ = ["LossEffect", "class_of", "under_losses"]

Mask: TypeAlias = NDArray[np.bool_]
Products: TypeAlias = tuple[Tensor, Tensor, Tensor]

_NO_REFERENCE = "the audit's reference is another model, whose log-probabilities the scores do not hold"
CALIBRATED = "reward-calibrated"


@dataclass(frozen=True, slots=True, eq=False)
class LossEffect:
    """What one step on each pair alone would do under a loss, to first order.

    Attributes:
        name: as on the command line; the audited loss's own expression for that.
        loss: its expression with all parameters.
        audited: whether it is the loss of the audit.
        cases: int8, ``[pairs]``, theory 5.2.
        falls: bool, ``[pairs]``: the chosen response's log-probability falls.
        free_falls: the same with free hidden embeddings.
    """

    name: str
    loss: str
    audited: bool
    cases: NDArray[np.int8]
    falls: Mask
    free_falls: Mask

    @property
    def share(self) -> float:
        """The share of pairs whose chosen response falls."""
        return float(self.falls.mean()) if len(self.falls) else float("nan")


def under_losses(table: pa.Table, audited: str, *, other_reference: bool) -> tuple[list[LossEffect], dict[str, str]]:
    """The audited loss and all others that can be evaluated, at their usual parameters.

    Args:
        table: scores of level ``unembedding``.
        audited: the expression of the audit's loss, ``DPO(beta=0.1)``.
        other_reference: whether the audit named another model as the reference: its log-probabilities are not in the
            table, so losses that need them cannot be evaluated.

    Returns:
        The effects, the audited loss's first; and why each other loss could not be evaluated, by name.
    """
    logps, products = _logps(table, other_reference), {kind: _products(table, kind) for kind in ("gg", "hh")}
    found, left_out = [_of_the_audit(table, audited)], dict[str, str]()
    for name, loss in _usual(left_out):
        if class_of(audited) == type(loss).__name__:
            continue
        try:
            found.append(_effect(name, loss, logps, products))
        except ValueError as error:
            left_out[name] = _NO_REFERENCE if other_reference and loss.needs_reference else str(error)
    return found, left_out


def class_of(expression: str) -> str:
    """The class named by a loss's expression: ``DPO`` of ``DPO(beta=0.1)``."""
    return expression.partition("(")[0]


def _usual(left_out: dict[str, str]) -> list[tuple[str, PairLoss]]:
    """Every registered loss with its usual parameters, and DPO with calibrated weights, the remedy for any of them."""
    found: list[tuple[str, PairLoss]] = []
    for name in names():
        try:
            found.append((name, by_name(name)))
        except ValueError as error:
            left_out[name] = str(error)
    return [*found, (CALIBRATED, RewardCalibrated(by_name("dpo")))]


def _effect(name: str, loss: PairLoss, logps: Logps, products: dict[str, Products]) -> LossEffect:
    weights = loss.weights(logps)
    own, (ww, wl, ll) = products["gg"], (g + h for g, h in zip(products["gg"], products["hh"], strict=True))
    return LossEffect(
        name=name,
        loss=repr(loss),
        audited=False,
        cases=cases(*own, *weights).numpy(),
        falls=falling(first_order(*own, *weights).dlogp_chosen.numpy()),
        free_falls=falling(first_order(ww, wl, ll, *weights).dlogp_chosen.numpy()),
    )


def _of_the_audit(table: pa.Table, audited: str) -> LossEffect:
    """As it stands in the table."""
    return LossEffect(
        name=audited,
        loss=audited,
        audited=True,
        cases=table["case"].to_numpy(),
        falls=falling(numbers_of(table, CHANGES["own"])),
        free_falls=falling(numbers_of(table, CHANGES["free"])),
    )


def _logps(table: pa.Table, other_reference: bool) -> Logps:
    chosen, rejected = _column(table, "logp_chosen"), _column(table, "logp_rejected")
    return Logps(
        chosen=chosen,
        rejected=rejected,
        ref_chosen=None if other_reference else chosen,
        ref_rejected=None if other_reference else rejected,
        chosen_tokens=_column(table, "chosen_tokens"),
        rejected_tokens=_column(table, "rejected_tokens"),
        chosen_grad_norms=_column(table, "gg_chosen").sqrt(),
        rejected_grad_norms=_column(table, "gg_rejected").sqrt(),
    )


def _products(table: pa.Table, kind: str) -> Products:
    chosen, cross, rejected = (_column(table, f"{kind}_{part}") for part in PRODUCT_PARTS)
    return chosen, cross, rejected


def _column(table: pa.Table, name: str) -> Tensor:
    return torch.tensor(numbers_of(table, name))  # a copy: a table's own memory cannot be written
