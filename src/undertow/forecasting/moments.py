"""The optimiser's scaling at the start: second moments of the minibatch gradient, and gradients of weighted sums."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from undertow.data.tokens.encoder import TokenPair
from undertow.data.tokens.packing import pack
from undertow.models.model import Model
from undertow.runs.progress import Watcher
from undertow.training.forward import batch_logps

__all__ = [
    "EPSILON",
    "Minibatch",
    "Moments",
    "add_gradient",
    "lend_to_unseen",
    "scaling_of",
    "second_moments",
    "square_of_sums",
]

EPSILON = 1e-8
"""Of the optimisers, added to the root of their second moment."""
_LEAST = 1e-8
"""Second moments below this share of their tensor's mean count as so much: rounding, not information."""


@dataclass(frozen=True, slots=True, eq=False)
class Minibatch:
    """The pairs of one step of the optimiser, and what their log-probabilities weigh in its gradient, ``[pairs, 2]``:
    ``share · d_w`` and ``−share · d_l``."""

    pairs: Sequence[TokenPair]
    coefficients: Tensor

    def parts(self, count: int) -> list[Minibatch]:
        """It in so many parts of about equal size, or in single pairs where it has fewer; their gradients add up to
        its own."""
        ends = [len(self.pairs) * k // count for k in range(count + 1)] if count < len(self.pairs) else None
        ends = ends or list(range(len(self.pairs) + 1))
        return [
            Minibatch(self.pairs[begin:end], self.coefficients[begin:end]) for begin, end in itertools.pairwise(ends)
        ]


@dataclass(frozen=True, slots=True, eq=False)
class Moments:
    """``V`` by parameter: the mean over minibatches of the squared gradient, clipped as in training.

    ``mean_square``: of ``κ²‖g‖²`` over the minibatches, the trace of ``V``.
    """

    by_name: dict[str, Tensor]
    mean_square: float


def add_gradient(
    model: Model,
    pairs: Iterable[TokenPair],
    coefficients: Tensor,
    *,
    batch_tokens: int,
    products: torch.dtype | None = None,
    watch: Watcher | None = None,
) -> None:
    """Add ``Σ coefficient · ∇ ln π(y|x)`` over both responses of pairs to the parameters' gradients, by the weights of
    their tokens.

    Args:
        model: its parameters that ask for gradients get them.
        pairs: in the order of the coefficients.
        coefficients: ``[pairs, 2]``, of the chosen and the rejected response.
        batch_tokens: tokens of one forward and backward pass.
        products: bfloat16 for mixed precision.
        watch: told of the progress.
    """
    at = 0
    for batch in pack(pairs, batch_tokens):
        some = coefficients[at : at + len(batch.pairs)]
        at += len(batch.pairs)
        if bool(some.any()):
            mixed = torch.autocast(model.device.type, products) if products else contextlib.nullcontext()
            with torch.enable_grad(), mixed:
                found = batch_logps(model, batch)
            logps = torch.stack([found["chosen"], found["rejected"]], dim=1)
            torch.autograd.backward((some.to(logps) * logps).sum())
        if watch is not None:
            watch.advance(pairs=len(batch.pairs), tokens=sum(pair.total for pair in batch.pairs))


def second_moments(
    model: Model,
    parameters: Mapping[str, nn.Parameter],
    minibatches: Iterable[Minibatch],
    *,
    clip: float | None,
    parts: int = 1,
    batch_tokens: int,
    products: torch.dtype | None,
    watch: Watcher,
) -> Moments:
    """Run the minibatches through the model as it is; every gradient is cut to the length ``clip``.

    A mean over few minibatches is a poor one, and ``P`` is large where they happen to say little. Each is then looked
    at in parts, see :func:`square_of_sums`. A part is as long as its minibatch over the root of their number, about,
    and is cut to as much of ``clip``.

    Args:
        model: as it is.
        parameters: by name.
        minibatches: of the run.
        clip: the longest gradient; None for no clipping.
        parts: of each minibatch.
        batch_tokens: tokens of one forward and backward pass.
        products: bfloat16 for mixed precision.
        watch: told of the progress.
    """
    squares = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    totals = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()} if parts > 1 else {}
    steps, seen, crossed = 0, 0, 0
    for minibatch in minibatches:
        some = minibatch.parts(parts)
        steps, seen, crossed = steps + 1, seen + len(some), crossed + len(some) * (len(some) - 1)
        for part in some:
            clear_gradients(parameters)
            add_gradient(
                model, part.pairs, part.coefficients, batch_tokens=batch_tokens, products=products, watch=watch
            )
            found = {name: parameter.grad for name, parameter in parameters.items() if parameter.grad is not None}
            norm = math.sqrt(sum(float(grad.square().sum(dtype=torch.float64)) for grad in found.values()))
            kept = min(1.0, clip / math.sqrt(len(some)) / norm) if clip is not None and norm > 0 else 1.0
            for name, grad in found.items():
                squares[name].addcmul_(grad, grad, value=kept * kept)
                if totals:
                    totals[name].add_(grad, alpha=kept)
    clear_gradients(parameters)
    for name, value in squares.items():
        square_of_sums(value, totals.pop(name, None), parts=seen, sums=max(steps, 1), crossed=crossed)
    return Moments(squares, sum(float(value.sum(dtype=torch.float64)) for value in squares.values()))


