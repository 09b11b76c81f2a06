"""What a run was asked to do, as lines of a table for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["flat"]


def flat(settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Names and values as text, nested ones by dotted names; what was not given is left out."""
    return list(_lines(settings, ""))


def _lines(settings: Mapping[str, Any], above: str) -> Iterator[tuple[str, str]]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _lines(value, f"{above}{name}.")
        elif value is not None and value != [] and value != ():
            yield f"{above}{name}", ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
