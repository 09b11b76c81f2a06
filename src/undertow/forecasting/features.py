"""Gradient features: each response's gradient, scaled as the optimiser does and sketched, as it is formed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from undertow.data.tokens.packing import grouped
from undertow.maths.linearised import CountSketch
from undertow.models.gradients import Response, response_gradients
from undertow.models.model import Model

__all__ = ["Factor", "FeatureRows", "Sketcher", "factors_of", "features_of"]

PLAIN = 8191
"""Numbers of the second sketch, of plain gradients, for the norms that clipping looks at."""
_HALVINGS, _FEW_ROWS = 2, 128
"""One row in 2² counts, of matrices of so many rows or more."""
_WIDTH = 32
"""Of the random projections before it, on either side of a matrix."""


@dataclass(frozen=True, slots=True, eq=False)
class FeatureRows:
    """Of some responses, in order: ``scaled [k, D]``, ``plain [k, 8191]``, float32, and ``logps [k]``, float64."""

    scaled: Tensor
    plain: Tensor
    logps: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Factor:
    """What a parameter's gradient is multiplied by before it is folded.

    Attributes:
        values: flat: ``±P^½`` with the sketch's signs, and the root of what a row stands for.
        rows: of a large matrix, the numbers of the rows that count, ascending; None where all do.
        height, width: of the whole matrix; a vector is one row.
    """

    values: Tensor
    rows: Tensor | None
    height: int
    width: int

    def folded(self, values: Tensor) -> Tensor:
        """A whole gradient, flat, as it is added to a sketch: the rows that count, multiplied."""
        some = values if self.rows is None else values.view(-1, self.width)[self.rows].flatten()
        return some * self.values

    def part(self, first: int, count: int) -> tuple[Tensor | None, int, Tensor]:
        """Of ``count`` neighbouring rows from ``first`` on: which of them count (None: all), the place of the first
        among those that do, and their values."""
        if self.rows is None:
            return None, first, self.values[first * self.width : (first + count) * self.width]
        ends = torch.tensor([first, first + count], device=self.rows.device)
        begin, end = torch.searchsorted(self.rows, ends).tolist()
        return self.rows[begin:end] - first, begin, self.values[begin * self.width : end * self.width]


def factors_of(
    scaling: Mapping[str, Tensor], sketch: CountSketch, standing_out: Mapping[str, Tensor], *, every_row: bool = False
) -> dict[str, Factor]:
    """The factors of all parameters.

    Of matrices of many rows a quarter counts, fourfold, and is drawn by hash: an inner product is a sum over some
    hundred thousand rows of a model, so that the error of the draw is of the order of the sketch's own, and half of the
    work on a gradient is saved. Rows that stand out all count: of embeddings those that the data's own tokens have.

    Args:
        scaling: ``P^½`` by parameter.
        sketch: whose signs.
        standing_out: the numbers of such rows, of the parameters that have some.
        every_row: draw none.
    """
    found = {}
    for name, scale in scaling.items():
        rows: Tensor | None = None
        height, width = scale.shape if scale.dim() == 2 else (1, scale.numel())
        if not every_row and height >= _FEW_ROWS:
            drawn = torch.stack(
                [sketch.signs(f"{name} row {bit}", 0, height, device=scale.device) < 0 for bit in range(_HALVINGS)]
            ).all(0)
            always = torch.zeros_like(drawn)
            if name in standing_out:
                always[standing_out[name].to(always.device)] = True
            rows = torch.nonzero(drawn | always).flatten()
            stands_for = torch.where(always[rows], 1.0, 2.0 ** (_HALVINGS / 2))
            scale = scale[rows].float() * stands_for.unsqueeze(1)
        flat = scale.float().flatten()
        found[name] = Factor(flat * sketch.signs(name, 0, len(flat), device=flat.device), rows, height, width)
    return found


class Sketcher:
    """A sink of gradients that keeps two sketches of each."""

    def __init__(
        self, factors: Mapping[str, Factor], sketch: CountSketch, responses: int, device: torch.device
    ) -> None:
        self._factors, self._sketch = factors, sketch
        self._small = CountSketch(PLAIN, sketch.seed)
        self._sides: dict[tuple[str, str, int, int], Tensor] = {}
        self.scaled = torch.zeros(responses, sketch.size, device=device)
        self.plain = torch.zeros(responses, PLAIN, device=device)

    def outer(self, name: str, response: int, first_row: int, left: Tensor, right: Tensor) -> None:
        """Formed, scaled and folded while it is in the processor's cache; the plain one is never formed."""
        width = right.shape[1]
        counted, begin, factor = self._factors[name].part(first_row, left.shape[1])
        some = left if counted is None else left[:, counted]
        if some.shape[1]:
            self._sketch.add(self.scaled[response], name, begin * width, (some.T @ right).flatten() * factor)
        rows = self._side(name, "rows", first_row, left.shape[1], left)
        columns = self._side(name, "columns", 0, width, right)
        self._keep_plain(name, response, (left @ rows).float().T @ (right @ columns).float())

    def dense(self, name: str, response: int, values: Tensor) -> None:
        """A whole gradient that is not the product of two factors."""
        self._sketch.add(self.scaled[response], name, 0, self._factors[name].folded(values))
        self._small.add(self.plain[response], name, 0, values * self._small.signs(name, 0, len(values)).to(values))

    def rows(self, name: str, response: int, rows: Tensor, values: Tensor) -> None:
        """Rows of a matrix, such as the embeddings of a response's tokens."""
        factor = self._factors[name]
        at = rows if factor.rows is None else torch.searchsorted(factor.rows, rows)
        self._sketch.add_rows(self.scaled[response], name, at, values * factor.values.view(-1, factor.width)[at])
        sides = self._side(name, "rows", 0, factor.height, values)[rows]
        columns = self._side(name, "columns", 0, values.shape[1], values)
        self._keep_plain(name, response, sides.float().T @ (values @ columns).float())

    def _keep_plain(self, name: str, response: int, projected: Tensor) -> None:
        values = projected.flatten() / _WIDTH
        self._small.add(self.plain[response], name, 0, values)

    def _side(self, name: str, side: str, first: int, count: int, like: Tensor) -> Tensor:
        """Random signs ``[count, 32]`` for one side of a parameter, from its row or column ``first`` on."""
        key = (name, side, first, count)
        if key not in self._sides or self._sides[key].dtype != like.dtype:
            begin = first * _WIDTH
            signs = self._small.signs(f"{name} {side}", begin, begin + count * _WIDTH, device=like.device)
            self._sides[key] = signs.view(count, _WIDTH).to(like.dtype)
        return self._sides[key]


def features_of(
    model: Model,
    parameters: Mapping[str, nn.Parameter],
    responses: Sequence[Response],
    factors: Mapping[str, Factor],
    sketch: CountSketch,
    *,
    batch_tokens: int,
    packed: bool,
    products: torch.dtype | None,
) -> Iterator[FeatureRows]:
    """The features of responses, a pack at a time, in order."""
    for some in grouped(responses, batch_tokens):
        sink = Sketcher(factors, sketch, len(some), model.device)
        logps = response_gradients(model, some, parameters, sink, packed=packed, products=products)
        yield FeatureRows(sink.scaled, sink.plain, logps.double())
