"""Checks of a loss's parameters, made when the loss is created."""

from __future__ import annotations

import math

__all__ = ["check_choice", "check_ranges", "check_whole"]


def check_ranges(loss: object, **ranges: str) -> None:
    """Each named parameter of ``loss`` must be a finite number in its interval, written as ``"(0, inf)"``.

    Raises:
        ValueError: with the parameter's name, its range and what came.
    """
    for name, interval in ranges.items():
        value = getattr(loss, name)
        low, high = (float(end) for end in interval[1:-1].split(","))
        number = isinstance(value, int | float) and type(value) is not bool and math.isfinite(value)
        above = number and (value > low or (value == low and interval[0] == "["))
        below = number and (value < high or (value == high and interval[-1] == "]"))
        if not (above and below):
            raise ValueError(f"{type(loss).__name__}: {name} must be a number in {interval}, got {value!r}")


def check_whole(loss: object, **lowest: int) -> None:
    """Each named parameter must be a whole number, at least the one given."""
    for name, least in lowest.items():
        value = getattr(loss, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ValueError(f"{type(loss).__name__}: {name} must be a whole number, at least {least}, got {value!r}")


def check_choice(loss: object, name: str, choices: tuple[object, ...]) -> None:
    """The parameter must be one of the choices."""
    value = getattr(loss, name)
    # By identity of type too: 1 == True would slip through as a switch.
    if not any(type(value) is type(choice) and value == choice for choice in choices):
        known = ", ".join(str(choice) for choice in choices)
        raise ValueError(f"{type(loss).__name__}: {name} must be one of {known}; got {value!r}")
