"""A loss around another one, which passes on what that one needs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

from undertow.maths.losses.base import PairLoss

if TYPE_CHECKING:
    from torch import Tensor

    from undertow.maths.losses.logps import Logps

__all__ = ["TokenWeighted", "WrappedLoss"]


@dataclass(frozen=True, slots=True)
class WrappedLoss(PairLoss):
    """``loss``: the loss inside."""

    loss: PairLoss

    def __post_init__(self) -> None:
        if not isinstance(self.loss, PairLoss):
            raise ValueError(f"{type(self).__name__}: loss must be a loss such as DPO(), got {self.loss!r}")

    @property
    def needs_reference(self) -> bool:
        """As the loss inside."""
        return self.loss.needs_reference

    @property
    def needs_lengths(self) -> bool:
        """As the loss inside."""
        return self.loss.needs_lengths

    @property
    def needs_scores(self) -> bool:
        """As the loss inside."""
        return self.loss.needs_scores

    @property
    def needs_grad_norms(self) -> bool:
        """As the loss inside."""
        return self.loss.needs_grad_norms

    @property
    def averages_tokens(self) -> bool:
        """As the loss inside."""
        return self.loss.averages_tokens

    def at_step(self, step: int) -> Self:
        """With the loss inside at that step."""
        return replace(self, loss=self.loss.at_step(step))

    def value(self, logps: Logps) -> Tensor:
        """As the loss inside."""
        return self.loss.value(logps)

    def derivatives(self, logps: Logps) -> tuple[Tensor, Tensor]:
        """As the loss inside."""
        return self.loss.derivatives(logps)


@dataclass(frozen=True, slots=True)
class TokenWeighted(WrappedLoss):
    """Another loss of log-probabilities in which tokens count by weights: ``a = Σ_k ω_k ln p_k(y⁺_k)``.

    The formula is that of the loss inside. What it is given are weighted sums, of the model's as of the reference's
    log-probabilities, and ``Σ ω`` for lengths; ``∂ℓ/∂ ln p_k`` is then ``−d_w ω_k``
    (:func:`undertow.maths.token_weights.per_token`).

    ``loss``: the loss inside. ``by``: where the weights come from: ``shared`` (tokens that both responses begin or end
    with do not count), ``entangled`` (a token counts less, the more its gradient agrees with that of a token of the
    other response), or a file that has them.
    """

    by: str = "shared"

    name = "token-weighted"
