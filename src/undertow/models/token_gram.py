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

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from undertow.data.tokens.encoder import TokenPair
from undertow.data.tokens.packing import pack
from undertow.maths.precision import in_float64
from undertow.maths.residuals import Residuals, residuals
from undertow.models.gradients import Response
from undertow.models.gram import Group, gradient_gram
from undertow.models.model import Model
from undertow.models.tangents import TokenTangents, response_tokens

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
    if packed and model.attention == "tree" and group.total <= packed_rows:
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
    (batch,) = pack([pair], pair.total)
    tangents, head = TokenTangents(model, parameters, batch), model.hf.get_output_embeddings().weight
    head_name = tangents.head_name
    ids = response_tokens([pair]).to(model.device)
    columns: list[Tensor] = []
    with torch.enable_grad():
        states = tangents.reading(batch)
        rows, pushes = tangents.read(states)
        for k in range(len(states)):
            # That of token k in all parameters that have one: through the states, and the unembedding's own.
            seed = torch.zeros_like(states)
            seed[k] = pushes[k].to(seed)
            through = torch.autograd.grad(states, list(parameters.values()), seed, retain_graph=True, allow_unused=True)
            direction = {name: value for name, value in zip(parameters, through, strict=True) if value is not None}
            if head_name is not None:
                at = states[k : k + 1].detach()
                own = residuals(at, head, ids[k : k + 1], **model.head.options(at))
                direction[head_name] = _in_head(own, direction.get(head_name, torch.zeros_like(head)))
            if scales is not None:
                direction = {name: value * scales[name] for name, value in direction.items()}
            columns.append(tangents.along(direction))
            if advance is not None:
                advance(1)
    values = torch.stack(columns, 1)
    # Either triangle is right to rounding; their mean is symmetric to the last digit.
    return TokenGram((values + values.T) / 2, in_float64(rows.logps), pair.chosen_tokens)


@torch.no_grad()
def _in_head(rows: Residuals, rest: Tensor) -> Tensor:
    """The gradient of one token in the unembedding: ``Rᵀ h``, and what the matrix has as an embedding."""
    whole = rest.clone()
    for slab, R, _ in rows.chunks():
        whole[slab] += (R.T @ rows.states).to(whole)
    return whole
