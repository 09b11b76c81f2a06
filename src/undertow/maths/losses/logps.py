"""What a preference loss looks at: the log-probabilities of a batch of pairs, and what some losses need besides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from undertow.maths.later import torch
from undertow.maths.precision import working_dtype

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Logps"]

_REAL = (
    "chosen",
    "rejected",
    "ref_chosen",
    "ref_rejected",
    "chosen_scores",
    "rejected_scores",
    "chosen_grad_norms",
    "rejected_grad_norms",
)
_LENGTHS = ("chosen_tokens", "rejected_tokens")


@dataclass(frozen=True, slots=True, eq=False)
class Logps:
    """A batch of pairs in numbers; every field is ``[pairs]`` (more axes are allowed, broadcasting is not).

    Log-probabilities are in nats, **summed** over the tokens of the response, also for losses that average. All
    fields get one floating type on creation, float32 or float64; gradients flow back through that.

    Args:
        chosen: ``a = ln π(y⁺|x)``.
        rejected: ``b = ln π(y⁻|x)``.
        ref_chosen: ``a_ref``, the same under the reference.
        ref_rejected: ``b_ref``.
        chosen_tokens: ``n⁺``, the tokens of the response, its end-of-turn token included; where tokens count by
            weights, the sum of these. Above 0.
        rejected_tokens: ``n⁻``.
        chosen_scores: ``ρ⁺``, what a reward model gives the chosen response (REBEL).
        rejected_scores: ``ρ⁻``.
        chosen_grad_norms: ``‖g_w‖``, the norm of ``∇ ln π(y⁺|x)`` in the parameters considered (reward calibration).
        rejected_grad_norms: ``‖g_l‖``.

    Raises:
        TypeError: when a field is no tensor.
        ValueError: when shapes differ, log-probabilities are integers, or a length is not above 0.
    """

    chosen: Tensor
    rejected: Tensor
    ref_chosen: Tensor | None = None
    ref_rejected: Tensor | None = None
    chosen_tokens: Tensor | None = None
    rejected_tokens: Tensor | None = None
    chosen_scores: Tensor | None = None
    rejected_scores: Tensor | None = None
    chosen_grad_norms: Tensor | None = None
    rejected_grad_norms: Tensor | None = None

    def __post_init__(self) -> None:
        given = {name: v for name in _REAL + _LENGTHS if (v := getattr(self, name)) is not None}
        for name, value in given.items():
            _check(name, value, self.chosen)
        dtype = working_dtype(*(v for name, v in given.items() if name in _REAL))
        # Lengths too: a Python number times integers is float32 in torch, whatever the log-probabilities are.
        for name, value in given.items():
            object.__setattr__(self, name, value.to(dtype))

    def given(self, field: str) -> Tensor:
        """The field's tensor; a ``ValueError`` that names the field when it was left out."""
        value: Tensor | None = getattr(self, field)
        if value is None:
            raise ValueError(f"{field} is needed here and was not given to Logps")
        return value

    @property
    def chosen_logratio(self) -> Tensor:
        """``r⁺ = a − a_ref``."""
        return self.chosen - self.given("ref_chosen")

    @property
    def rejected_logratio(self) -> Tensor:
        """``r⁻ = b − b_ref``."""
        return self.rejected - self.given("ref_rejected")

    @property
    def margin(self) -> Tensor:
        """``M = a − b``."""
        return self.chosen - self.rejected

    @property
    def corrected_margin(self) -> Tensor:
        """``Δ = r⁺ − r⁻``: the margin corrected for the reference. The ratios first: they are the small numbers."""
        return self.chosen_logratio - self.rejected_logratio

    @property
    def chosen_mean(self) -> Tensor:
        """``a/n⁺``, per token."""
        return self.chosen / self.given("chosen_tokens")

    @property
    def rejected_mean(self) -> Tensor:
        """``b/n⁻``, per token."""
        return self.rejected / self.given("rejected_tokens")


def _check(name: str, value: object, chosen: object) -> None:
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"{name} must be a tensor [pairs], got {type(value).__name__}")
    # Without this, [pairs] against [pairs, 1] would broadcast to a matrix that nobody asked for.
    if isinstance(chosen, torch.Tensor) and value.shape != chosen.shape:
        raise ValueError(
            f"{name} must have the shape of chosen, one value a pair: "
            f"{name} is {tuple(value.shape)}, chosen is {tuple(chosen.shape)}"
        )
    if name in _LENGTHS:
        if value.is_complex() or value.dtype == torch.bool:
            raise ValueError(f"{name} must hold numbers, got {value.dtype}")
        if not bool((value > 0).all()):
            raise ValueError(f"{name} must be above 0 tokens, got {value.min().item():g}")
    elif not value.is_floating_point():
        raise ValueError(f"{name} must be of a floating type, got {value.dtype}")
