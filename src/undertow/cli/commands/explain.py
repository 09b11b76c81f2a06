"""``undertow explain``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from undertow.cli import options as o
from undertow.cli.app import app
from undertow.cli.printing.progress import TerminalWatcher

EPILOG = """[bold]Examples[/bold]

undertow explain forecast --row 17

undertow explain forecast --row 17 --row 42 --out why

undertow explain prefs.jsonl --row 17 --model ./sft --loss simpo --beta 2 --out row-17.html

undertow explain --model ./sft --prompt "Is it safe?" --chosen "No." --rejected "Yes, go on." --out pair.html
"""
THE_PAIR = "The pair"


@app.command(epilog=EPILOG)
def explain(
    context: typer.Context,
    data: Annotated[
        str | None,
        typer.Argument(
            metavar="[DATA]",
            help="The folder of a forecast, an audit, a comparison or a training run, which says the rest; or a file, "
            "folder or Hub id of pairs.",
            show_default=False,
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            help="Hub id, folder, .gguf file, or demo; not for the folder of a run.",
            rich_help_panel=o.MODEL,
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="File of the page (.html), or a folder for a page a pair; OUT/explain in the folder of a run.",
            show_default=False,
        ),
    ] = None,
    row: Annotated[
        list[int] | None,
        typer.Option("--row", help="Row of the data, from 0; repeatable.", rich_help_panel=THE_PAIR),
    ] = None,
    pair_id: Annotated[
        list[str] | None,
        typer.Option("--pair-id", help="Or its pair_id, or the beginning of it.", rich_help_panel=THE_PAIR),
    ] = None,
    prompt: Annotated[
        str | None, typer.Option("--prompt", help="Or a pair of your own: its prompt …", rich_help_panel=THE_PAIR)
    ] = None,
    chosen: Annotated[str | None, typer.Option("--chosen", help="… its chosen …", rich_help_panel=THE_PAIR)] = None,
    rejected: Annotated[
        str | None, typer.Option("--rejected", help="… and its rejected response.", rich_help_panel=THE_PAIR)
    ] = None,
    heat_map: Annotated[
        str,
        typer.Option(
            "--heat-map",
            help="Products of single tokens over gradient (all parameters), unembedding, or none; auto: all parameters "
            "up to 128 tokens of both responses.",
        ),
    ] = "auto",
    top: Annotated[int, typer.Option("--top", help="Pairs to name that pull it down, and that hold it up.")] = 10,
    loss: o.Loss = "dpo",
    beta: o.Beta = None,
    loss_args: o.LossArgs = None,
    calibrated: o.Calibrated = False,
    ref: o.Ref = None,
    format: o.Format = None,
    columns: o.Columns = None,
    empty_prompt: o.EmptyPrompt = False,
    split: o.Split = None,
    name: o.Name = None,
    limit: o.Limit = None,
    max_length: o.MaxLength = 1024,
    eot: o.Eot = True,
    template: o.Template = "auto",
    device: o.Device = "auto",
    trust_remote_code: o.TrustRemoteCode = False,
    batch_tokens: o.BatchTokens = 1536,
    packed: o.Packed = True,
    quiet: o.Quiet = False,
    json: o.Json = False,
) -> None:
    """Tell why a pair goes where it goes: token by token, layer by layer, and by which other pairs."""
    from undertow.data.tokens.encoder import TokenSettings
    from undertow.errors import OptionError
    from undertow.explaining.settings import ExplainSettings, Subject, run_of
    from undertow.models.device import keep_large_blocks
    from undertow.runs.settings import LossSettings

    subject = Subject.of(tuple(row or ()), tuple(pair_id or ()), prompt, chosen, rejected)
    run = run_of(Path(data)) if data is not None and Path(data).is_dir() else None
    if run is not None:
        _, typed = o.given(context, but=_OF_A_RUN)
        if typed:
            option = "--" + min(typed).replace("_", "-")
            raise OptionError(f"{option}: {data} is the folder of a run, which says it; leave one of the two away.")
    elif out is None:
        raise OptionError("--out: where to? Name a file that ends in .html, or a folder.")
    settings = ExplainSettings(
        loss=LossSettings(loss, beta, LossSettings.parse_args(loss_args or []), calibrated),
        ref=ref,
        data=o.data_settings(format, columns, split, name, limit, "stop", empty_prompt),
        tokens=TokenSettings(max_length=max_length, eot=eot, template=template),  # type: ignore[arg-type]
        heat_map=heat_map,  # type: ignore[arg-type]
        top=top,
        device=device,
        batch_tokens=batch_tokens,
        packed=packed,
        trust_remote_code=trust_remote_code,
    )
    if data is not None and run is None:
        o.check_inputs(data, model=model, ref=ref)
    # What takes seconds to import comes once all that can be refused without it was looked at.
    from undertow.cli.printing.common import print_json
    from undertow.cli.printing.explain import print_explanations, record
    from undertow.explaining.explain import explain_pairs
    from undertow.reporting.explanation.page import check_out, write_explanations
    from undertow.runs.targets import data_input

    target = out if out is not None else Path(str(data)) / "explain"
    check_out(target, () if data is None or run is not None else data_input(data, split, name))
    keep_large_blocks()
    with TerminalWatcher(quiet=quiet) as watch:
        found = explain_pairs(data, model, subject, settings, watch=watch)
        paths = write_explanations(found, target)
    if not quiet:
        print_explanations(found, paths)
    if json:
        print_json(record(found, paths))


_OF_A_RUN = frozenset(
    {
        *("data", "out", "row", "pair_id", "prompt", "chosen", "rejected", "heat_map", "top", "device"),
        *("batch_tokens", "quiet", "json"),
    }
)
"""Options that go with the folder of a run."""
