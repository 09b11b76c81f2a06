"""CHES scores and the similarities they are compared with (Razin et al. 2024, arXiv 2410.08847, Section 5).

A response of ``n`` tokens has ``n`` *predictive* hidden embeddings ``h_{x,y<k}``, k = 1..n: the state after the last
prompt token and after each response token but the last. ``S = Σ_k h_{x,y<k}`` is their sum. The state after the last
response token predicts nothing inside the response and is in no sum. ``n`` counts the end-of-turn token when the
response has one.

Every function takes any leading batch dimensions and returns one value per pair, in float64, on the sums' device, or
on the CPU where that device has no float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rapidfuzz.distance import Levenshtein

from undertow.maths.later import torch
from undertow.maths.precision import has_float64, in_float64

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "ches",
    "ches_matrix",
    "edit_distance",
    "hidden_sum",
    "last_hidden_ip",
    "ln_ches",
    "ln_ches_matrix",
]


def hidden_sum(states: Tensor) -> Tensor:
    """``S``: the sum of hidden embeddings over positions.

    Args:
        states: ``[..., n, d]``, any floating type; the predictive states of one response (see the module's head).

    Returns:
        ``[..., d]`` in float64: with bfloat16 states a running sum in their own type would lose all digits after a few
        hundred tokens.
    """
    if has_float64(states.device):
        return states.sum(dim=-2, dtype=torch.float64)  # without a float64 copy of the states
    return in_float64(states).sum(dim=-2)


def ches(chosen_sum: Tensor, rejected_sum: Tensor) -> Tensor:
    """CHES, the centered hidden embedding similarity: ``⟨S⁺, S⁻⟩ − ‖S⁺‖²`` (Definition 2).

    Higher means more displacement expected. Not symmetric, and it grows with the rejected response's length; the two
    orientations add up to ``−‖S⁺ − S⁻‖²``, so at most one of them is positive.

    Args:
        chosen_sum: ``S⁺``, ``[..., d]``.
        rejected_sum: ``S⁻``, ``[..., d]``.

    Returns:
        ``[...]``, in squared hidden units.

    Raises:
        ValueError: when the two shapes differ.

    >>> ches(torch.tensor([1.6, 0.1]), torch.tensor([1.6, 1.7])).item()  # theory 2.4
    0.16000...
    """
    _same_shape(chosen_sum=chosen_sum, rejected_sum=rejected_sum)
    S_w, S_l = in_float64(chosen_sum), in_float64(rejected_sum)
    # ⟨S⁺, S⁻ − S⁺⟩ instead of the difference of two large products: near-duplicates would cancel.
    return (S_w * (S_l - S_w)).sum(-1)


def ln_ches(
    chosen_sum: Tensor, rejected_sum: Tensor, chosen_tokens: Tensor | int, rejected_tokens: Tensor | int
) -> Tensor:
    """Length-normalised CHES: ``⟨μ⁺, μ⁻⟩ − ‖μ⁺‖²`` with the means ``μ = S/n`` (Definition 3); the score to filter by.

    Args:
        chosen_sum: ``S⁺``, ``[..., d]``.
        rejected_sum: ``S⁻``, ``[..., d]``.
        chosen_tokens: ``n⁺``, ``[...]``: how many states were summed; at least 1.
        rejected_tokens: ``n⁻``, likewise.

    Returns:
        ``[...]``, in squared hidden units.

    Raises:
        ValueError: when shapes differ or a length is below 1.

    >>> ln_ches(torch.tensor([1.6, 0.1]), torch.tensor([1.6, 1.7]), 2, 3).item()  # theory 2.4
    -0.18749...
    """
    return ches(
        _mean(chosen_sum, chosen_tokens, "chosen_tokens"), _mean(rejected_sum, rejected_tokens, "rejected_tokens")
    )


def ches_matrix(sums: Tensor) -> Tensor:
    """CHES of every ordered pair among K candidates of one prompt: entry ``(i, j)`` has i chosen and j rejected.

    Args:
        sums: ``[..., K, d]``.

    Returns:
        ``[..., K, K]`` with a zero diagonal: K forward passes and K² inner products (theory 2.1).
    """
    S = in_float64(sums)
    gram = S @ S.transpose(-1, -2)
    return gram - gram.diagonal(dim1=-2, dim2=-1).unsqueeze(-1)


def ln_ches_matrix(sums: Tensor, tokens: Tensor) -> Tensor:
    """Length-normalised CHES of every ordered pair: :func:`ches_matrix` of the means. ``tokens``: ``[..., K]``."""
    return ches_matrix(_mean(sums, tokens, "tokens"))


def last_hidden_ip(chosen_last: Tensor, rejected_last: Tensor) -> Tensor:
    """Inner product of the states *after* the last response tokens, ``⟨h_{x,y⁺}, h_{x,y⁻}⟩``: a baseline.

    Args:
        chosen_last: ``[..., d]``.
        rejected_last: ``[..., d]``.

    Returns:
        ``[...]``, in squared hidden units; higher means more alike.
    """
    _same_shape(chosen_last=chosen_last, rejected_last=rejected_last)
    return (in_float64(chosen_last) * in_float64(rejected_last)).sum(-1)


def edit_distance(chosen: Sequence[int], rejected: Sequence[int]) -> float:
    """Levenshtein distance of two token sequences over the longer length: 0 equal, 1 nothing in common.

    Unit costs; lower means more alike, so *minus* it is the similarity that percentiles use.

    Raises:
        ValueError: when both are empty, where the ratio has no meaning.

    >>> edit_distance([0, 2], [1, 3, 2])  # theory 2.4
    0.666...
    """
    longer = max(len(chosen), len(rejected))
    if not longer:
        raise ValueError("edit_distance: both sequences are empty")
    return float(Levenshtein.distance(chosen, rejected) / longer)


def _mean(sums: Tensor, tokens: Tensor | int, name: str) -> Tensor:
    S = in_float64(sums)
    n = in_float64(torch.as_tensor(tokens)).to(S.device)
    if bool((n < 1).any()):
        raise ValueError(f"{name} must be at least 1, got {n.min().item():g}")
    return S / n.unsqueeze(-1)


def _same_shape(**tensors: Tensor) -> None:
    (a, first), (b, second) = tensors.items()
    if first.shape != second.shape:
        raise ValueError(f"{a} has shape {tuple(first.shape)}, {b} has {tuple(second.shape)}; they must be equal")
