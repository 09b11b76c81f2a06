"""One pair of single tokens (Razin et al. 2024, arXiv 2410.08847, Theorems 4 and 5), and the geometry behind it.

Notation: ``h`` the hidden embedding of the prompt, ``p = softmax(W h)``, ``+`` and ``−`` the chosen and the rejected
token, ``δ = W₊ − W₋``, ``weight = −ℓ' > 0`` (for DPO with the reference as the model it is β/2). The model is that of
:mod:`undertow.maths.flow.responses`; rates are in nats per unit time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from undertow.maths.precision import as_like, full_precision, working_dtype
from undertow.maths.residuals import logits_of, residuals, slope

__all__ = [
    "ChosenTokenRate",
    "GainingToken",
    "OtherTokenRates",
    "Projection",
    "RejectedTokenRate",
    "chosen_token_rate",
    "most_gaining_tokens",
    "other_token_rates",
    "project",
    "rejected_token_rate",
]


@dataclass(frozen=True, slots=True, eq=False)
class ChosenTokenRate:
    """Theorem 4: ``d/dt ln π(y⁺|x) = weight·(m + S)``; each ``[...]``.

    ``m ≥ 0`` pushes up; ``S = −(1 − p₊ + p₋)⟨W₊, W₋⟩ − Σ_{z≠±} p_z⟨W_z, δ⟩`` can push down, and does when the two
    tokens' unembeddings are alike or much of ``δ`` is spent on other tokens.
    """

    m: Tensor
    S: Tensor
    weight: Tensor

    @property
    def rate(self) -> Tensor:
        """``weight·(m + S)``."""
        return self.weight * (self.m + self.S)


@dataclass(frozen=True, slots=True, eq=False)
class RejectedTokenRate:
    """``d/dt ln π(y⁻|x) = weight·(push + own)`` (theory 3.2): ``push = ⟨U₋, δ⟩``, ``own = −(1 − p₋ + p₊)‖h‖² ≤ 0``."""

    push: Tensor
    own: Tensor
    weight: Tensor

    @property
    def rate(self) -> Tensor:
        """``weight·(push + own)``."""
        return self.weight * (self.push + self.own)


@dataclass(frozen=True, slots=True, eq=False)
class OtherTokenRates:
    """Theorem 5: ``d/dt ln π(z|x) = weight·(⟨W_z, δ⟩ + c)`` for every token z but the two of the pair.

    ``geometry``: ``⟨W_z, δ⟩``, ``[..., V]``, NaN at ``+`` and ``−``, for which the theorem does not speak. ``c``:
    ``[...]``, the same for all z, so that other tokens gain log-probability in the order of the geometry.
    ``probabilities``: ``p``, ``[..., V]``.
    """

    geometry: Tensor
    c: Tensor
    weight: Tensor
    probabilities: Tensor

    @property
    def rate(self) -> Tensor:
        """``weight·(⟨W_z, δ⟩ + c)``, ``[..., V]``."""
        return self.weight.unsqueeze(-1) * (self.geometry + self.c.unsqueeze(-1))

    @property
    def probability_rate(self) -> Tensor:
        """``d/dt π(z|x) = π(z|x)·d/dt ln π(z|x)``, ``[..., V]``."""
        return self.probabilities * self.rate


@dataclass(frozen=True, slots=True)
class GainingToken:
    """A token that gains by Theorem 5: its id, its text where a decoder was given, ``⟨W_z, δ⟩`` and its two rates."""

    token: int
    text: str | None
    geometry: float
    rate: float
    probability_rate: float


@dataclass(frozen=True, slots=True, eq=False)
class Projection:
    """Length of ``δ = W₊ − W₋`` along ``W₊`` and across it (Razin et al., Table 13); squares add to ``‖δ‖²``."""

    parallel: Tensor
    orthogonal: Tensor
    norm: Tensor


@torch.no_grad()
def chosen_token_rate(
    unembedding: Tensor, state: Tensor, chosen: Tensor, rejected: Tensor, *, weight: Tensor | float = 1.0
) -> ChosenTokenRate:
    """Theorem 4: how fast the chosen token's log-probability moves.

    Args:
        unembedding: ``W``, ``[V, d]``.
        state: ``h_x``, ``[..., d]``.
        chosen: ``[...]``, token ids.
        rejected: ``[...]``, other ones.
        weight: ``−ℓ'``, ``[...]`` or a number.

    Raises:
        ValueError: when shapes or ids do not fit, or a chosen token equals the rejected one.
    """
    W, h, _, _ = inputs = _inputs(unembedding, state, chosen, rejected)
    residual = _residual(*inputs[:3])
    m, S = token_terms(W, residual, chosen, rejected)
    gap = _at(residual, chosen) - _at(residual, rejected)  # 1 − p₊ + p₋
    return ChosenTokenRate(m + gap * h.square().sum(-1), S, _weight(weight, m))


@torch.no_grad()
def rejected_token_rate(
    unembedding: Tensor, state: Tensor, chosen: Tensor, rejected: Tensor, *, weight: Tensor | float = 1.0
) -> RejectedTokenRate:
    """How fast the rejected token's log-probability moves; arguments as in :func:`chosen_token_rate`."""
    W, h, _, _ = _inputs(unembedding, state, chosen, rejected)
    residual = _residual(W, h, rejected)
    with full_precision():
        push = ((residual @ W) * (W[chosen] - W[rejected])).sum(-1)
    gap = _at(residual, rejected) - _at(residual, chosen)  # 1 − p₋ + p₊
    return RejectedTokenRate(push, -gap * h.square().sum(-1), _weight(weight, push))


@torch.no_grad()
def other_token_rates(
    unembedding: Tensor,
    state: Tensor,
    chosen: Tensor,
    rejected: Tensor,
    *,
    weight: Tensor | float = 1.0,
    bias: Tensor | None = None,
    scale: float = 1.0,
    softcap: float | None = None,
) -> OtherTokenRates:
    """Theorem 5: how fast every other token's log-probability moves; arguments as in :func:`chosen_token_rate`.

    For a head with more than the product (see :class:`~undertow.maths.residuals.HeadOptions`; a bias is a constant)
    ``⟨W_z, δ⟩`` becomes ``D_z ⟨W_z, D₊ W₊ − D₋ W₋⟩`` with the slopes ``D`` of the logits, and ``‖h‖²`` of the two
    tokens ``D² ‖h‖²``.
    """
    W, h, _, _ = _inputs(unembedding, state, chosen, rejected)
    with full_precision():
        u = h @ W.T if bias is None else h @ W.T + bias.to(h)
        p = logits_of(u, scale, softcap).softmax(-1)
        slopes = torch.ones_like(u) * slope(u, scale, softcap)
        plus, minus = _at(slopes, chosen), _at(slopes, rejected)
        lean = plus.unsqueeze(-1) * W[chosen] - minus.unsqueeze(-1) * W[rejected]
        geometry = slopes * (lean @ W.T)
    own = minus.square() * _at(p, rejected) - plus.square() * _at(p, chosen)
    c = own * h.square().sum(-1) - (p * geometry).sum(-1)
    pair = torch.stack([chosen, rejected], dim=-1)
    return OtherTokenRates(geometry.scatter(-1, pair, torch.nan), c, _weight(weight, c), p)


def most_gaining_tokens(
    unembedding: Tensor,
    state: Tensor,
    chosen: int,
    rejected: int,
    *,
    weight: float = 1.0,
    top: int = 10,
    by: Literal["rate", "probability_rate"] = "rate",
    decode: Callable[[int], str] | None = None,
    bias: Tensor | None = None,
    scale: float = 1.0,
    softcap: float | None = None,
) -> list[GainingToken]:
    """Which tokens other than the pair's take the probability, by Theorem 5, the most gaining one first.

    Args:
        unembedding: ``W``, ``[V, d]``.
        state: ``h_x``, ``[d]``: one prompt.
        chosen: a token id.
        rejected: another one.
        weight: ``−ℓ'``.
        top: how many at most.
        by: ``rate`` orders by the gain in log-probability, the order of ``⟨W_z, W₊ − W₋⟩`` (a rare token may lead);
            ``probability_rate`` by the gain in probability, what is seen first when the model is sampled.
        decode: turns a token id into text, for instance ``tokenizer.decode``.
        bias: of the head, see :func:`other_token_rates`; likewise ``scale`` and ``softcap``.

    Raises:
        ValueError: as :func:`chosen_token_rate`, or when ``by`` is neither.
    """
    if by not in ("rate", "probability_rate"):
        raise ValueError(f"by must be 'rate' or 'probability_rate', got {by!r}")
    pair = (torch.tensor(chosen, device=state.device), torch.tensor(rejected, device=state.device))
    rates = other_token_rates(unembedding, state, *pair, weight=weight, bias=bias, scale=scale, softcap=softcap)
    rate, probability_rate = rates.rate, rates.probability_rate
    ordered = rate if by == "rate" else probability_rate
    order = ordered.nan_to_num(nan=-torch.inf).sort(descending=True, stable=True).indices
    return [
        GainingToken(
            token=z,
            text=None if decode is None else decode(z),
            geometry=rates.geometry[z].item(),
            rate=rate[z].item(),
            probability_rate=probability_rate[z].item(),
        )
        for z in order[: max(0, min(top, len(order) - 2))].tolist()
    ]


