"""The recurrence: one training run on the linearised model, step by step, in nats."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from undertow.maths.later import torch
from undertow.maths.linearised.contributions import own_parts
from undertow.maths.linearised.products import Products
from undertow.maths.linearised.scale import RunningScale

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Curvature", "LinearisedRun", "SampleStep", "linearised_run"]

Weights = Callable[[int, "Tensor", "Tensor"], "tuple[Tensor, Tensor]"]
"""``(step, pairs [k], changes [k, 2]) → (d_w, d_l)``, each ``[k]``, float64; steps count from 0."""


@dataclass(frozen=True, slots=True, eq=False)
class SampleStep:
    """One step of the optimiser over pairs that have features.

    Attributes:
        pairs: ``[k]``, their numbers; one may come twice.
        shares: ``[k]``, each one's factor in the step's loss.
        own: ``[k]``, whether the pair stands for itself; where False it stands for a pair without features, and acts
            on all but itself.
        lr: the learning rate.
    """

    pairs: Tensor
    shares: Tensor
    own: Tensor
    lr: float


@dataclass(frozen=True, slots=True, eq=False)
class Curvature:
    """What a look has told: by how much the real changes differ from the linear ones, at a move of what length.

    ``nats``: ``[R]``, real less linear; ``length``: ``wᵀKw`` of the move that was looked at. A move of squared length
    ``l`` bends by ``nats · l / length``: the second-order term along one direction.
    """

    nats: Tensor
    length: float


@dataclass(frozen=True, slots=True, eq=False)
class LinearisedRun:
    """What the run came to, or where it stands after a step.

    Attributes:
        step: steps taken.
        linear: ``[R]``, changes of the linear model, in nats; of a stand-in without what it does to itself.
        changes: ``[R]``, the same with curvature, where that is known.
        coefficients: ``[2n]``, the summed step weights of the pairs at their own steps: ``Σ ± lr·c·d``.
        stand_ins: ``[2n]``, the same where they stood in for others.
        length: ``wᵀKw`` of all of them together, with each pair that was stood in for apart: it is another one than
            the pair that stood in for it, and than that one's other parts.
        clipped: how many steps so far had a longer gradient than there may be.
    """

    step: int
    linear: Tensor
    changes: Tensor
    coefficients: Tensor
    stand_ins: Tensor
    length: float
    clipped: int


def linearised_run(
    products: Products,
    steps: Sequence[SampleStep],
    weights: Weights,
    scale: RunningScale,
    pairs: int,
    *,
    mean_square: float,
    norms: Products,
    clip: float | None = None,
    curvature: Curvature | None = None,
    watch: Callable[[int], bool] | None = None,
    acting: int = 0,
) -> Iterator[LinearisedRun]:
    """Simulate a run; yields where it stands after the watched steps, and at its end.

    ``f ← f + η_t c_t κ_t Σ_j share_j (K_{·,j⁺} d_w − K_{·,j⁻} d_l)`` with ``d`` taken at the current ``f``, ``κ_t =
    min(1, M/‖g_t‖)`` from clipping and ``c_t`` of :class:`RunningScale`.

    Args:
        products: the entanglement, in the optimiser's geometry (of plain gradients for SGD).
        steps: in their order.
        weights: of the loss; it may also note what it is asked.
        scale: the optimiser; it is advanced.
        pairs: ``n``, how many pairs the first ``2n`` rows are of.
        mean_square: mean of ``κ²‖g‖²`` over the minibatches that ``V`` was measured with, in the same norm as
            ``norms``; not looked at for SGD.
        norms: products of plain gradients, for ``‖g_t‖``.
        clip: ``M``, the longest gradient there may be; None for no clipping.
        curvature: of a look.
        watch: whether to yield after a step, by its number from 1; where None, at the end only.
        acting: the first of the rows that act and whose changes the weights are taken at: ``2n`` of them. 0 where they
            are the pairs' rows themselves, which are read too.
    """
    state, heading = products.start(), products.start()
    blocks = products.blocks(pairs, acting, acting)
    read_blocks = products.blocks(pairs, 0, acting) if acting else blocks
    taken = torch.zeros(2, 2 * pairs, dtype=torch.float64)  # as themselves, as stand-ins
    average = torch.zeros_like(taken)
    apart = _Apart(scale.momentum)
    momentum, length = scale.momentum, 0.0
    stands_in = any(not bool(step.own.all()) for step in steps)
    clipped = 0

    def bent(changes: Tensor, rows: Tensor | None = None) -> Tensor:
        if curvature is None or not curvature.length:
            return changes
        nats = curvature.nats if rows is None else curvature.nats[rows]
        return changes + nats * (length / curvature.length)

    def own_removed(numbers: Tensor, own: Tensor, among: Tensor) -> Tensor:
        """What the pairs have done to themselves and shall not count, ``[k, 2]``, by such blocks."""
        both = taken.view(2, pairs, 2)[:, numbers]
        moved = both[1] + torch.where(own.unsqueeze(1), torch.zeros_like(both[0]), both[0])
        return own_parts(among[numbers], moved.flatten())

    def moved_apart() -> float:
        """What ``wᵀKw`` counts of a pair's parts together, though they stand for pairs that differ."""
        own, whole = taken[0].view(pairs, 2, 1), taken.sum(0).view(pairs, 2, 1)
        return _squares(blocks, whole) - _squares(blocks, own) - apart.length

    def stand() -> LinearisedRun:
        linear = products.read(state).clone()
        if stands_in:
            everyone, own = torch.arange(pairs), torch.ones(pairs, dtype=torch.bool)
            linear[: 2 * pairs] -= own_removed(everyone, own, read_blocks).flatten()
            if acting:
                linear[acting : acting + 2 * pairs] -= own_removed(everyone, own, blocks).flatten()
        return LinearisedRun(number, linear, bent(linear), taken[0].clone(), taken[1].clone(), length, clipped)

    number = 0
    for number, step in enumerate(steps, 1):
        at = torch.stack([2 * step.pairs, 2 * step.pairs + 1], dim=1)
        rows = acting + at
        now = products.read(state, rows.flatten()).view(-1, 2)
        if stands_in:
            now = now - own_removed(step.pairs, step.own, blocks)
        d_w, d_l = weights(number - 1, step.pairs, bent(now, rows))
        a = torch.stack([step.shares * d_w, -step.shares * d_l], dim=1).flatten()
        flat = rows.flatten()
        square = max(norms.length(norms.move(flat, a), _spread(flat, a, norms.rows)), 0.0)  # of all rows
        norm = math.sqrt(square)
        clipped += int(clip is not None and norm > clip)
        kept = min(1.0, clip / norm) if clip is not None and norm > 0 else 1.0
        c = scale.advance(kept * kept * square / mean_square)
        a = kept * a
        whose = (~step.own).long().repeat_interleave(2) * (2 * pairs) + at.flatten()
        size = step.lr * c / scale.correction
        if momentum:
            heading = momentum * heading + (1 - momentum) * products.move(flat, a)
            average.mul_(momentum).view(-1).index_add_(0, whose, (1 - momentum) * a)
            state = state + size * heading
            taken += size * average
        else:
            state = state + size * products.move(flat, a)
            taken.view(-1).index_add_(0, whose, size * a)
        length = products.length(state, taken.sum(0), acting)
        if stands_in:
            acts = a.view(-1, 2, 1)[~step.own]
            apart.advance(_squares(blocks[step.pairs[~step.own]], acts), size)
            length -= moved_apart()
        if watch is not None and watch(number):
            yield stand()
    if watch is None or not watch(number):
        yield stand()


