"""``undertow view``."""

from __future__ import annotations

import contextlib
import json as jsons
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from undertow.cli import options as o
from undertow.cli.app import app
from undertow.wording.visible import visible

EPILOG = """[bold]Examples[/bold]

undertow view scores

undertow view runs/dpo runs/simpo runs/cpo

undertow view scores --port 8000 --no-open

undertow view run --svg figures

undertow view runs/* --html comparison.html
"""

FILES = "Files instead of a server"


@app.command(epilog=EPILOG)
def view(
    folders: Annotated[
        list[Path],
        typer.Argument(
            metavar="DIR...",
            help="Folder that an audit, a forecast, a training run, a sweep or a comparison wrote; several: side by "
            "side.",
            show_default=False,
        ),
    ],
    port: Annotated[int, typer.Option("--port", help="Port to listen on; 0 for a free one.")] = 0,
    browser: Annotated[
        bool | None,
        typer.Option("--open/--no-open", help="Open a browser; by itself on a terminal with a screen."),
    ] = None,
    png: Annotated[
        Path | None, typer.Option("--png", help="Folder to write each chart to, as PNG.", rich_help_panel=FILES)
    ] = None,
    svg: Annotated[
        Path | None, typer.Option("--svg", help="Folder to write each chart to, as SVG.", rich_help_panel=FILES)
    ] = None,
    html: Annotated[
        Path | None, typer.Option("--html", help="File to write the page to.", rich_help_panel=FILES)
    ] = None,
    quiet: o.Quiet = False,
    json: o.Json = False,
) -> None:
    """Show reports in a browser, with the table of all pairs; or write their charts as files."""
    from undertow.runs.folder import check_there

    for folder in folders:
        check_there(folder)
    if png or svg or html:
        from undertow.reporting.viewing.export import export

        written = [visible(str(path)) for path in export(folders, png=png, svg=svg, html=html)]
        if not quiet:
            for path in written:
                typer.echo(f"written: {path}")
        if json:
            typer.echo(jsons.dumps({"written": written}))
        return
    from undertow.reporting.viewing.server import serve
    from undertow.reporting.viewing.site import Site

    def ready(url: str) -> None:
        typer.echo(jsons.dumps({"url": url}) if json else url)
        sys.stdout.flush()
        if not quiet:
            typer.echo("serving on this machine only; Ctrl-C ends it", err=True)
        if _has_screen() if browser is None else browser:
            typer.launch(url)

    with contextlib.closing(Site(folders)) as site:
        serve(site, port=port, ready=ready)


def _has_screen() -> bool:
    """Whether a person could see a browser: without a display, a text browser would take the terminal."""
    shown = sys.platform in ("darwin", "win32") or "DISPLAY" in os.environ or "WAYLAND_DISPLAY" in os.environ
    return shown and sys.stdout.isatty()
