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

__all__ = ["FeatureRows", "Sketcher", "features_of", "signed"]

PLAIN = 8191
"""Numbers of the second sketch, of plain gradients, for the norms that clipping looks at."""
_WIDTH = 32
"""Of the random projections before it, on either side of a matrix."""


@dataclass(frozen=True, slots=True, eq=False)
class FeatureRows:
    """Of some responses, in order: ``scaled [k, D]``, ``plain [k, 8191]``, float32, and ``logps [k]``, float64."""

    scaled: Tensor
    plain: Tensor
    logps: Tensor


def signed(scaling: Mapping[str, Tensor], sketch: CountSketch) -> dict[str, Tensor]:
    """``±P^½`` by parameter, flat, with the sketch's signs: what a gradient is multiplied by before it is folded."""
    found = {}
    for name, scale in scaling.items():
        flat = scale.flatten().to(torch.float32)
        found[name] = flat.mul_(sketch.signs(name, 0, len(flat), device=flat.device))
    return found


class Sketcher:
    """A sink of gradients that keeps two sketches of each."""

    def __init__(
        self, factors: Mapping[str, Tensor], sketch: CountSketch, responses: int, device: torch.device
    ) -> None:
        self._factors, self._sketch = factors, sketch
        self._small = CountSketch(PLAIN, sketch.seed)
        self._sides: dict[tuple[str, str, int, int], Tensor] = {}
        self.scaled = torch.zeros(responses, sketch.size, device=device)
        self.plain = torch.zeros(responses, PLAIN, device=device)

    def outer(self, name: str, response: int, first_row: int, left: Tensor, right: Tensor) -> None:
        """Formed, scaled and folded while it is in the processor's cache; the plain one is never formed."""
        width = right.shape[1]
        begin = first_row * width
        block = (left.T @ right).flatten()
        factor = self._factors[name][begin : begin + len(block)]
        self._sketch.add(self.scaled[response], name, begin, block * factor)
        rows = self._side(name, "rows", first_row, left.shape[1], left)
        columns = self._side(name, "columns", 0, width, right)
        self._keep_plain(name, response, (left @ rows).float().T @ (right @ columns).float())

    def dense(self, name: str, response: int, values: Tensor) -> None:
        """A whole gradient that is not the product of two factors."""
        self._sketch.add(self.scaled[response], name, 0, values * self._factors[name])
        self._small.add(self.plain[response], name, 0, values * self._small.signs(name, 0, len(values)).to(values))

    def rows(self, name: str, response: int, rows: Tensor, values: Tensor) -> None:
        """Rows of a matrix, such as the embeddings of a response's tokens."""
        factor = self._factors[name].view(-1, values.shape[1])[rows]
        self._sketch.add_rows(self.scaled[response], name, rows, values * factor)
        sides = self._side(name, "rows", 0, len(self._factors[name]) // values.shape[1], values)[rows]
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
    factors: Mapping[str, Tensor],
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
