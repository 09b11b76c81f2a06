"""The demo's forecast on the terminal, and what training on its pairs really did."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from undertow.cli.printing.forecast import print_forecast
from undertow.reporting.forecast.reading import read_forecast_run
from undertow.wording.forecast import fact_says

__all__ = ["print_demo"]


def print_demo(out: Path, summary: Mapping[str, Any], report: Path) -> None:
    """The forecast as any, then the fact."""
    print_forecast(out, summary, report)
    run = read_forecast_run(out)
    fact = run.fact()
    if fact is not None:
        foretold = run.column("forecast_chosen").tolist()
        said = fact_says(foretold, fact.chosen.tolist(), fact.rejected.tolist(), fact.made_on)
        Console(highlight=False).print(f"\n{said}", style="bold", markup=False)
