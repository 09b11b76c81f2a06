"""What a filter kept and dropped, on the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from undertow.filtering.filter import FilterSummary
from undertow.filtering.selection import SCORE_KINDS
from undertow.wording.numbers import percent, typed
from undertow.wording.visible import visible

if TYPE_CHECKING:  # it takes seconds to import, which a filter by scores does not need
    from undertow.forecasting.optimise import Choice

__all__ = ["print_choice", "print_filter"]


def print_choice(choice: Choice) -> None:
    """What leaving out is foretold to do, way by way: of all pairs, trained on or left out, and of held-out ones."""
    console = Console(highlight=False, soft_wrap=True)
    named = {"none": "nothing left out", "random": "at random", "push": "lowest push", "optimised": "by simulation"}
    table = Table(title="Foretold, the mean over random orders", title_justify="left", show_edge=False)
    held = "held_out_displaced" in choice.found["none"]
    table.add_column("", no_wrap=True)
    for name in ("displaced", "chosen (nats)", *(["held-out displaced", "chosen (nats)"] if held else [])):
        table.add_column(name, justify="right")
    for name, words in named.items():
        found = choice.found[name]
        cells = [percent(found["displaced"]), typed(found["chosen"])]
        cells += [percent(found["held_out_displaced"]), typed(found["held_out_chosen"])] if held else []
        table.add_row(words, *cells)
    console.print(table)
    console.print(f"Left out: {named[choice.method]}", markup=False)


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
