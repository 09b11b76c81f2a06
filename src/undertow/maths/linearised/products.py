"""The entanglement of all responses, ``K = S Sᵀ``: as a matrix, or as the features ``S`` where that would be too large.

Both answer the same questions. What an optimiser has moved is a *state*: for the matrix the changes of all responses,
``K w``; for features the moved point itself, ``Sᵀ w``, of which changes are read by one product with ``S``. Rows 2i and
2i + 1 are the chosen and the rejected response of pair i; rows after the pairs' are only read.

Where a loss weights tokens, what it pulls on is another function of the parameters than the log-probability that is
read: then each pair trained on has two rows more, of the weighted sums, which act; ``acting`` is the first of these.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from undertow.maths.later import torch

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Features", "Kernel", "Products"]


class Products(Protocol):
    """What the recurrence asks of the entanglement."""

    @property
    def rows(self) -> int:
        """``R``: responses."""

    def start(self) -> Tensor:
        """The state before any step, float64."""

    def move(self, rows: Tensor, coefficients: Tensor) -> Tensor:
        """The state that ``Σ coefficient · P∇_row`` adds; ``rows`` and ``coefficients`` are ``[k]``."""

    def read(self, state: Tensor, rows: Tensor | None = None) -> Tensor:
        """Changes in nats of some responses, ``[k]``, or of all, ``[R]``, float64."""

    def length(self, state: Tensor, coefficients: Tensor, acting: int = 0) -> float:
        """``wᵀ K w``: the squared length of the move, in the optimiser's geometry; ``coefficients`` is ``w``, of the
        rows from ``acting`` on."""

    def blocks(self, pairs: int, rows: int = 0, acting: int = 0) -> Tensor:
        """``K`` between the two responses of each of the first pairs, ``[pairs, 2, 2]``, float64: the first index is of
        the rows from ``rows`` on, the second of those from ``acting`` on."""

    def squares(self) -> Tensor:
        """The diagonal of ``K``, ``[R]``, float64."""


@dataclass(frozen=True, slots=True, eq=False)
class Kernel:
    """``K`` as a matrix ``[R, R]``, symmetric, any floating type."""

    matrix: Tensor

    @classmethod
    def of(cls, features: Tensor, dtype: torch.dtype | None = None) -> Kernel:
        """``S Sᵀ`` of features ``[R, D]``, in float64 or the type given; the products are taken in slabs of ``D``."""
        total = torch.zeros(len(features), len(features), dtype=dtype or torch.float64)
        for begin in range(0, features.shape[1], _SLAB):
            slab = features[:, begin : begin + _SLAB].float()
            total += (slab @ slab.T).to(total)
        return cls(total)

    @property
    def rows(self) -> int:
        """Responses."""
        return len(self.matrix)

    def start(self) -> Tensor:
        """No changes yet."""
        return torch.zeros(self.rows, dtype=torch.float64)

    def move(self, rows: Tensor, coefficients: Tensor) -> Tensor:
        """The changes that it adds."""
        return coefficients.double() @ self.matrix[rows].double()

    def read(self, state: Tensor, rows: Tensor | None = None) -> Tensor:
        """The changes, which the state is."""
        return state if rows is None else state[rows]

    def length(self, state: Tensor, coefficients: Tensor, acting: int = 0) -> float:
        """``w · K w``."""
        return float(coefficients @ state[acting : acting + len(coefficients)])

    def blocks(self, pairs: int, rows: int = 0, acting: int = 0) -> Tensor:
        """Taken out of the matrix."""
        index = torch.arange(2 * pairs).view(pairs, 2)
        return self.matrix[(rows + index).unsqueeze(2), (acting + index).unsqueeze(1)].double()

    def squares(self) -> Tensor:
        """Taken out of the matrix."""
        return self.matrix.diagonal().double()


@dataclass(frozen=True, slots=True, eq=False)
class Features:
    """``S`` itself, ``[R, D]``, float32 or less; one step over b pairs costs ``4·b·D`` operations."""

    features: Tensor

    @property
    def rows(self) -> int:
        """Responses."""
        return len(self.features)

    def start(self) -> Tensor:
        """The origin, ``[D]``."""
        return torch.zeros(self.features.shape[1], dtype=torch.float64)

    def move(self, rows: Tensor, coefficients: Tensor) -> Tensor:
        """Where it leads."""
        return coefficients.double() @ self.features[rows].double()

    def read(self, state: Tensor, rows: Tensor | None = None) -> Tensor:
        """``S`` times the state."""
        if rows is not None:
            return self.features[rows].double() @ state
        # In slabs of rows: a copy of all features in float64 is what this class is there to avoid.
        parts = torch.split(self.features, _ROWS)
        return torch.cat([part.double() @ state for part in parts]) if parts else state.new_zeros(0)

    def length(self, state: Tensor, coefficients: Tensor, acting: int = 0) -> float:
        """The squared norm of the state."""
        return float(state @ state)

    def blocks(self, pairs: int, rows: int = 0, acting: int = 0) -> Tensor:
        """Two rows at a time."""
        found = []
        sides = (torch.split(self.features[first : first + 2 * pairs], _ROWS) for first in (rows, acting))
        for read, act in zip(*sides, strict=True):
            one, two = (part.double().view(-1, 2, part.shape[1]) for part in (read, act))
            found.append(one @ two.transpose(1, 2))
        return torch.cat(found) if found else torch.zeros(0, 2, 2, dtype=torch.float64)

    def squares(self) -> Tensor:
        """Some rows at a time."""
        found = [part.double().square().sum(1) for part in torch.split(self.features, _ROWS)]
        return torch.cat(found) if found else torch.zeros(0, dtype=torch.float64)


_SLAB = 1 << 15
_ROWS = 64
