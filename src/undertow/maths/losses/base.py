"""What every preference loss is: a value per pair, and the two weights with which it pulls on the log-probabilities."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Self

from undertow.maths.later import torch
from undertow.maths.losses.logps import Logps

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["PairLoss"]

_REFERENCE = ("ref_chosen", "ref_rejected")
_LENGTHS = ("chosen_tokens", "rejected_tokens")
_SCORES = ("chosen_scores", "rejected_scores")
_GRAD_NORMS = ("chosen_grad_norms", "rejected_grad_norms")


class PairLoss(ABC):
    """A loss on pairs, each pair by itself. To add one, subclass and write :meth:`value`; the weights follow.

    Calling it gives the value of each pair, ``[pairs]``, through which gradients flow; :meth:`weights` gives
    ``d_w = −∂ℓ/∂a`` and ``d_l = +∂ℓ/∂b`` in the summed log-probabilities, so that one step of descent moves the
    parameters along ``d_w g_w − d_l g_l``. What a subclass needs it declares by plain class attributes::

        needs_reference = True

    and whoever calls it without gets a ``ValueError`` that names what is missing.
    """

    __slots__ = ()

    name: ClassVar[str] = ""
    """The loss's name on the command line; empty for a loss that has none."""

    @property
    def needs_reference(self) -> bool:
        """Whether ``ref_chosen`` and ``ref_rejected`` are read."""
        return False

    @property
    def needs_lengths(self) -> bool:
        """Whether ``chosen_tokens`` and ``rejected_tokens`` are read."""
        return False

    @property
    def needs_scores(self) -> bool:
        """Whether ``chosen_scores`` and ``rejected_scores`` of a reward model are read."""
        return False

    @property
    def needs_grad_norms(self) -> bool:
        """Whether ``chosen_grad_norms`` and ``rejected_grad_norms`` are read."""
        return False

    @property
    def averages_tokens(self) -> bool:
        """Whether log-probabilities are divided by lengths somewhere in the value."""
        return False

    def __call__(self, logps: Logps) -> Tensor:
        """The value of each pair, ``[pairs]``; gradients flow into the log-probabilities.

        Raises:
            ValueError: when something that the loss needs is not in ``logps``.
        """
        self._check(logps)
        value = self.value(logps)
        if value.shape != logps.chosen.shape:
            raise ValueError(
                f"{type(self).__name__} must give one value a pair, {tuple(logps.chosen.shape)}, "
                f"got {tuple(value.shape)}; leave the averaging to the caller"
            )
        return value

    def weights(self, logps: Logps) -> tuple[Tensor, Tensor]:
        """``(d_w, d_l)``, each ``[pairs]``, without gradients: they are constants within one step.

        At a kink both sides count as inactive. A weight can be 0 (an inactive hinge) or negative (past a target).

        Raises:
            ValueError: when something that the loss needs is not in ``logps``.
        """
        self._check(logps)
        with torch.no_grad():
            return self.derivatives(logps)

    def at_step(self, step: int) -> Self:
        """The loss as it is at an optimiser step (0-based); itself, unless a parameter follows a schedule."""
        return self

    @abstractmethod
    def value(self, logps: Logps) -> Tensor:
        """The formula: ``ℓ`` of each pair, ``[pairs]``."""

    def derivatives(self, logps: Logps) -> tuple[Tensor, Tensor]:
        """``(−∂ℓ/∂a, ∂ℓ/∂b)``; by automatic differentiation unless a subclass knows the closed form."""
        with torch.enable_grad():
            a, b = (t.detach().clone().requires_grad_() for t in (logps.chosen, logps.rejected))
            total = self.value(replace(logps, chosen=a, rejected=b)).sum()
            if not total.requires_grad:
                return torch.zeros_like(logps.chosen), torch.zeros_like(logps.rejected)
            found = torch.autograd.grad(total, (a, b), allow_unused=True, materialize_grads=True)
        return -found[0], found[1]

    def _check(self, logps: Logps) -> None:
        wanted: list[str] = []
        for needed, fields in (
            (self.needs_reference, _REFERENCE),
            (self.needs_lengths, _LENGTHS),
            (self.needs_scores, _SCORES),
            (self.needs_grad_norms, _GRAD_NORMS),
        ):
            wanted += fields if needed else ()
        missing = [field for field in wanted if getattr(logps, field) is None]
        if missing:
            raise ValueError(f"the loss {self!r} needs {' and '.join(missing)}: give them to Logps")
