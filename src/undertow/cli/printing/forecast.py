"""What ``undertow forecast`` prints."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from undertow.cli.printing.common import print_report
from undertow.wording.numbers import percent, signed
from undertow.wording.visible import visible


def print_forecast(out: Path, summary: Mapping[str, Any], report: Path) -> None:
    """The end of the run as foretold, and where the page is."""
    console = Console(highlight=False)
    end = summary["end"]
    console.print(f"After {end['steps']} steps a chosen response changes by {end['chosen']:+.1f} nats on average.")
    print_report(console, report)


def print_simulation(summary: Mapping[str, Any]) -> None:
    """What a simulated run comes to, beside the forecast that it was simulated from."""
    console = Console(highlight=False)
    table = Table(show_edge=False)
    table.add_column("pairs")
    for name in ("count", "chosen", "rejected", *(("displaced",) if summary["counts"] else ())):
        table.add_column(name, justify="right", no_wrap=True)
    rows = {"as forecast": summary["forecast"], "now: trained on": summary["kept"], "left out": summary["left_out"]}
    rows |= {"all": summary["all"]} | ({"held out": summary["held_out"]} if "held_out" in summary else {})
    for name, row in rows.items():
        if row.get("pairs") == 0:
            continue
        cells = [f"{row['pairs']:,}" if "pairs" in row else "", signed(row["chosen"]), signed(row["rejected"])]
        table.add_row(name, *cells, *((percent(row["displaced"]["value"]),) if summary["counts"] else ()))
    console.print(table)
    for group, change in summary.get("texts", {}).items():
        console.print(f"{visible(group)}: {signed(change)} nats on average", markup=False)
