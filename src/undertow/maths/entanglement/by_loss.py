"""Which losses would disentangle a pair: one model, one set of inner products, every loss."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from undertow.maths.entanglement.changes import IDEAL, cases
from undertow.maths.losses import Logps, PairLoss, by_name, names
from undertow.maths.precision import in_float64

__all__ = ["CasesByLoss", "cases_by_loss"]


@dataclass(frozen=True, slots=True, eq=False)
class CasesByLoss:
    """The case of every pair under every loss.

    ``cases``: int8 ``[pairs]`` by the loss's name, codes as in :func:`~undertow.maths.entanglement.changes.cases`.
    ``weights``: ``(d_w, d_l)``, each ``[pairs]``, likewise. ``left_out``: losses that could not be evaluated, by name,
    each with the reason.
    """

    cases: Mapping[str, Tensor]
    weights: Mapping[str, tuple[Tensor, Tensor]]
    left_out: Mapping[str, str]

    def ideal_for(self, pair: int) -> list[str]:
        """The losses that put this pair into case 1."""
        return [name for name, found in self.cases.items() if found.flatten()[pair].item() == IDEAL]


def cases_by_loss(
    logps: Logps,
    gg_chosen: Tensor,
    gg_cross: Tensor,
    gg_rejected: Tensor,
    *,
    losses: Mapping[str, PairLoss] | Iterable[PairLoss] | None = None,
) -> CasesByLoss:
    """Cases under many losses; the gradients are the model's, so one pass over the data answers for all.

    Args:
        logps: the pairs; gradient norms are filled in from ``gg_chosen`` and ``gg_rejected`` where they are missing.
        gg_chosen: ``‖g_w‖²``, ``[pairs]``.
        gg_cross: ``⟨g_w, g_l⟩``, ``[pairs]``.
        gg_rejected: ``‖g_l‖²``, ``[pairs]``.
        losses: by name, or a collection, which is then named by ``repr``; every registered loss with its usual
            parameters when not given. Those that cannot be evaluated (no reference, no usual parameters, …) are then
            left out with the reason.

    Raises:
        ValueError: when a loss that was asked for by the caller cannot be evaluated on these pairs.
    """
    if logps.chosen_grad_norms is None and logps.rejected_grad_norms is None:
        chosen, rejected = (in_float64(t).sqrt().to(logps.chosen) for t in (gg_chosen, gg_rejected))
        logps = replace(logps, chosen_grad_norms=chosen, rejected_grad_norms=rejected)
    asked, left_out = _named(losses)
    found: dict[str, Tensor] = {}
    weights_of: dict[str, tuple[Tensor, Tensor]] = {}
    for name, loss in asked.items():
        try:
            weights = loss.weights(logps)
        except ValueError as error:
            if losses is not None:
                raise
            left_out[name] = str(error)
        else:
            weights_of[name] = weights
            found[name] = cases(gg_chosen, gg_cross, gg_rejected, *weights)
    return CasesByLoss(found, weights_of, left_out)


def _named(losses: Mapping[str, PairLoss] | Iterable[PairLoss] | None) -> tuple[dict[str, PairLoss], dict[str, str]]:
    if isinstance(losses, Mapping):
        return dict(losses), {}
    if losses is not None:
        return {repr(loss): loss for loss in losses}, {}
    usual: dict[str, PairLoss] = {}
    without: dict[str, str] = {}
    for name in names():
        try:
            usual[name] = by_name(name)
        except ValueError as error:
            without[name] = str(error)
    return usual, without
