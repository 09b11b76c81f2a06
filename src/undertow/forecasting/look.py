"""The look: the model moved to where the simulated run ends, and what the real log-probabilities are there."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn

from undertow.data.tokens.encoder import TokenPair
from undertow.data.tokens.packing import pack
from undertow.forecasting.measure import Engine
from undertow.forecasting.moments import add_gradient
from undertow.models.gradients import Response, as_pairs
from undertow.models.model import Model
from undertow.runs.progress import Watcher
from undertow.training.forward import batch_logps

__all__ = ["moved", "paired_logps", "response_logps", "step_along"]


def paired_logps(
    model: Model, pairs: Iterable[TokenPair], *, batch_tokens: int, watch: Watcher | None = None
) -> Tensor:
    """``ln π(y|x)`` of both responses of pairs, by the weights of their tokens, ``[pairs, 2]``, float64, in nats; each
    prompt is run once."""
    found = [torch.zeros(0, 2, dtype=torch.float64)]
    with torch.no_grad():
        for batch in pack(pairs, batch_tokens):
            sums = batch_logps(model, batch)
            found.append(torch.stack([sums["chosen"], sums["rejected"]], dim=1).double().cpu())
            if watch is not None:
                watch.advance(pairs=len(batch.pairs), tokens=sum(pair.total for pair in batch.pairs))
    return torch.cat(found)


def response_logps(model: Model, responses: Iterable[Response], *, batch_tokens: int) -> Tensor:
    """The same of single responses, ``[k]``."""
    return paired_logps(model, as_pairs(responses), batch_tokens=batch_tokens)[:, 0]


def step_along(
    engine: Engine,
    pairs: Iterable[TokenPair],
    coefficients: Tensor,
    scales: Mapping[str, Tensor] | None,
    watch: Watcher,
    *,
    fold: Callable[[str, Tensor], None] | None = None,
) -> dict[str, Tensor]:
    """``P Σ coefficient · ∇ ln π(y|x)`` by parameter, for both responses of pairs.

    Args:
        engine: the model.
        pairs: in the order of the coefficients.
        coefficients: ``[pairs, 2]``.
        scales: ``P^½`` by parameter; ``P = 1`` where None.
        watch: told of the progress.
        fold: given each gradient, flat, before it is scaled.
    """
    add_gradient(
        engine.model, pairs, coefficients, batch_tokens=engine.batch_tokens, products=engine.products, watch=watch
    )
    found = {}
    for name, parameter in engine.parameters.items():
        if parameter.grad is not None:
            if fold is not None:
                fold(name, parameter.grad.flatten())
            found[name] = parameter.grad
            if scales is not None:
                found[name].mul_(scales[name]).mul_(scales[name])
            parameter.grad = None
    return found


@contextlib.contextmanager
@torch.no_grad()
def moved(parameters: Mapping[str, nn.Parameter], step: Mapping[str, Tensor], size: float = 1.0) -> Iterator[None]:
    """The weights at ``θ + size · step`` while the context lasts, and to the last bit as they were after it."""
    before = {name: parameters[name].detach().clone() for name in step}
    try:
        for name, change in step.items():
            parameters[name].add_(change, alpha=size)
        yield
    finally:
        for name, value in before.items():
            parameters[name].copy_(value)
