"""What every command prints: where its page stands, and the machine-readable summary."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from undertow.files import without_nonfinite
from undertow.wording.visible import visible

__all__ = ["CELL_BORDER", "print_json", "print_report", "that_fit"]

CELL_BORDER = 3
"""Characters between two columns of a table."""


def that_fit(columns: Mapping[str, Sequence[str]], width: int) -> dict[str, Sequence[str]]:
    """The first columns of a table, as many as so many characters have room for: cells by title."""
    found = {}
    for title, cells in columns.items():
        width -= max(map(len, (title, *cells))) + CELL_BORDER
        if width < 0:
            break
        found[title] = cells
    return found


def print_report(console: Console, report: Path) -> None:
    """Where the page stands."""
    console.print(f"\nReport: {visible(str(report))}", markup=False, soft_wrap=True)


def print_json(summary: Mapping[str, Any]) -> None:
    """The machine-readable summary: one line, the last of standard output."""
    print(json.dumps(without_nonfinite(summary), ensure_ascii=True, allow_nan=False), flush=True)
