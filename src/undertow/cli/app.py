"""The application that commands register on: its help, its version."""

from __future__ import annotations

from typing import Annotated

import typer

from undertow.version import __version__

HELP = """Find, watch and mend likelihood displacement in preference training.

Preference losses only fix the margin between the chosen and the rejected response, so the probability of the chosen
one often falls too. Undertow tells, before training, which pairs will drag good answers down.
"""

app = typer.Typer(
    help=HELP,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"undertow {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass
