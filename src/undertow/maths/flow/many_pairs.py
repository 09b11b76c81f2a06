"""Many pairs of single tokens with distinct prompts (Razin et al. 2024, arXiv 2410.08847, Theorems 8 and 9).

A tilde marks another pair; ``weight = −ℓ'`` of each pair; the loss is the mean over the data set ``D``. Prompts that
share contexts, or longer responses, are for :func:`~undertow.maths.flow.responses.response_rate`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from undertow.maths.flow.single_token import OtherTokenRates, chosen_token_rate, other_token_rates
from undertow.maths.precision import full_precision, working_dtype

__all__ = ["ChosenTokenRates", "OtherTokenManyRates", "chosen_token_rates_many", "other_token_rates_many"]


@dataclass(frozen=True, slots=True, eq=False)
class ChosenTokenRates:
    """Theorem 8, for every pair: ``d/dt ln π(y⁺|x) = own + Σ_{x̃≠x} others``.

    ``own``, ``[D]``: ``weight/|D|·(m + S)``, the pair itself. ``others``, ``[D, D]``: entry (x, x̃) is
    ``weight_x̃/|D|·α_{x,x̃}⟨h_x, h_x̃⟩``, what the pair x̃ does to x; zero diagonal. ``alpha``, ``[D, D]``:
    ``1[y⁺=ỹ⁺] − 1[y⁺=ỹ⁻] + π(ỹ⁻|x) − π(ỹ⁺|x)``. ``m``, ``S``: ``[D]``, of Theorem 4.
    """

    m: Tensor
    S: Tensor
    own: Tensor
    others: Tensor
    alpha: Tensor

    @property
    def rate(self) -> Tensor:
        """``[D]``, in nats per unit time."""
        return self.own + self.others.sum(-1)


@dataclass(frozen=True, slots=True, eq=False)
class OtherTokenManyRates:
    """Theorem 9, for one prompt x and every token z but its pair's: ``c + own_z + pairs_z``.

    ``c``: a scalar, the same for all z. ``own``, ``[V]``: ``weight_x/|D|·⟨W_z, δ⟩``, NaN at the pair's own two
    tokens. ``pairs``, ``[V]``: ``Σ_x̃ weight_x̃/|D|·(1[z=ỹ⁺] − 1[z=ỹ⁻])⟨h_x, h_x̃⟩``, x itself included.
    """

    c: Tensor
    own: Tensor
    pairs: Tensor

    @property
    def rate(self) -> Tensor:
        """``[V]``, in nats per unit time."""
        return self.c + self.own + self.pairs


@torch.no_grad()
def chosen_token_rates_many(
    unembedding: Tensor, states: Tensor, chosen: Tensor, rejected: Tensor, *, weights: Tensor
) -> ChosenTokenRates:
    """Theorem 8: how fast each chosen token's log-probability moves under the whole data set.

    Args:
        unembedding: ``W``, ``[V, d]``.
        states: ``[D, d]``, one hidden embedding a prompt; the prompts are distinct.
        chosen: ``[D]``, token ids.
        rejected: ``[D]``.
        weights: ``−ℓ'`` of each pair, ``[D]``.

    Raises:
        ValueError: when shapes or ids do not fit, or a chosen token equals the rejected one.
    """
    count = _count(states, weights)
    single = chosen_token_rate(unembedding, states, chosen, rejected, weight=weights)
    dtype = working_dtype(unembedding, states)
    H, W = states.to(dtype), unembedding.to(dtype)
    with full_precision():
        p = (H @ W.T).softmax(-1)
        gram = H @ H.T
    same = (chosen[:, None] == chosen).to(dtype) - (chosen[:, None] == rejected).to(dtype)
    alpha = same + p[:, rejected] - p[:, chosen]
    others = single.weight / count * alpha * gram
    return ChosenTokenRates(single.m, single.S, single.rate / count, others.fill_diagonal_(0.0), alpha)


@torch.no_grad()
def other_token_rates_many(
    unembedding: Tensor, states: Tensor, chosen: Tensor, rejected: Tensor, *, weights: Tensor, prompt: int
) -> OtherTokenManyRates:
    """Theorem 9: how fast every other token's log-probability moves at one of the prompts.

    Args:
        unembedding: ``W``, ``[V, d]``.
        states: ``[D, d]``, one hidden embedding a prompt; the prompts are distinct.
        chosen: ``[D]``, token ids.
        rejected: ``[D]``.
        weights: ``−ℓ'`` of each pair, ``[D]``.
        prompt: which of the D prompts is looked at.

    Raises:
        ValueError: when shapes or ids do not fit, or a chosen token equals the rejected one.
    """
    count = _count(states, weights)
    if not 0 <= prompt < count:
        raise ValueError(f"prompt must lie in 0..{count - 1}, got {prompt}")
    single: OtherTokenRates = other_token_rates(unembedding, states[prompt], chosen[prompt], rejected[prompt])
    p, H = single.probabilities, states.to(single.c)
    scale = weights.to(single.c) / count
    overlaps = scale * (H @ H[prompt])
    own = scale[prompt] * single.geometry
    pairs = torch.zeros_like(p).index_add_(0, chosen, overlaps).index_add_(0, rejected, -overlaps)
    delta = unembedding[chosen[prompt]].to(p) - unembedding[rejected[prompt]].to(p)
    spent = scale[prompt] * ((p @ unembedding.to(p)) @ delta)
    c = (overlaps * (p[rejected] - p[chosen])).sum() - spent
    return OtherTokenManyRates(c, own, pairs)


def _count(states: Tensor, weights: Tensor) -> int:
    if states.ndim != 2 or not len(states) or weights.shape != states.shape[:1]:
        raise ValueError(
            f"states must be [D, d] and weights [D] with D ≥ 1, got {tuple(states.shape)} and {tuple(weights.shape)}"
        )
    return len(states)
