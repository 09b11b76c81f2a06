"""What a run tracks, by name: known from its settings, before there is a model."""

from __future__ import annotations

from collections.abc import Iterable

from undertow.scoring.columns import CASES, PRODUCT_PARTS

__all__ = ["tracked_names"]

_ALWAYS = (
    "chosen_logp",
    "rejected_logp",
    "chosen_change",
    "rejected_change",
    "margin",
    "margin_change",
    "reward_accuracy",
    "likelihood_accuracy",
    "displaced",
    "largest_decrease",
)


def tracked_names(groups: Iterable[str] = (), *, gradients: bool = False) -> tuple[str, ...]:
    """The names of the values that every look at the probe set has.

    Args:
        groups: the names of the watched groups of words.
        gradients: whether the inner products of the pairs' gradients are tracked.
    """
    watched = [f"watch/{name}" for name in groups]
    return (*_ALWAYS, *watched, *(GRADIENT_NAMES if gradients else ()))


GRADIENT_NAMES = tuple(
    f"{prefix}{name}"
    for prefix in ("", "free_")
    for name in (*(f"gradient/{part}" for part in PRODUCT_PARTS), "gradient/condition", *(f"case/{n}" for n in CASES))
)
"""What is tracked with ``--track-gradients`` only."""