def square_of_sums(squares: Tensor, total: Tensor | None, *, parts: int, sums: int, crossed: int) -> None:
    """The mean square of sums of independent gradients, in place of ``squares``, from the gradients by themselves.

    Of a sum of k: ``E[(Σ g)²] = k E[g²] + k (k − 1) E[g]²``, and ``E[g]²`` has the unbiased estimate
    ``((Σ g)² − Σ g²) / (M (M − 1))`` over all M, or 0 where that is below.

    Args:
        squares: ``Σ g²`` over all.
        total: ``Σ g`` over all; its values are lost. None where each sum is of one.
        parts: ``M``, how many there are.
        sums: how many sums.
        crossed: ``Σ k (k − 1)`` over the sums.
    """
    if total is None or not crossed:
        squares.div_(sums)
        return
    mean = total.square_().sub_(squares).clamp_min_(0).div_(parts * (parts - 1))
    squares.div_(sums).add_(mean, alpha=crossed / sums)


def lend_to_unseen(moments: Tensor, minibatches: Tensor, wanted: Tensor) -> None:
    """Second moments of tokens that no minibatch had, in place: the mean of those that the fewest had.

    A matrix that is also (or only) the unembedding has a little gradient in every token's row, so that a token that
    none had looks like one whose gradient is always tiny: ``P`` would be some hundred times too large where a response
    does have it, and drown all else in that response's features.

    Args:
        moments: ``V`` of an embedding, ``[tokens, width]``.
        minibatches: ``[tokens]``, in how many a token came.
        wanted: the numbers of the tokens that gradients will be scaled of.
    """
    had = minibatches > 0
    unseen = wanted[~had[wanted]]
    if len(unseen) and bool(had.any()):
        fewest = torch.nonzero(minibatches == minibatches[had].min()).flatten()
        lent = moments[fewest.to(moments.device)].mean(0)
        unseen = unseen.to(moments.device)
        moments[unseen] = torch.maximum(moments[unseen], lent)


def clear_gradients(parameters: Mapping[str, nn.Parameter]) -> None:
    """No parameter has a gradient any more."""
    for parameter in parameters.values():
        parameter.grad = None


def scaling_of(moments: Tensor) -> Tensor:
    """``P = 1/(√V + ε)`` of one parameter, in place of its ``V``.

    An entry that no minibatch has moved (the embedding of a token that none had) gets the mean of those that were: with
    ``1/ε`` it would drown all others. Where none was moved (the first matrix of a fresh low-rank adapter) ``P`` is 0:
    nothing is known of it, and at the start it moves nothing.
    """
    moved = moments > 0
    count = int(moved.sum())
    if not count:
        return torch.zeros_like(moments)
    mean = float(moments.sum(dtype=torch.float64)) / count
    floored = torch.where(moved, moments.clamp_min(_LEAST * mean), mean)
    return 1 / (floored.sqrt() + EPSILON)