@dataclass(slots=True)
class _Apart:
    """``Σ wᵀKw`` over single actions, as an optimiser's momentum spreads each over the steps after it.

    An action ``a`` of step s has moved ``g_s a`` by step t, ``g_s = Σ_u size_u m_s(u)`` with ``m_s(u) = (1−β) βᵘ⁻ˢ``:
    ``length`` is ``Σ_s g_s² aᵀKa``, and the two other sums carry it from step to step.
    """

    momentum: float
    length: float = 0.0
    crossed: float = 0.0  # Σ g m aᵀKa
    moving: float = 0.0  # Σ m² aᵀKa

    def advance(self, squares: float, size: float) -> None:
        """One more step of this size, with actions of ``Σ aᵀKa``."""
        self.moving = self.momentum**2 * self.moving + (1 - self.momentum) ** 2 * squares
        self.crossed *= self.momentum
        self.length += 2 * size * self.crossed + size**2 * self.moving
        self.crossed += size * self.moving


def _squares(blocks: Tensor, values: Tensor) -> float:
    """``Σ vᵀ K v`` of vectors ``[k, 2, 1]`` and blocks ``[k, 2, 2]``."""
    return float((values.transpose(1, 2) @ blocks @ values).sum())


def _spread(rows: Tensor, values: Tensor, count: int) -> Tensor:
    """Values at rows, which may repeat, in a vector of all rows."""
    return torch.zeros(count, dtype=values.dtype).index_add_(0, rows, values)
