"""What a run tracks, by name: known from its settings, before there is a model."""

from __future__ import annotations

from collections.abc import Iterable

from undertow.scoring.columns import CASES, PRODUCT_PARTS

__all__ = ["FREE", "FULL", "OWN", "tracked_names"]

OWN, FREE, FULL = "", "free_", "full_"
"""What the tracked values of gradients begin with: in the unembedding matrix; with the hidden embeddings too; over all
trained parameters."""

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


_HELD_OUT = ("chosen_change", "rejected_change", "margin_change", "reward_accuracy", "displaced")
_FORETOLD = ("chosen_change", "rejected_change", "margin_change", "displaced")


def tracked_names(
    groups: Iterable[str] = (), *, gradients: bool = False, held_out: bool = False, foretold: bool = False
) -> tuple[str, ...]:
    """The names of the values that every look at the probe set has.

    Args:
        groups: the names of the watched groups of words.
        gradients: whether the inner products of the pairs' gradients are tracked.
        held_out: whether pairs that are not trained on are looked at beside.
        foretold: whether a forecast stands beside; it may have less to say than these names.
    """
    found = [*_ALWAYS, *(f"watch/{name}" for name in groups), *(GRADIENT_NAMES if gradients else ())]
    unseen = [f"held_out/{name}" for name in _HELD_OUT] if held_out else []
    said = [*_FORETOLD, *(f"held_out/{name}" for name in _FORETOLD if held_out)] if foretold else []
    return (*found, *unseen, *(f"forecast/{name}" for name in said))


GRADIENT_NAMES = tuple(
    f"{prefix}{name}"
    for prefix in (OWN, FREE, FULL)
    for name in (*(f"gradient/{part}" for part in PRODUCT_PARTS), "gradient/condition", *(f"case/{n}" for n in CASES))
)
"""What is tracked with ``--track-gradients`` only."""
