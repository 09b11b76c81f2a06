"""Losses as people write them."""

from __future__ import annotations

import re

__all__ = ["written"]

_GREEK = {
    "alpha": "α",
    "beta": "β",
    "gamma": "γ",
    "delta": "δ",
    "epsilon": "ε",
    "eta": "η",
    "kappa": "κ",
    "lam": "λ",
    "tau": "τ",
}
_CALIBRATED = re.compile(r"RewardCalibrated\(loss=(.*)\)")
_WEIGHTED = re.compile(r"TokenWeighted\(loss=(.*), by='(.*)'\)")


def written(expression: str) -> str:
    """A loss's expression for a sentence.

    >>> written("DPO(beta=0.1)")
    'DPO (β = 0.1)'
    >>> written("RewardCalibrated(loss=DPO(beta=0.1))")
    'reward-calibrated DPO (β = 0.1)'
    >>> written("TokenWeighted(loss=DPO(beta=0.1), by='shared')")
    'DPO (β = 0.1), its tokens weighted by shared'
    """
    if weighted := _WEIGHTED.fullmatch(expression):
        return f"{written(weighted[1])}, its tokens weighted by {weighted[2]}"
    if inner := _CALIBRATED.fullmatch(expression):
        return f"reward-calibrated {written(inner[1])}"
    name, _, rest = expression.partition("(")
    given = [part.partition("=") for part in rest.removesuffix(")").split(", ") if part]
    parts = [f"{_greek(key)} = {value.removesuffix('.0')}" for key, _, value in given if value != "None"]
    return f"{name} ({', '.join(parts)})" if parts else name


def _greek(name: str) -> str:
    head, _, tail = name.partition("_")
    return f"{_GREEK.get(head, head)}{' ' + tail if tail else ''}"
