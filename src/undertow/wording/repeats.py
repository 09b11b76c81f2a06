"""Pairs that repeat or contradict another one, in a sentence for terminal and page alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from undertow.wording.numbers import counted

__all__ = ["contradictions", "duplicates"]


def duplicates(found: Mapping[str, Any]) -> str:
    """What ``audit.json`` has under ``duplicates``; empty text for none."""
    return _said(found, "with the prompt and both responses of an earlier one", "row {} is row {} again")


def contradictions(found: Mapping[str, Any]) -> str:
    """What ``audit.json`` has under ``contradictions``; empty text for none."""
    return _said(found, "that another one contradicts, chosen and rejected exchanged", "row {} against row {}")


def _said(found: Mapping[str, Any], what: str, link: str) -> str:
    """How many pairs, what they are, and the first of them, each with the row that it is linked to."""
    if not found["count"]:
        return ""
    rows = [link.format(row, other) for row, other in found["rows"]]
    return f"{counted(found['count'], 'pair')} {what}: {_listed(rows, found['count'])}"


def _listed(rows: list[str], count: int) -> str:
    return ", ".join(rows) + (", …" if count > len(rows) else "")
