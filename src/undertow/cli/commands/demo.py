"""``undertow demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from undertow.cli import options as o
from undertow.cli.app import app
from undertow.cli.printing.progress import TerminalWatcher


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder to write.")] = Path("demo-out"),
    device: o.Device = "auto",
    dtype: o.Dtype = "auto",
    quiet: o.Quiet = False,
    json: o.Json = False,
) -> None:
    """The main job on a shipped set of pairs and a real small model, nothing to set up."""
    from undertow.cli.printing.common import print_json
    from undertow.cli.printing.demo import print_demo
    from undertow.demo.run import run_demo
    from undertow.models.device import keep_large_blocks
    from undertow.reporting import write_report

    keep_large_blocks()
    with TerminalWatcher(quiet=quiet) as watch:
        summary = run_demo(out, device=device, dtype=dtype, watch=watch)
        watch.phase("writing the report")
        report = write_report(out)
    if not quiet:
        print_demo(out, summary, report)
    if json:
        print_json(summary)
