"""Inner products of the gradients of single tokens: which token of one response pulls which of the other, exact.

The gradient of ``ln p(y_k | x, y_<k)`` is that of a response of one token to the prompt ``x, y_<k``. Two ways lead to
all their inner products, by which is less work:

- Short responses: every token is such a response, all in one pack, multiplied layer by layer
  (:mod:`undertow.models.gram`). What entered the layers is the same for all of them, text by text, and is multiplied
  once. Its rows grow with the square of the length.
- Long ones: column k is the change of every token's log-probability along the gradient of token k: one backward pass
  for the gradient, one forward pass with tangents for the change. Two gradients are in memory, whatever the length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from undertow.data.tokens.encoder import TokenPair
from undertow.data.tokens.packing import pack
from undertow.maths.precision import full_precision, in_float64
from undertow.maths.residuals import Residuals, residuals
from undertow.maths.unembedding import pull
from undertow.models.families import find_backbone
from undertow.models.gradients import Response
from undertow.models.gram import Group, gradient_gram
from undertow.models.model import Model

__all__ = ["PACKED_ROWS", "TokenGram", "token_gram"]

PACKED_ROWS = 4096
"""Up to so many rows of the pack all tokens go through the model at once."""


@dataclass(frozen=True, slots=True, eq=False)
class TokenGram:
    """Inner products of the gradients of all tokens of a pair.

    Attributes:
        values: ``[n⁺ + n⁻, n⁺ + n⁻]``, float64, chosen tokens first. All of a block sum to the product of the
            responses' gradients.
        logps: ``[n⁺ + n⁻]``, in nats.
        chosen_tokens: n⁺.
    """

    values: Tensor
    logps: Tensor
    chosen_tokens: int

    @property
    def cross(self) -> Tensor:
        """Chosen by rejected tokens, ``[n⁺, n⁻]``."""
        return self.values[: self.chosen_tokens, self.chosen_tokens :]

    def cosines(self) -> Tensor:
        """Of all pairs of tokens; 0 where a gradient is 0."""
        norms = self.values.diagonal().clamp_min(0).sqrt()
        bound = norms[:, None] * norms
        return torch.where(bound > 0, self.values / bound, torch.zeros_like(self.values))


def token_gram(
    model: Model,
    pair: TokenPair,
    parameters: Mapping[str, nn.Parameter],
    *,
    scales: Mapping[str, Tensor] | None = None,
    packed: bool = True,
    packed_rows: int = PACKED_ROWS,
    advance: Callable[[int], None] | None = None,
) -> TokenGram:
    """All inner products of the gradients of a pair's tokens over the parameters.

    Args:
        model: with the weights to differentiate at.
        pair: its tokens.
        parameters: by name, which all ask for gradients.
        scales: by parameter, the optimiser's ``P``; None for plain products.
        packed: whether the model's gradients can be had by layers (``check_products``).
        packed_rows: see :data:`PACKED_ROWS`.
        advance: told how many tokens are done.
    """
    group = _group(pair)
    if packed and sum(one.total for one in group.responses) <= packed_rows:
        (found,), logps = gradient_gram(model, [group], parameters, scales=scales)
        return TokenGram(found.sum(0), in_float64(logps), pair.chosen_tokens)
    return _by_directions(model, pair, parameters, scales, advance)


def _group(pair: TokenPair) -> Group:
    """Every token as a response to all before it."""
    p, n, m = len(pair.prompt), pair.chosen_tokens, pair.rejected_tokens
    responses, places = [], []
    for tokens, begin in ((pair.chosen, p), (pair.rejected, p + n)):
        for k, token in enumerate(tokens):
            responses.append(Response(pair.prompt + tokens[:k], (token,)))
            places.append((*range(p), *range(begin, begin + k + 1)))
    return Group(tuple(responses), tuple(places), p + n + m)


def _by_directions(
    model: Model,
    pair: TokenPair,
    parameters: Mapping[str, nn.Parameter],
    scales: Mapping[str, Tensor] | None,
    advance: Callable[[int], None] | None,
) -> TokenGram:
    backbone = find_backbone(model.hf)
    head = model.hf.get_output_embeddings().weight
    names = {id(parameter): name for name, parameter in parameters.items()}
    inside = {here: names.get(id(parameter)) for here, parameter in backbone.named_parameters()}
    columns: list[Tensor] = []
    with torch.enable_grad():
        states, rows = _states(model, pair, backbone, {})
        with torch.no_grad(), full_precision():
            pushes = rows.pushes()
        for k in range(len(states)):
            direction = _gradient(states, rows, pushes, k, head, parameters)
            if scales is not None:
                direction = {name: value * scales[name] for name, value in direction.items()}
            # Of the attentions for plain sequences only this one knows tangents.
            with torch.no_grad(), forward_ad.dual_level(), sdpa_kernel(SDPBackend.MATH):
                duals = {
                    here: forward_ad.make_dual(parameters[name], direction[name])  # type: ignore[no-untyped-call]
                    for here, name in inside.items()
                    if name in direction
                }
                moved = forward_ad.unpack_dual(_read(model, pair, backbone, duals)).tangent  # type: ignore[no-untyped-call]
            change = in_float64(rows.logps.new_zeros(len(states)))
            if moved is not None:
                change = change + (in_float64(pushes) * in_float64(moved)).sum(1)
            head_name = names.get(id(head))
            if head_name in direction:
                change = change + pull(direction[head_name], rows)
            columns.append(change)
            if advance is not None:
                advance(1)
    values = torch.stack(columns, 1)
    # Either triangle is right to rounding; their mean is symmetric to the last digit.
    return TokenGram((values + values.T) / 2, in_float64(rows.logps), pair.chosen_tokens)


def _states(
    model: Model, pair: TokenPair, backbone: nn.Module, weights: Mapping[str, Tensor]
) -> tuple[Tensor, Residuals]:
    """What predicts each token, ``[N, d]`` with its graph, and the residual rows there."""
    states = _read(model, pair, backbone, weights)
    ids = torch.tensor([*pair.chosen, *pair.rejected], device=states.device)
    found = states.detach()
    return states, residuals(found, model.hf.get_output_embeddings().weight, ids, **model.head.options(found))


def _read(model: Model, pair: TokenPair, backbone: nn.Module, weights: Mapping[str, Tensor]) -> Tensor:
    """The states that predict the tokens, chosen first: by one packed tree, or by two sequences."""

    def hidden(ids: Tensor, **packed: object) -> Tensor:
        arguments = {"input_ids": ids.to(model.device), "use_cache": False, **packed}
        state: Tensor = functional_call(backbone, dict(weights), (), arguments).last_hidden_state[0]
        return state

    p, n, m = len(pair.prompt), pair.chosen_tokens, pair.rejected_tokens
    if model.attention == "tree":
        (batch,) = pack([pair], p + n + m)
        whole = hidden(batch.input_ids, position_ids=batch.position_ids.to(model.device), trees=batch.trees)
        return whole[[p - 1, *range(p, p + n - 1), p - 1, *range(p + n, p + n + m - 1)]]
    parts = []
    for tokens in (pair.chosen, pair.rejected):
        whole = hidden(torch.tensor([[*pair.prompt, *tokens]]))
        parts.append(whole[p - 1 : p + len(tokens) - 1])
    return torch.cat(parts)


def _gradient(
    states: Tensor,
    rows: Residuals,
    pushes: Tensor,
    k: int,
    head: Tensor,
    parameters: Mapping[str, nn.Parameter],
) -> dict[str, Tensor]:
    """That of token k in all parameters that have one: through the states, and the unembedding's own."""
    seed = torch.zeros_like(states)
    seed[k] = pushes[k].to(seed)
    found = torch.autograd.grad(states, list(parameters.values()), seed, retain_graph=True, allow_unused=True)
    gradient = {name: value for name, value in zip(parameters, found, strict=True) if value is not None}
    for name, parameter in parameters.items():
        if parameter is head:
            own = torch.zeros_like(head) if name not in gradient else gradient[name].clone()
            for slab, row in _row_of(rows, k):
                own[slab] += (row[:, None] * rows.states[k]).to(own)
            gradient[name] = own
    return gradient


def _row_of(rows: Residuals, k: int) -> Iterator[tuple[slice, Tensor]]:
    with torch.no_grad():
        for slab, R, _ in rows.chunks():
            yield slab, R[k]
