"""What a filter kept and dropped, on the terminal."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table

from undertow.filtering.filter import FilterSummary
from undertow.filtering.selection import SCORE_KINDS
from undertow.wording.visible import visible

__all__ = ["print_filter"]


def print_filter(out: Path, summary: FilterSummary) -> None:
    """What a filter kept and dropped."""
    console = Console(highlight=False, soft_wrap=True)
    for selector, count in summary.selectors.items():
        by = f" by {summary.by}" if selector.partition(" ")[0] in SCORE_KINDS else ""
        console.print(f"{selector}{by}: {count:,} pairs", markup=False)
    table = Table(show_edge=False)
    for name in ("", "rows", "tokens"):
        table.add_column(name, justify="right" if name else "left")
    table.add_row("kept", f"{summary.kept:,}", f"{summary.kept_tokens:,}")
    table.add_row("dropped", f"{summary.dropped:,}", f"{summary.dropped_tokens:,}")
    console.print(table)
    if summary.unscored:
        console.print(f"{summary.unscored:,} of the dropped rows have no score", markup=False)
    console.print(f"written: {visible(str(out))}", markup=False)
