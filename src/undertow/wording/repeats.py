"""Pairs that repeat or contradict another one, in a sentence for terminal and page alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from undertow.wording.numbers import counted

__all__ = ["contradictions", "duplicates"]


def duplicates(found: Mapping[str, Any]) -> str:
    """What ``audit.json`` has under ``duplicates``; empty text for none."""
    if not found["count"]:
        return ""
    pairs = counted(found["count"], "pair")
    rows = [f"row {row} is row {of} again" for row, of in found["rows"]]
    return f"{pairs} with the prompt and both responses of an earlier one: {_listed(rows, found['count'])}"


def contradictions(found: Mapping[str, Any]) -> str:
    """What ``audit.json`` has under ``contradictions``; empty text for none."""
    if not found["count"]:
        return ""
    pairs = counted(found["count"], "pair")
    rows = [f"row {row} against row {other}" for row, other in found["rows"]]
    return f"{pairs} that another one contradicts, chosen and rejected exchanged: {_listed(rows, found['count'])}"


def _listed(rows: list[str], count: int) -> str:
    return ", ".join(rows) + (", …" if count > len(rows) else "")
