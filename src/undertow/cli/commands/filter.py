"""``undertow filter``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from undertow.cli import options as o
from undertow.cli.app import app
from undertow.cli.printing.progress import TerminalWatcher

EPILOG = """[bold]Examples[/bold]

undertow filter prefs.jsonl --scores scores --by pull --drop-lowest 10% --out filtered.jsonl

undertow filter prefs.jsonl --scores scores --drop-duplicates --drop-contradictions --out clean.jsonl

undertow filter prefs.jsonl --scores forecast --optimise displaced --drop 10% --out mended.jsonl

undertow filter prefs.parquet --scores scores --by ln_ches --keep-lowest 5% --out lowest.parquet

undertow filter prefs.jsonl --scores shards --by edit_distance --drop-below 0.1 --out far.jsonl --decisions why.csv
"""

AMOUNT = "10% of the rows, or a number of rows."
SELECTORS = "Selectors (a row is dropped when any of them drops it)"


def _option(name: str, text: str) -> typer.models.OptionInfo:
    return typer.Option(name, help=text, rich_help_panel=SELECTORS)  # type: ignore[no-any-return]


@app.command(epilog=EPILOG)
def filter(
    data: o.Data,
    scores: Annotated[
        list[Path],
        typer.Option("--scores", help="Folder an audit wrote, or of its shards; may be repeated.", show_default=False),
    ],
    out: Annotated[Path, typer.Option("--out", help="File to write; its ending is its type.", show_default=False)],
    by: Annotated[
        str | None,
        typer.Option("--by", help="Numeric column of the scores that the selectors look at (docs/choosing.md: which)."),
    ] = None,
    drop_highest: Annotated[str | None, _option("--drop-highest", AMOUNT)] = None,
    drop_lowest: Annotated[str | None, _option("--drop-lowest", AMOUNT)] = None,
    keep_highest: Annotated[str | None, _option("--keep-highest", AMOUNT)] = None,
    keep_lowest: Annotated[str | None, _option("--keep-lowest", AMOUNT)] = None,
    drop_above: Annotated[str | None, _option("--drop-above", "Drop scores above this value.")] = None,
    drop_below: Annotated[str | None, _option("--drop-below", "Drop scores below this value.")] = None,
    drop_case: Annotated[list[str] | None, _option("--drop-case", "Drop pairs of this case; may be repeated.")] = None,
    drop_duplicates: Annotated[
        bool, _option("--drop-duplicates", "Drop pairs that stand further up already, word for word.")
    ] = False,
    drop_contradictions: Annotated[
        bool, _option("--drop-contradictions", "Drop pairs that stand there exchanged as well; both sides go.")
    ] = False,
    optimise: Annotated[
        str | None,
        typer.Option(
            "--optimise",
            "--optimize",
            help="Choose by simulation what to leave out, of a forecast's folder: displaced (fewest chosen responses "
            "that end lower, of all and of held-out pairs) or chosen (highest mean change).",
            rich_help_panel=SELECTORS,
        ),
    ] = None,
    drop: Annotated[
        str | None, typer.Option("--drop", help=f"How much --optimise leaves out: {AMOUNT}", rich_help_panel=SELECTORS)
    ] = None,
    decisions: Annotated[
        Path | None, typer.Option("--decisions", help="Also write, for each row, whether it was kept and why.")
    ] = None,
    format: o.Format = None,
    columns: o.Columns = None,
    empty_prompt: o.EmptyPrompt = False,
    split: o.Split = None,
    name: o.Name = None,
    quiet: o.Quiet = False,
    json: o.Json = False,
) -> None:
    """Write the data set without the pairs that displace; its rows stay as they were."""
    from undertow.cli.printing.common import print_json
    from undertow.cli.printing.filter import print_filter
    from undertow.data.reading import parse_columns
    from undertow.filtering.filter import filter_file
    from undertow.filtering.selection import KINDS, LINKS, Kind, Selector, make_selectors

    reading: dict[str, Any] = {
        "format": format,
        "columns": parse_columns(columns) if columns else None,
        "empty_prompt": empty_prompt,
        "split": split,
        "name": name,
        "decisions": decisions,
    }
    amounts = (drop_highest, drop_lowest, keep_highest, keep_lowest, drop_above, drop_below)
    others = any((by is not None, *(amount is not None for amount in amounts), drop_case, drop_duplicates))
    if optimise is not None or drop is not None:
        _optimise(data, scores, out, optimise, drop, others or drop_contradictions, reading, quiet=quiet, json=json)
        return
    typed = [*([given] if given is not None else [] for given in amounts), drop_case or []]
    values: dict[Kind, Sequence[float | int] | bool] = {
        kind: [Selector.parse(kind, text).value for text in texts]
        for kind, texts in zip((kind for kind in KINDS if kind not in LINKS), typed, strict=True)
    }
    values |= {"drop-duplicates": drop_duplicates, "drop-contradictions": drop_contradictions}
    selectors = make_selectors(values)
    summary = filter_file(data, scores, out, by=by, selectors=selectors, **reading)
    if not quiet:
        print_filter(out, summary)
    if json:
        print_json(asdict(summary))


def _optimise(
    data: str,
    scores: Sequence[Path],
    out: Path,
    objective: str | None,
    drop: str | None,
    others: bool,
    reading: dict[str, Any],
    *,
    quiet: bool,
    json: bool,
) -> None:
    from undertow.cli.printing.common import print_json
    from undertow.cli.printing.filter import print_choice, print_filter
    from undertow.errors import OptionError
    from undertow.forecasting.optimise import optimised_filter

    if objective is None or drop is None:
        raise OptionError("--optimise and --drop go together: `--optimise displaced --drop 10%`.")
    if others:
        raise OptionError("--optimise: it chooses by itself; give no other selector with it, and no --by.")
    if len(scores) != 1:
        raise OptionError("--optimise: give one --scores, the folder of a forecast.")
    with TerminalWatcher(quiet=quiet) as watch:
        summary, choice = optimised_filter(data, scores[0], out, drop=drop, objective=objective, watch=watch, **reading)
    if not quiet:
        print_choice(choice)
        print_filter(out, summary)
    if json:
        print_json(asdict(summary) | {"method": choice.method, "foretold": choice.found})
