"""One look at the probe set: what a model, as it is now, says of its pairs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from undertow.data.tokens.encoder import TokenPair
from undertow.data.tokens.packing import pack
from undertow.models.forward import PairStates, pair_states
from undertow.models.model import Model
from undertow.scoring.columns import Row
from undertow.scoring.unembedding import response_logps
from undertow.training.tracking.gradients import GradientProbe, gradient_summary
from undertow.training.tracking.names import FULL

__all__ = ["Look", "evaluating", "look"]


@dataclass(frozen=True, slots=True)
class Look:
    """What one look at the probe set found.

    ``logps``: ``[pairs, 2]``, float64, in nats. ``next_token``: ``[pairs, V]``, float32: the distribution at the first
    position where the two responses differ. ``gradients``: tracked values of the pairs' gradients, where asked for.
    ``held_out``: as ``logps``, of the pairs that are not trained on.
    """

    logps: Tensor
    next_token: Tensor
    gradients: Mapping[str, float] = field(default_factory=dict)
    held_out: Tensor = field(default_factory=lambda: torch.zeros(0, 2, dtype=torch.float64))


@torch.no_grad()
def look(
    model: Model,
    probe: Sequence[TokenPair],
    batch_tokens: int = 4096,
    *,
    gradients: GradientProbe | None = None,
    held_out: Sequence[TokenPair] = (),
) -> Look:
    """Log-probabilities and next-token distributions of the probe pairs, by the model as it is now; their gradients
    too, where it is said by which loss. Of held-out pairs the log-probabilities."""
    logps: list[tuple[float, float]] = []
    rows: list[Tensor] = []
    products: list[Row] = []
    for batch in pack(probe, batch_tokens):
        for states in pair_states(model, batch):
            if gradients is not None:
                products.append(gradients.row(len(products), states, model.head))
            logps.append(response_logps(states, model.head))
            rows.append(_where_they_part(states, model))
    found: dict[str, float] = {}
    if gradients is not None:
        found = gradient_summary(products)
        if full := gradients.full_rows(model, probe):
            found |= gradient_summary(full, [FULL])
    unseen = [
        response_logps(states, model.head)
        for batch in pack(held_out, batch_tokens)
        for states in pair_states(model, batch)
    ]
    return Look(
        torch.tensor(logps, dtype=torch.float64),
        torch.stack(rows).cpu(),
        found,
        torch.tensor(unseen, dtype=torch.float64).view(-1, 2),
    )


def _where_they_part(states: PairStates, model: Model) -> Tensor:
    # The state after the shared tokens predicts the first token that differs. A response that is the beginning of the
    # other ends there: what comes next is looked at all the same.
    state = states.chosen[states.pair.shared_prefix_tokens]
    return model.head.logits(state).float().softmax(-1)


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; afterwards each part is in its own mode again, since some may be frozen in evaluation."""
    before = {part: part.training for part in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for part, training in before.items():
            part.training = training
