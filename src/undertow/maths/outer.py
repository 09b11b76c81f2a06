"""Inner products of gradients that are sums of outer products, without forming the gradients (theory 5.4).

The gradient of ``ln π(y|x)`` in the weight of a linear layer is ``G = Σ_t l_t r_tᵀ`` over the positions of prompt and
response, ``l_t`` the gradient of what left the layer and ``r_t`` what entered it. So

    ``⟨G, G'⟩ = Σ_{t,t'} ⟨l_t, l'_{t'}⟩ ⟨r_t, r'_{t'}⟩``:

two products of activations instead of two matrices of the weight's size. Several gradients are given at once, their
positions one after another; what comes back is the matrix of all their inner products.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from undertow.maths.precision import full_precision, in_float64

__all__ = ["flat_gram", "formed", "gram_of_outer_products", "gram_of_rows", "gram_with_shared_rows"]

SLAB = 2**22
"""Entries that are taken to float64 at a time: 32 MB."""


@torch.no_grad()
def gram_of_outer_products(left: Tensor, right: Tensor, lengths: Sequence[int]) -> Tensor:
    """``⟨G_i, G_j⟩`` for ``G_i = Σ_{t of i} l_t r_tᵀ``, from the factors.

    ``T² (a + b)`` operations and ``T²`` numbers, where the matrices themselves take ``T a b`` and ``k² a b``. Products
    are in the factors' type, sums over positions in float64.

    Args:
        left: ``[T, a]``, the positions of all gradients one after another.
        right: ``[T, b]``.
        lengths: how many positions each of the k gradients has; they sum to T.

    Returns:
        ``[k, k]``, float64.

    >>> two = torch.tensor([[1.0, 2.0], [3.0, 0.0]])
    >>> gram_of_outer_products(two, torch.eye(2), [1, 1])  # (1, 2)ᵀ(1, 0) and (3, 0)ᵀ(0, 1)
    tensor([[5., 0.],
            [0., 9.]], dtype=torch.float64)
    """
    with full_precision():
        alpha, gram = left @ left.T, right @ right.T
    which = _which(lengths, left.device)
    found = in_float64(alpha.new_zeros(len(lengths), len(lengths)))
    step = max(1, SLAB // max(len(left), 1))
    for begin in range(0, len(left), step):
        slab = slice(begin, begin + step)
        products = in_float64(alpha[slab]) * in_float64(gram[slab])
        by_column = products.new_zeros(len(products), len(lengths)).index_add_(1, which.to(products.device), products)
        found.index_add_(0, which[slab].to(found.device), by_column)
    return found


@torch.no_grad()
def gram_with_shared_rows(left: Tensor, shared: Tensor, places: Tensor, lengths: Sequence[int]) -> Tensor:
    """The same where the gradients' right factors are rows of one matrix: ``r_t = shared[places_t]``.

    So it is for the tokens of one response, each of whose gradients has the activations of the text before it. With u
    shared rows it takes ``T u a + k² u a`` operations.

    Args:
        left: ``[T, a]``.
        shared: ``[u, b]``.
        places: ``[T]``, at most one position of a gradient at each place.
        lengths: as above.

    Returns:
        ``[k, k]``, float64.
    """
    which = _which(lengths, left.device)
    spread = left.new_zeros(len(lengths), len(shared), left.shape[1])
    spread[which, places] = left
    with full_precision():
        gram = shared @ shared.T
        found = in_float64(left.new_zeros(len(lengths), len(lengths)))
        # A place at a time, some at once: sums over all of them are in float64.
        step = max(1, SLAB // max(len(lengths) * left.shape[1], 1))
        for begin in range(0, len(shared), step):
            slab = slice(begin, begin + step)
            mixed = torch.matmul(gram[slab], spread)
            found += in_float64(spread[:, slab].flatten(1) @ mixed.flatten(1).T)
    return (found + found.T) / 2


@torch.no_grad()
def gram_of_rows(
    ids: Tensor,
    values: Tensor,
    lengths: Sequence[int],
    scale: Tensor | None = None,
    beside: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """The same for gradients that are rows of a matrix, as an embedding's: ``⟨G_i, G_j⟩ = Σ 1[id_t = id_t'] ⟨v, v'⟩``.

    Args:
        ids: ``[T]``, the row of each position; it may repeat.
        values: ``[T, b]``.
        lengths: as above.
        scale: ``[rows, b]``, what the products are weighted by; None for ones.
        beside: of a matrix that is also an unembedding: what else the gradients have in some rows, ``[r]`` →
            ``[k, r, b]``. Its products with ``values`` are added; those with itself are had elsewhere.

    Returns:
        ``[k, k]``, float64.
    """
    rows, places = torch.unique(ids, return_inverse=True)
    k, weights = len(lengths), None if scale is None else scale[rows].flatten()
    whole = values.new_zeros(k * len(rows), values.shape[1])
    whole.index_add_(0, _which(lengths, values.device) * len(rows) + places, values)
    flat = whole.view(k, -1)
    found = flat_gram(flat, weights)
    if beside is None:
        return found
    cross = flat_gram(flat, weights, beside(rows).flatten(1).to(flat))
    return found + cross + cross.T


def formed(left: Tensor, right: Tensor, lengths: Sequence[int]) -> Tensor:
    """The matrices themselves: ``[k, a, b]``."""
    ends = [0]
    for length in lengths:
        ends.append(ends[-1] + length)
    with full_precision():
        return torch.stack([left[begin:end].T @ right[begin:end] for begin, end in pairwise(ends)])


@torch.no_grad()
def flat_gram(values: Tensor, scale: Tensor | None = None, other: Tensor | None = None) -> Tensor:
    """``⟨G_i, G_j⟩`` of flat gradients, ``[k, n]`` → ``[k, k]`` in float64, some entries at a time.

    Args:
        values: ``[k, n]``.
        scale: ``[n]``, what the products are weighted by; None for ones.
        other: ``[k, n]``, the second factors; the first themselves where None.
    """
    second = values if other is None else other
    found = in_float64(values.new_zeros(len(values), len(second)))
    step = max(1, SLAB // max(len(values), 1))
    for begin in range(0, values.shape[1], step):
        slab = slice(begin, begin + step)
        one, two = in_float64(values[:, slab]), in_float64(second[:, slab])
        found += (one if scale is None else one * in_float64(scale[slab])) @ two.T
    return found


def _which(lengths: Sequence[int], device: torch.device) -> Tensor:
    """Of each position, whose it is."""
    return torch.repeat_interleave(
        torch.arange(len(lengths), device=device), torch.tensor(list(lengths), device=device)
    )
