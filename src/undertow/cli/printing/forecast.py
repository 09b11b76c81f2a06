"""What ``undertow forecast`` prints."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from undertow.cli.printing.common import print_report


def print_forecast(out: Path, summary: Mapping[str, Any], report: Path) -> None:
    """The end of the run as foretold, and where the page is."""
    console = Console(highlight=False)
    end = summary["end"]
    console.print(f"After {end['steps']} steps a chosen response changes by {end['chosen']:+.1f} nats on average.")
    print_report(console, report)
