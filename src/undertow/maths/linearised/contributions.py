"""Whose training did it: step contributions are one matrix, ``C[r, j] = K[r, j⁺] w_{j⁺} + K[r, j⁻] w_{j⁻}``.

Training on pair j adds ``C[r, j]`` nats to response r over the whole run, whenever it came: the weights ``w`` are
summed over its steps. Rows of ``C`` sum to the linear forecast; where pairs stand in for others, the column of a pair
counts what it did under either name, but never to itself as a stand-in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from undertow.maths.later import torch
from undertow.maths.linearised.products import Products

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["contributions", "own_parts", "pushes"]


def contributions(kernel: Tensor, coefficients: Tensor, rows: Tensor | None = None, acting: int = 0) -> Tensor:
    """``C`` of some rows (all where None), ``[rows, n]``, in nats.

    Args:
        kernel: ``K``, ``[R, R]``.
        coefficients: ``w``, ``[2n]``.
        rows: their numbers.
        acting: the first of the rows that act.
    """
    part = kernel if rows is None else kernel[rows]
    moved = part[:, acting : acting + len(coefficients)].double() * coefficients
    return moved[:, 0::2] + moved[:, 1::2]


def own_parts(blocks: Tensor, coefficients: Tensor) -> Tensor:
    """What training on each pair itself gives its two responses, ``[n, 2]``, in nats.

    Args:
        blocks: ``[n, 2, 2]``, see :meth:`Products.blocks`, of the rows that are read and those that act.
        coefficients: ``[2n]``, the pairs' own.
    """
    return (blocks @ coefficients.view(-1, 2, 1)).squeeze(2)


def pushes(
    products: Products,
    coefficients: Tensor,
    protected: Tensor,
    *,
    blocks: Tensor,
    weights: Tensor | None = None,
    own: bool = False,
    acting: int = 0,
) -> Tensor:
    """What training on each pair adds to the mean of the protected responses, ``[n]``, in nats; below zero it pushes
    them down. What a pair gives its own responses is left out.

    Args:
        products: the entanglement.
        coefficients: ``[2n]``, of all that the pairs did.
        protected: row numbers, each once.
        blocks: as in :func:`own_parts`.
        weights: of the protected responses in their mean; equal ones where None.
        own: count what a pair gives its own responses as well.
        acting: the first of the rows that act.

    Raises:
        ValueError: nothing is protected.
    """
    if not len(protected):
        raise ValueError("no response is protected: there is no mean to push")
    weights = torch.ones(len(protected), dtype=torch.float64) if weights is None else weights.double()
    weights = weights / weights.sum()
    pairs = len(coefficients) // 2
    toward = products.read(products.move(protected, weights))[acting : acting + 2 * pairs].view(pairs, 2)
    if own:
        return (toward * coefficients.view(pairs, 2)).sum(1)
    inside = protected < 2 * pairs
    mine = torch.zeros(2 * pairs, dtype=torch.float64).index_add_(0, protected[inside], weights[inside])
    toward = toward - (blocks.transpose(1, 2) @ mine.view(pairs, 2, 1)).squeeze(2)
    return (toward * coefficients.view(pairs, 2)).sum(1)
