"""The free-features model and its one formula (theory 3.1): inner products of log-probability gradients.

The parameters are the unembedding matrix ``W`` and one free vector ``h_z`` for every distinct context ``z`` (prompt and
leading response tokens). For a response ``u`` to ``x`` and ``v`` to ``x'`` formula (F) is

    ``⟨∇ln π(u|x), ∇ln π(v|x')⟩ = Σ_{k,k'} ⟨R^u_k, R^v_{k'}⟩⟨h^u_k, h^v_{k'}⟩ + Σ_{same context} ⟨U^u_k, U^v_{k'}⟩``.

The first sum is the part of ``W`` (``gg``), the second that of the hidden embeddings (``hh``). Under gradient flow of
the mean loss, ``d/dt ln π(z|x) = (1/|D|) Σ_pairs [d_w F(z, y⁺) − d_l F(z, y⁻)]``; Theorems 4 to 9 of Razin et al. 2024
(arXiv 2410.08847) are cases of it with ``d_w = d_l = −ℓ'``. Rates are in nats per unit of flow time: one gradient step
of size η changes ``ln π`` by η times the rate, to first order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from undertow.maths.precision import full_precision
from undertow.maths.residuals import common_prefix, residuals

__all__ = ["InnerProduct", "Response", "ResponseRate", "inner_product", "response_rate"]


@dataclass(frozen=True, slots=True, eq=False)
class Response:
    """A response: ``tokens`` ``[n]`` and the hidden embeddings ``states`` ``[n, d]``, ``h_{x,y<k}`` for k = 1..n.

    ``prompt``: ``[q]``, the prompt's tokens; None when all responses in a call belong to one prompt. It decides which
    contexts are the same.
    """

    tokens: Tensor
    states: Tensor
    prompt: Tensor | None = None

    def __post_init__(self) -> None:
        if self.tokens.ndim != 1 or self.states.ndim != 2 or not len(self.tokens) == len(self.states) > 0:
            raise ValueError(
                "a response has tokens [n] and states [n, d] with n ≥ 1, "
                f"got {tuple(self.tokens.shape)} and {tuple(self.states.shape)}"
            )


@dataclass(frozen=True, slots=True, eq=False)
class InnerProduct:
    """Formula (F): ``gg`` with respect to ``W``, ``hh`` to the hidden embeddings, and their sum."""

    gg: Tensor
    hh: Tensor

    @property
    def total(self) -> Tensor:
        """``⟨∇ln π(u|x), ∇ln π(v|x')⟩`` over all parameters of the free-features model."""
        return self.gg + self.hh


@dataclass(frozen=True, slots=True, eq=False)
class ResponseRate:
    """Rate of ``ln π(z|x)`` and where it comes from: each ``[pairs]``, already weighted and divided by ``|D|``.

    ``gg_chosen``, ``hh_chosen``: what the pair's chosen response adds; ``gg_rejected``, ``hh_rejected``: what its
    rejected response takes away (the sign is inside).
    """

    gg_chosen: Tensor
    hh_chosen: Tensor
    gg_rejected: Tensor
    hh_rejected: Tensor

    @property
    def pairs(self) -> Tensor:
        """What each pair contributes, ``[pairs]``."""
        return self.gg_chosen + self.hh_chosen + self.gg_rejected + self.hh_rejected

    @property
    def rate(self) -> Tensor:
        """``d/dt ln π(z|x)``, in nats per unit time."""
        return self.pairs.sum()


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """A response with its residual rows ``R`` ``[n, V]`` and pushes ``U`` ``[n, d]``, so that they are made once."""

    response: Response
    states: Tensor
    R: Tensor
    U: Tensor


@torch.no_grad()
def inner_product(unembedding: Tensor, first: Response, second: Response) -> InnerProduct:
    """``⟨∇ln π(u|x), ∇ln π(v|x')⟩`` in the free-features model, formula (F); symmetric in the two.

    Args:
        unembedding: ``W``, ``[V, d]``.
        first: ``u``.
        second: ``v``; give both their prompts unless they answer the same one.

    Returns:
        Scalars in float32, or float64 when one of the inputs is. Memory grows with ``(|u| + |v|)·V``.

    Raises:
        ValueError: when shapes or ids do not fit, or only one of the two has a prompt.
    """
    return rows_product(rows_of(unembedding, first), rows_of(unembedding, second))


@torch.no_grad()
def response_rate(
    unembedding: Tensor,
    response: Response,
    pairs: Sequence[tuple[Response, Response]],
    *,
    chosen_weights: Tensor,
    rejected_weights: Tensor,
) -> ResponseRate:
    """``d/dt ln π(z|x)`` for any response to any prompt under the mean loss over any pairs (theory 3.1).

    Args:
        unembedding: ``W``, ``[V, d]``.
        response: ``z`` (a chosen or rejected one, or any other).
        pairs: the data set, (chosen, rejected) each.
        chosen_weights: ``d_w = −∂ℓ/∂ln π(y⁺|x)``, ``[pairs]``.
        rejected_weights: ``d_l = ∂ℓ/∂ln π(y⁻|x)``, ``[pairs]``; both are ``−ℓ'`` for a loss of the margin.

    Raises:
        ValueError: when there are no pairs, or shapes or ids do not fit.
    """
    if not pairs or len(chosen_weights) != len(pairs) or len(rejected_weights) != len(pairs):
        raise ValueError(
            f"one weight a pair and at least one pair: got {len(pairs)} pairs, "
            f"{len(chosen_weights)} chosen_weights and {len(rejected_weights)} rejected_weights"
        )
    z = rows_of(unembedding, response)
    parts = []
    for (chosen, rejected), d_w, d_l in zip(pairs, chosen_weights, rejected_weights, strict=True):
        plus, minus = (rows_product(z, rows_of(unembedding, y)) for y in (chosen, rejected))
        parts.append(torch.stack([d_w * plus.gg, d_w * plus.hh, -d_l * minus.gg, -d_l * minus.hh]) / len(pairs))
    return ResponseRate(*torch.stack(parts, dim=1))


def rows_of(unembedding: Tensor, response: Response) -> Rows:
    """The residual rows of a response: the expensive part of formula (F)."""
    with full_precision():
        streamed = residuals(response.states, unembedding, response.tokens)
        return Rows(response, streamed.states, streamed.rows(), streamed.pushes())


def rows_product(first: Rows, second: Rows) -> InnerProduct:
    """Formula (F) from residual rows."""
    with full_precision():
        gg = ((first.R @ second.R.T) * (first.states @ second.states.T)).sum()
    u, v = same_contexts(first.response, second.response)
    return InnerProduct(gg, (first.U[u] * second.U[v]).sum())


def same_contexts(first: Response, second: Response) -> tuple[slice, slice]:
    """The positions of two responses whose whole context is the same sequence of tokens: equally many of each.

    A context is a prefix of prompt and response; it is shared when it is no longer than the two sequences' common
    prefix and holds both prompts. So one prompt may go on where another ended.
    """
    (whole_u, q_u), (whole_v, q_v) = _whole(first), _whole(second)
    if (first.prompt is None) != (second.prompt is None):
        raise ValueError("give both responses their prompts, or none when they answer the same one")
    shared = common_prefix(whole_u, whole_v)
    shortest = max(q_u, q_v)
    longest = min(shared, q_u + len(first.tokens) - 1, q_v + len(second.tokens) - 1)
    count = max(0, longest - shortest + 1)
    return slice(shortest - q_u, shortest - q_u + count), slice(shortest - q_v, shortest - q_v + count)


def _whole(response: Response) -> tuple[Tensor, int]:
    if response.prompt is None:
        return response.tokens, 0
    return torch.cat([response.prompt.to(response.tokens), response.tokens]), len(response.prompt)
