"""``undertow forecast``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from undertow.cli import options as o
from undertow.cli.app import app
from undertow.cli.printing.progress import TerminalWatcher

EPILOG = """[bold]Examples[/bold]

undertow forecast prefs.jsonl --model ./sft --loss dpo --beta 0.1 --lr 1e-6 --out forecast

undertow forecast prefs.jsonl --config recipe.yaml --held-out unseen.jsonl --out forecast

undertow forecast prefs.jsonl --model ./sft --lora-r 16 --lr 5e-5 --texts refusals.jsonl --out forecast

undertow forecast prefs.jsonl --model ./sft --order unknown --sample 200 --out forecast

undertow forecast prefs.jsonl --model ./sft --order trl --batch-size 8 --world-size 4 --out forecast
"""


@app.command(epilog=EPILOG)
def forecast(
    context: typer.Context,
    data: o.Data,
    out: o.Out,
    model: o.ModelOrRecipe = "",
    config: o.Config = None,
    order: o.Order = "train",
    orders: o.Orders = 20,
    world_size: o.WorldSize = 1,
    sample: Annotated[
        int | None,
        typer.Option(
            "--sample",
            help="Pairs whose gradients are taken, 0: all. By itself all up to 500; of more, what costs a third of "
            "the training run, 2,000 at most.",
            rich_help_panel=o.FORECAST,
        ),
    ] = None,
    sketch: Annotated[
        int, typer.Option("--sketch", help="Numbers that stand for a gradient.", rich_help_panel=o.FORECAST)
    ] = 131_071,
    look: Annotated[
        bool,
        typer.Option(
            "--look/--no-look",
            help="Move the model to the simulated end and read what is there. Without it no share is told.",
            rich_help_panel=o.FORECAST,
        ),
    ] = True,
    protect: o.Protect = "displaced",
    held_out: Annotated[
        Path | None,
        typer.Option(
            "--held-out", help="File of pairs that are not trained on, forecast beside.", rich_help_panel=o.FORECAST
        ),
    ] = None,
    texts: Annotated[
        Path | None,
        typer.Option(
            "--texts",
            help="File of texts that matter (prompt, response, group): how each group's probability will change.",
            rich_help_panel=o.FORECAST,
        ),
    ] = None,
    level: o.Level = "unembedding",
    geometry: o.Geometry = "sgd",
    pull: o.Pull = False,
    by: o.By = None,
    loss: o.Loss = "dpo",
    beta: o.Beta = None,
    loss_args: o.LossArgs = None,
    calibrated: o.Calibrated = False,
    token_weights: o.TokenWeights = None,
    ref: o.Ref = None,
    epochs: o.Epochs = 1.0,
    max_steps: o.MaxSteps = 0,
    batch_size: o.BatchSize = 4,
    accumulate: o.Accumulate = 1,
    lr: o.LearningRate = 1e-6,
    optimiser: o.Optimiser = "rmsprop",
    schedule: o.Schedule = "linear",
    warmup_steps: o.WarmupSteps = 0,
    weight_decay: o.WeightDecay = 0.0,
    max_grad_norm: o.MaxGradNorm = 1.0,
    lora_r: o.LoraR = 0,
    lora_alpha: o.LoraAlpha = 0,
    filter: o.Filter = None,
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
    batch_tokens: o.BatchTokens = 1536,
    part_pairs: o.PartPairs = 32,
    packed: o.Packed = True,
    engine: o.Engine = "local",
    overwrite: o.Overwrite = False,
    seed: o.Seed = 0,
    quiet: o.Quiet = False,
    json: o.Json = False,
) -> None:
    """Foretell a training run, pair by pair: what will fall, by how much, and which pairs are to blame."""
    o.check_engine(engine)
    from undertow.forecasting.settings import ForecastSettings
    from undertow.models.device import keep_large_blocks
    from undertow.runs.targets import Target, check_targets, file_input
    from undertow.training.settings import read_config

    given, typed = o.given(context, but=_OURS)
    model, settings = ForecastSettings.from_options(given, typed, read_config(config) if config else None)
    o.check_inputs(data, model=model, ref=settings.train.ref)
    check_targets([Target("--out", out, "run")], file_input("--config", config))
    # What takes seconds to import comes once all that can be refused without it was looked at.
    from undertow.cli.printing.common import print_json
    from undertow.cli.printing.forecast import print_forecast
    from undertow.forecasting.forecast import forecast_to_folder
    from undertow.reporting import write_report

    keep_large_blocks()
    with TerminalWatcher(quiet=quiet) as watch:
        summary = forecast_to_folder(data, model, out, settings, overwrite=overwrite, watch=watch)
        watch.phase("writing the report")
        report = write_report(out)
    if not quiet:
        print_forecast(out, summary, report)
    if json:
        print_json(summary)


_OURS = frozenset({"data", "out", "config", "engine", "overwrite", "quiet", "json"})
