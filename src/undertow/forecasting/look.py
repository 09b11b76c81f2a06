"""The look: the model moved to where the simulated run ends, and what the real log-probabilities are there."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn

from undertow.data.tokens.encoder import TokenPair
from undertow.data.tokens.packing import pack
from undertow.models.gradients import Response, as_pairs
from undertow.models.model import Model
from undertow.runs.progress import Watcher
from undertow.training.forward import pair_logps

__all__ = ["moved", "paired_logps", "response_logps", "step_of_gradients"]


@torch.no_grad()
def response_logps(
    model: Model, responses: Iterable[Response], *, batch_tokens: int, watch: Watcher | None = None
) -> Tensor:
    """``ln π(y|x)`` of responses in order, ``[k]``, float64, in nats."""
    found = [torch.zeros(0, dtype=torch.float64)]
    for batch in pack(as_pairs(responses), batch_tokens):
        sums = pair_logps(model, batch.input_ids.to(model.device), batch.position_ids.to(model.device), batch.trees)
        found.append(sums["chosen"].double().cpu())
        _advance(watch, batch.pairs)
    return torch.cat(found)


@torch.no_grad()
def paired_logps(
    model: Model, pairs: Iterable[TokenPair], *, batch_tokens: int, watch: Watcher | None = None
) -> Tensor:
    """The same of both responses of pairs, ``[pairs, 2]``; each prompt goes through the model once."""
    found = [torch.zeros(0, 2, dtype=torch.float64)]
    for batch in pack(pairs, batch_tokens):
        sums = pair_logps(model, batch.input_ids.to(model.device), batch.position_ids.to(model.device), batch.trees)
        found.append(torch.stack([sums["chosen"], sums["rejected"]], dim=1).double().cpu())
        _advance(watch, batch.pairs)
    return torch.cat(found)


def _advance(watch: Watcher | None, pairs: tuple[TokenPair, ...]) -> None:
    if watch is not None:
        watch.advance(pairs=len(pairs), tokens=sum(pair.total for pair in pairs))


def step_of_gradients(parameters: Mapping[str, nn.Parameter], factors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``P g`` of the gradients that the parameters hold, which are taken from them; ``factors`` is ``±P^½``, flat."""
    found = {}
    for name, parameter in parameters.items():
        if parameter.grad is not None:
            found[name] = parameter.grad.mul_(factors[name].view_as(parameter)).mul_(factors[name].view_as(parameter))
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
