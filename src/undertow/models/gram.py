"""Exact inner products of responses' gradients over all trained parameters, without the gradients.

:class:`Gram` takes the pieces that :func:`~undertow.models.gradients.response_gradients` hands on, a layer at a time,
and keeps of each layer the products alone. Responses come in groups, the pairs of a pack for instance, and only those
of one group are multiplied with each other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from undertow.maths.outer import flat_gram, formed, gram_of_outer_products, gram_of_rows, gram_with_shared_rows
from undertow.maths.precision import full_precision, has_float64
from undertow.models.gradients import Response, check_pieces, response_gradients
from undertow.models.model import Model

__all__ = ["Gram", "Group", "check_products", "gradient_gram"]


@dataclass(frozen=True, slots=True)
class Group:
    """Neighbouring responses of a pack that are multiplied with each other.

    Attributes:
        responses: they.
        places: where they share what entered the layers (all of one tree's contexts): for each response the places of
            its tokens, prompt first, among the tree's; None where nothing is said.
        size: how many places the tree has.
    """

    responses: tuple[Response, ...]
    places: tuple[tuple[int, ...], ...] | None = None
    size: int = 0

    @property
    def total(self) -> int:
        """Tokens of all, each with its prompt."""
        return sum(one.total for one in self.responses)


class Gram:
    """A sink that multiplies the pieces of each group and forgets them.

    ``found[g]`` is ``[parameters, k, k]`` in float64, k the group's responses, parameters in the order of their names.
    """

    def __init__(
        self,
        model: nn.Module,
        parameters: Mapping[str, nn.Parameter],
        groups: Sequence[Group],
        scales: Mapping[str, Tensor] | None = None,
    ) -> None:
        self._numbers = {name: number for number, name in enumerate(parameters)}
        self._scales, self._groups = scales, groups
        self._where = [(g, i) for g, group in enumerate(groups) for i in range(len(group.responses))]
        self._waiting: dict[tuple[str, int, int], list[tuple[Tensor, ...]]] = {}
        # Of a matrix that is both embedding and unembedding: its outer products' rows at the tokens that are read.
        self._head: dict[tuple[str, int], list[tuple[Tensor, Tensor]]] = {}
        device = next(iter(parameters.values())).device
        self._read = [
            torch.tensor(sorted({t for one in group.responses for t in (*one.prompt, *one.tokens)}), device=device)
            for group in groups
        ]
        self._tied = tied_embedding(model, parameters)
        # Matrices that are stored the other way round: what entered is on their left.
        by_id = {id(parameter): name for name, parameter in parameters.items()}
        self._turned = {by_id.get(id(module.weight)) for module in model.modules() if isinstance(module, Conv1D)}
        exact = device if has_float64(device) else torch.device("cpu")
        sizes = [len(group.responses) for group in groups]
        self.found = [torch.zeros(len(parameters), k, k, dtype=torch.float64, device=exact) for k in sizes]

    def outer(self, name: str, response: int, first_row: int, left: Tensor, right: Tensor) -> None:
        """Waits for the others of its group."""
        for g, pieces in self._ready(name, response, first_row, (left, right)):
            lengths = [len(one) for one, _ in pieces]
            lefts, rights = (torch.cat([piece[side] for piece in pieces]) for side in (0, 1))
            self._add(name, g, self._outer_gram(name, g, first_row, lefts, rights, lengths))
            if name == self._tied:
                self._keep_head(name, g, first_row, pieces)

    def _outer_gram(
        self, name: str, g: int, first_row: int, left: Tensor, right: Tensor, lengths: Sequence[int]
    ) -> Tensor:
        rows, width, total, k = left.shape[1], right.shape[1], len(left), len(lengths)
        group = self._groups[g]
        if self._scales is None:
            if group.places is not None and total == sum(map(len, group.places)):
                places = torch.tensor([place for one in group.places for place in one], device=left.device)
                varying, same = (right, left) if name in self._turned else (left, right)
                shared = same.new_zeros(group.size, same.shape[1])
                shared[places] = same
                return gram_with_shared_rows(varying, shared, places, lengths)
            if total * total * (rows + width) <= (total + k * k) * rows * width:
                return gram_of_outer_products(left, right, lengths)
        # The matrices themselves, some of their rows at a time.
        found = self.found[g].new_zeros(k, k)
        step = max(1, 2**22 // (k * width))
        for begin in range(0, rows, step):
            part = formed(left[:, begin : begin + step], right, lengths)
            found += flat_gram(part.flatten(1), self._scale(name, first_row + begin, part.shape[1]))
        return found

    def _scale(self, name: str, first: int, rows: int) -> Tensor | None:
        if self._scales is None:
            return None
        return self._scales[name][first : first + rows].flatten()

    def _keep_head(self, name: str, g: int, first_row: int, pieces: Sequence[tuple[Tensor, ...]]) -> None:
        read = self._read[g]
        here = (read >= first_row) & (read < first_row + pieces[0][0].shape[1])
        kept = self._head.setdefault(
            (name, g), [(left.new_zeros(len(left), len(read)), right) for left, right in pieces]
        )
        for (columns, _), (left, _) in zip(kept, pieces, strict=True):
            columns[:, here] = left[:, read[here] - first_row]

    def dense(self, name: str, response: int, values: Tensor) -> None:
        """Waits for the others of its group."""
        for g, pieces in self._ready(name, response, -1, (values,)):
            scale = None if self._scales is None else self._scales[name].flatten()
            self._add(name, g, flat_gram(torch.stack([piece[0] for piece in pieces]), scale))

    def rows(self, name: str, response: int, rows: Tensor, values: Tensor) -> None:
        """Waits for the others of its group; with the unembedding's part where both are one matrix."""
        for g, pieces in self._ready(name, response, -2, (rows, values)):
            ids, values = (torch.cat([piece[side] for piece in pieces]) for side in (0, 1))
            head, lengths = self._head.pop((name, g), None), [len(one) for one, _ in pieces]
            scale = None if self._scales is None else self._scales[name]
            beside = None if head is None else partial(_rows_of_head, head, self._read[g])
            self._add(name, g, gram_of_rows(ids, values, lengths, scale, beside))

    def _ready(
        self, name: str, response: int, first_row: int, piece: tuple[Tensor, ...]
    ) -> list[tuple[int, list[tuple[Tensor, ...]]]]:
        """The group and all its pieces, once the last one is there."""
        g, i = self._where[response]
        waiting = self._waiting.setdefault((name, g, first_row), [])
        assert len(waiting) == i, f"a piece of {name} came out of turn"
        waiting.append(piece)
        if len(waiting) < len(self._groups[g].responses):
            return []
        return [(g, self._waiting.pop((name, g, first_row)))]

    def _add(self, name: str, g: int, products: Tensor) -> None:
        self.found[g][self._numbers[name]] += products.to(self.found[g].device)


def _rows_of_head(head: Sequence[tuple[Tensor, Tensor]], read: Tensor, rows: Tensor) -> Tensor:
    """The unembedding's own gradients in some rows, of those whose factors were kept: ``[k, rows, width]``."""
    at = torch.searchsorted(read, rows)
    with full_precision():
        return torch.stack([columns[:, at].T @ states for columns, states in head])


class _Uses:
    """A sink that counts how often each parameter's pieces come, for one response."""

    def __init__(self) -> None:
        self.outers: dict[tuple[str, int], int] = {}
        self.others: dict[tuple[str, str], int] = {}

    def outer(self, name: str, response: int, first_row: int, left: Tensor, right: Tensor) -> None:
        if response == 0:
            self.outers[name, first_row] = self.outers.get((name, first_row), 0) + 1

    def dense(self, name: str, response: int, values: Tensor) -> None:
        self._other(name, response, "dense")

    def rows(self, name: str, response: int, rows: Tensor, values: Tensor) -> None:
        self._other(name, response, "rows")

    def _other(self, name: str, response: int, kind: str) -> None:
        if response == 0:
            self.others[name, kind] = self.others.get((name, kind), 0) + 1

    def twice(self, tied: str | None) -> str | None:
        """A parameter that more than one place uses; embedding and unembedding count as one."""
        for name, _ in [key for key, count in [*self.outers.items(), *self.others.items()] if count > 1]:
            return str(name)
        outers = {name for name, _ in self.outers}
        for name, kind in self.others:
            if (name in outers and not (name == tied and kind == "rows")) or (
                kind == "dense" and (name, "rows") in self.others
            ):
                return name
        return None


def tied_embedding(model: nn.Module, parameters: Mapping[str, nn.Parameter]) -> str | None:
    """The trained matrix that is embedding and unembedding at once."""
    read, written = (getattr(model, f"get_{side}_embeddings")().weight for side in ("input", "output"))
    return next((name for name, one in parameters.items() if one is read and one is written), None)


def check_products(
    model: Model, parameters: Mapping[str, nn.Parameter], draw: Callable[[int], Sequence[int]]
) -> str | None:
    """Why products cannot be had by layers, or None; see :func:`~undertow.models.gradients.check_pieces`."""
    problem = check_pieces(model, parameters, draw)
    if problem:
        return problem
    uses = _Uses()
    response_gradients(model, [Response(tuple(draw(4)), tuple(draw(5)))], parameters, uses)
    name = uses.twice(tied_embedding(model.hf, parameters))
    return f"{name} is used in more than one place" if name else None


def gradient_gram(
    model: Model,
    groups: Sequence[Group],
    parameters: Mapping[str, nn.Parameter],
    *,
    scales: Mapping[str, Tensor] | None = None,
    packed: bool = True,
    products: torch.dtype | None = None,
) -> tuple[list[Tensor], Tensor]:
    """All inner products of the gradients of ``ln π(y|x)`` within groups of responses, exact, by parameter.

    One forward and one backward pass over the groups' tokens. Sums over positions are in float64.

    Args:
        model: with the weights to differentiate at.
        groups: those of one pack.
        parameters: as :func:`~undertow.models.gradients.trained_parameters` finds them.
        scales: by parameter, in its shape: ``P`` of ``⟨g, P g'⟩``, the optimiser's geometry; None for the plain one.
        packed: by layers; else one response at a time by autograd, whole gradients of a group at once in memory.
        products: bfloat16 for products in it, over the weights as they are (automatic mixed precision).

    Returns:
        For each group ``[parameters, k, k]``, float64; and the log-probabilities of all responses, in nats.
    """
    sink = Gram(model.hf, parameters, groups, scales)
    responses = [one for group in groups for one in group.responses]
    logps = response_gradients(model, responses, parameters, sink, packed=packed, products=products)
    return sink.found, logps