def project(chosen_unembedding: Tensor, rejected_unembedding: Tensor) -> Projection:
    """Splits ``δ = W₊ − W₋`` into its lengths along ``W₊`` and in the orthogonal complement (Table 13; theory 7).

    Args:
        chosen_unembedding: ``W₊``, ``[..., d]``.
        rejected_unembedding: ``W₋``, ``[..., d]``.

    Returns:
        Three ``[...]``, none negative; where ``W₊ = 0`` nothing lies along it: 0 and ``‖δ‖``.
    """
    dtype = working_dtype(chosen_unembedding, rejected_unembedding)
    plus, minus = chosen_unembedding.to(dtype), rejected_unembedding.to(dtype)
    delta = plus - minus
    size = plus.norm(dim=-1, keepdim=True)
    direction = torch.where(size > 0, plus / size, torch.zeros_like(plus))
    along = (delta * direction).sum(-1, keepdim=True)
    return Projection(along.abs().squeeze(-1), (delta - along * direction).norm(dim=-1), delta.norm(dim=-1))


def token_terms(W: Tensor, residual: Tensor, chosen: Tensor, rejected: Tensor) -> tuple[Tensor, Tensor]:
    """``m`` without its ``‖h‖²`` part, and ``S``, from the chosen token's residual row ``[..., V]`` (theory 3.2)."""
    plus, minus = W[chosen], W[rejected]
    miss, p_minus = _at(residual, chosen), -_at(residual, rejected)
    others = -residual.scatter(-1, torch.stack([chosen, rejected], dim=-1), 0.0)  # p_z for z ≠ ±
    m = miss * plus.square().sum(-1) + p_minus * minus.square().sum(-1)
    with full_precision():
        spent = ((others @ W) * (plus - minus)).sum(-1)
    return m, -(miss + p_minus) * (plus * minus).sum(-1) - spent


def _inputs(W: Tensor, h: Tensor, chosen: Tensor, rejected: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    if not h.shape[:-1] == chosen.shape == rejected.shape:
        raise ValueError(
            "state must be [..., d], chosen and rejected [...], "
            f"got {tuple(h.shape)}, {tuple(chosen.shape)} and {tuple(rejected.shape)}"
        )
    if bool((chosen == rejected).any()):
        raise ValueError("a chosen token equals the rejected one: such a pair has no gradient, leave it out")
    for name, ids in (("chosen", chosen), ("rejected", rejected)):
        if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < len(W):
            raise ValueError(f"{name}: token ids must lie in 0..{len(W) - 1}, got {ids.tolist()}")
    dtype = working_dtype(W, h)
    return W.to(dtype), h.to(dtype), chosen, rejected


def _residual(W: Tensor, h: Tensor, tokens: Tensor) -> Tensor:
    """``e_y − p`` for any leading shape, without cancellation at the target: ``[..., V]``."""
    with full_precision():
        return residuals(h.reshape(-1, h.shape[-1]), W, tokens.reshape(-1)).rows().view(*tokens.shape, len(W))


def _at(values: Tensor, tokens: Tensor) -> Tensor:
    return values.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)


def _weight(weight: Tensor | float, like: Tensor) -> Tensor:
    return as_like(weight, like).expand(like.shape)
