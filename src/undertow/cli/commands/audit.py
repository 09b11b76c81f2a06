"""``undertow audit``."""

from __future__ import annotations

from typing import Annotated

import typer

from undertow.cli import options as o
from undertow.cli.app import app
from undertow.cli.printing.progress import TerminalWatcher

EPILOG = """[bold]Examples[/bold]

undertow audit prefs.jsonl --model HuggingFaceTB/SmolLM2-135M-Instruct --out scores

undertow audit prefs.jsonl --model ./sft --loss simpo --beta 2 --loss-args gamma=1 --pull --out scores

undertow audit prefs.jsonl --model ./checkpoint-500 --ref ./sft --out scores-500

undertow audit prefs.parquet --model ./my-model --level hidden --out scores --on-bad-row skip --json

undertow audit prefs.jsonl --model ./my-model --by category --by source --out scores

zcat prefs.jsonl.gz | undertow audit - --model ./my-adapter --out scores --limit 1000
"""


@app.command(epilog=EPILOG)
def audit(
    data: o.Data,
    model: o.Model,
    out: o.Out,
    level: o.Level = "unembedding",
    geometry: o.Geometry = "sgd",
    loss: o.Loss = "dpo",
    beta: o.Beta = None,
    loss_args: o.LossArgs = None,
    calibrated: o.Calibrated = False,
    ref: o.Ref = None,
    pull: o.Pull = False,
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
    shard: Annotated[
        str, typer.Option("--shard", help="I/N: score the I-th of N static shards.", rich_help_panel=o.SPEED)
    ] = "1/1",
    batch_tokens: o.BatchTokens = 4096,
    part_pairs: o.PartPairs = 512,
    packed: o.Packed = True,
    engine: o.Engine = "local",
    by: o.By = None,
    overwrite: o.Overwrite = False,
    seed: o.Seed = 0,
    quiet: o.Quiet = False,
    json: o.Json = False,
) -> None:
    """Score every pair: which ones will drag the chosen response's probability down."""
    o.check_engine(engine)
    from undertow.auditing.settings import AuditSettings, check_audit_geometry
    from undertow.data.tokens.encoder import TokenSettings
    from undertow.models.device import keep_large_blocks
    from undertow.runs.settings import LossSettings, Shard

    check_audit_geometry(geometry, level)
    settings = AuditSettings(
        level=level,
        loss=LossSettings(loss, beta, LossSettings.parse_args(loss_args or []), calibrated),
        ref=ref,
        pull=pull,
        data=o.data_settings(format, columns, split, name, limit, on_bad_row, empty_prompt),
        tokens=TokenSettings(max_length=max_length, eot=eot, template=template),  # type: ignore[arg-type]
        shard=Shard.parse(shard),
        device=device,
        dtype=dtype,
        batch_tokens=batch_tokens,
        part_pairs=part_pairs,
        packed=packed,
        seed=seed,
        trust_remote_code=trust_remote_code,
        by=tuple(by or ()),
    )
    o.check_inputs(data, model=model, ref=ref)
    # What takes seconds to import comes once all that can be refused without it was looked at.
    from undertow.auditing.audit import audit_to_folder
    from undertow.cli.printing.audit import print_audit
    from undertow.cli.printing.common import print_json
    from undertow.reporting import write_report

    keep_large_blocks()
    with TerminalWatcher(quiet=quiet) as watch:
        summary = audit_to_folder(data, model, out, settings, overwrite=overwrite, watch=watch)
        watch.phase("writing the report")
        report = write_report(out)
    if not quiet:
        print_audit(out, summary, report)
    if json:
        print_json(summary)
