"""``undertow compare``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from undertow.cli import options as o
from undertow.cli.app import app
from undertow.cli.printing.progress import TerminalWatcher

EPILOG = """[bold]Examples[/bold]

undertow compare prefs.jsonl --before ./sft --after ./dpo --out moved

undertow compare prefs.jsonl --before ./sft --after ./dpo-adapter --scores scores --out moved --json

undertow compare prefs.parquet --before ./sft --after ./checkpoint-500 --limit 500 --generate 10 --out moved-500
"""


@app.command(epilog=EPILOG)
def compare(
    data: o.Data,
    before: Annotated[
        str,
        typer.Option(
            "--before",
            help="The model before training; it makes the tokens. Hub id, folder, PEFT adapter folder, .gguf file.",
            rich_help_panel=o.MODEL,
            show_default=False,
        ),
    ],
    after: Annotated[
        str,
        typer.Option(
            "--after",
            help="The model after training, of the same vocabulary.",
            rich_help_panel=o.MODEL,
            show_default=False,
        ),
    ],
    out: o.Out,
    scores: Annotated[
        list[Path] | None,
        typer.Option(
            "--scores", help="Folder an audit of this data wrote: its predictions against what happened; repeatable."
        ),
    ] = None,
    generate: Annotated[
        int, typer.Option("--generate", help="Worst pairs that both models continue, side by side; 0 for none.")
    ] = 3,
    beta: Annotated[
        float,
        typer.Option("--beta", help="β of the DPO loss that says whether training lowered it.", rich_help_panel=o.LOSS),
    ] = 0.1,
    format: o.Format = None,
    columns: o.Columns = None,
    empty_prompt: o.EmptyPrompt = False,
    split: o.Split = None,
    name: o.Name = None,
    limit: o.Limit = None,
    on_bad_row: o.OnBadRow = "stop",
    max_length: o.MaxLength = 1024,
    eot: o.Eot = True,
    template: o.Template = "auto",
    device: o.Device = "auto",
    dtype: o.Dtype = "auto",
    trust_remote_code: o.TrustRemoteCode = False,
    batch_tokens: o.BatchTokens = 4096,
    packed: o.Packed = True,
    resamples: Annotated[
        int, typer.Option("--resamples", help="Bootstrap resamples behind every interval.", rich_help_panel=o.SPEED)
    ] = 1000,
    engine: o.Engine = "local",
    overwrite: o.Overwrite = False,
    seed: o.Seed = 0,
    quiet: o.Quiet = False,
    json: o.Json = False,
) -> None:
    """Tell what moved between two checkpoints, pair by pair, and where the probability went."""
    o.check_engine(engine)
    from undertow.comparing.settings import CompareSettings
    from undertow.data.tokens.encoder import TokenSettings
    from undertow.models.device import keep_large_blocks

    settings = CompareSettings(
        scores=tuple(map(str, scores or ())),
        beta=beta,
        generate=generate,
        resamples=resamples,
        seed=seed,
        data=o.data_settings(format, columns, split, name, limit, on_bad_row, empty_prompt),
        tokens=TokenSettings(max_length=max_length, eot=eot, template=template),  # type: ignore[arg-type]
        device=device,
        dtype=dtype,
        batch_tokens=batch_tokens,
        packed=packed,
        trust_remote_code=trust_remote_code,
    )
    o.check_inputs(data, before=before, after=after)
    # What takes seconds to import comes once all that can be refused without it was looked at.
    from undertow.cli.printing.common import print_json
    from undertow.cli.printing.compare import print_compare
    from undertow.comparing.compare import compare_to_folder
    from undertow.reporting import write_report

    keep_large_blocks()
    with TerminalWatcher(quiet=quiet) as watch:
        summary = compare_to_folder(data, before, after, out, settings, overwrite=overwrite, watch=watch)
        watch.phase("writing the report")
        report = write_report(out)
    if not quiet:
        print_compare(out, summary, report)
    if json:
        print_json(summary)
