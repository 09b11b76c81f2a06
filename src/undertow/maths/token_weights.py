"""What each token of a pair's responses counts in a preference loss: weights between 0 and 1, and 1 everywhere in DPO.

Yuan et al. (*Gradient Entanglement*, section 6) name token-wise losses as the way out that they leave open: what ties
the two log-probabilities together are the tokens on which both responses' gradients agree. With weights ``ω`` a loss
sees ``a = Σ_k ω_k ln p_k(y⁺_k)`` and likewise ``b`` and the reference's, so that one step of descent moves the
parameters along ``Σ_k d_w ω_k ∇ ln p_k(y⁺_k) − Σ_k d_l ω_k ∇ ln p_k(y⁻_k)``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["entangled_weights", "per_token", "shared_weights"]


def shared_weights(chosen: Sequence[int], rejected: Sequence[int]) -> tuple[list[float], list[float]]:
    """0 for the tokens that both responses begin or end with, 1 for those between.

    A response that has no others (``Yes`` beside ``Yes, gladly``) would not count at all: the tokens that both end with
    then count, and where that leaves it without any, all of them.

    Args:
        chosen: token ids of the chosen response, not empty.
        rejected: of the rejected one.

    Returns:
        A weight for each token of the two.

    >>> shared_weights([5, 6, 7, 2], [5, 8, 9, 2])
    ([0.0, 1.0, 1.0, 0.0], [0.0, 1.0, 1.0, 0.0])
    >>> shared_weights([5, 2], [5, 8, 2])  # the chosen one ends where the rejected one goes on
    ([0.0, 1.0], [0.0, 1.0, 1.0])
    """
    shortest = min(len(chosen), len(rejected))
    prefix = next((k for k in range(shortest) if chosen[k] != rejected[k]), shortest)
    rest = shortest - prefix
    suffix = next((k for k in range(rest) if chosen[-1 - k] != rejected[-1 - k]), rest)
    if prefix + suffix == shortest:
        suffix = 0
    if prefix == shortest:
        prefix = 0

    def weights(count: int) -> list[float]:
        return [0.0] * prefix + [1.0] * (count - prefix - suffix) + [0.0] * suffix

    return weights(len(chosen)), weights(len(rejected))


def entangled_weights(products: Tensor, chosen_tokens: int) -> Tensor:
    """``1 − max(0, max_l cos(∇ ln p_k, ∇ ln p_l))`` over the tokens ``l`` of the other response, ``[N]``.

    0 for a token whose gradient is that of a token of the other response (a shared beginning), 1 for one whose gradient
    agrees with none of them. A response all of whose weights are 0 gets ones.

    Args:
        products: ``[N, N]``, inner products of the tokens' gradients, chosen tokens first, float64.
        chosen_tokens: n⁺.

    >>> entangled_weights(torch.tensor([[1.0, 0.5], [0.5, 1.0]]), 1)
    tensor([0.5000, 0.5000])
    """
    norms = products.diagonal().clamp_min(0).sqrt()
    bound = norms[:, None] * norms[None, :]
    cosines = torch.where(bound > 0, products / bound, torch.zeros_like(products))
    across = cosines[:chosen_tokens, chosen_tokens:]
    weights = 1 - torch.cat([across.amax(1), across.amax(0)]).clamp(0, 1)
    weights[weights < ALIKE] = 0.0
    for part in (weights[:chosen_tokens], weights[chosen_tokens:]):
        if not part.any():
            part.fill_(1.0)
    return weights


def per_token(pulls: Tensor, weights: Sequence[Tensor]) -> list[Tensor]:
    """``d ω_k``: with what each token's gradient enters a step.

    Args:
        pulls: ``d_w`` or ``d_l`` of pairs, ``[pairs]``.
        weights: ``ω`` of each pair's tokens, ``[n]``.
    """
    return [pull * omega for pull, omega in zip(pulls, weights, strict=True)]


ALIKE = 1e-5
"""Below it a weight is 0: cosines of equal gradients are off by the rounding of float32 products."""
