"""``undertow train``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from undertow.cli import options as o
from undertow.cli.app import app
from undertow.cli.printing.progress import TerminalWatcher

if TYPE_CHECKING:
    from undertow.training.run import Foretelling
    from undertow.training.settings import TrainSettings

EPILOG = """[bold]Examples[/bold]

undertow train prefs.jsonl --model ./sft --loss dpo --beta 0.1 --lr 1e-6 --out run

undertow train prefs.jsonl --model ./sft --loss simpo --lora-r 16 --lr 5e-5 --watch refusal=I,Sorry --out run

undertow train prefs.jsonl --config recipe.yaml --out run

undertow train prefs.jsonl --model ./sft --scores forecast --held-out unseen.jsonl \\
  --guard 'displaced>forecast+0.1 for 2 -> stop' --out run

undertow train prefs.jsonl --model ./sft --sweep arms.yaml --out sweep

undertow train prefs.jsonl --model ./base --sft-epochs 1 --sft-lr 1e-5 --loss dpo --calibrated --out run

accelerate launch --multi_gpu --num_processes 2 -m undertow train prefs.jsonl --model ./sft --out run
"""
TRACKING = "Tracking"


@app.command(epilog=EPILOG)
def train(
    context: typer.Context,
    data: o.Data,
    out: o.Out,
    model: o.ModelOrRecipe = "",
    config: o.Config = None,
    loss: o.Loss = "dpo",
    beta: o.Beta = None,
    loss_args: o.LossArgs = None,
    calibrated: o.Calibrated = False,
    token_weights: o.TokenWeights = None,
    ref: o.Ref = None,
    sft_epochs: Annotated[
        float,
        typer.Option(
            "--sft-epochs",
            help="First train on the chosen responses alone, so many epochs.",
            rich_help_panel=o.TRAINING,
        ),
    ] = 0.0,
    sft_lr: Annotated[
        float, typer.Option("--sft-lr", help="Learning rate of that phase; 0: --lr.", rich_help_panel=o.TRAINING)
    ] = 0.0,
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
    gradient_checkpointing: Annotated[
        bool,
        typer.Option(
            "--gradient-checkpointing",
            help="Less memory, more time: layers are computed again on the way back.",
            rich_help_panel=o.TRAINING,
        ),
    ] = False,
    track_every: Annotated[
        int,
        typer.Option("--track-every", help="Steps between looks at the probe set; 0: never.", rich_help_panel=TRACKING),
    ] = 25,
    probe: Annotated[
        int,
        typer.Option(
            "--probe",
            help="Pairs of the probe set, spread over the data; 0: at most 64, so that looking takes under a tenth.",
            rich_help_panel=TRACKING,
        ),
    ] = 0,
    track_gradients: Annotated[
        bool,
        typer.Option(
            "--track-gradients",
            help="Also the inner products of the probe pairs' gradients, and the share of each case.",
            rich_help_panel=TRACKING,
        ),
    ] = False,
    displaced_by: Annotated[
        float,
        typer.Option(
            "--displaced-by",
            help="A chosen response counts as displaced when it fell by more than so many nats.",
            rich_help_panel=TRACKING,
        ),
    ] = 0.0,
    held_out: Annotated[
        Path | None,
        typer.Option(
            "--held-out",
            help="File of pairs that are not trained on: looked at beside, as held_out/….",
            rich_help_panel=TRACKING,
        ),
    ] = None,
    scores: Annotated[
        Path | None,
        typer.Option(
            "--scores",
            help="Folder of this run's forecast: tracked beside, as forecast/…, for guards too.",
            rich_help_panel=TRACKING,
        ),
    ] = None,
    watch: Annotated[
        list[str] | None,
        typer.Option("--watch", help="NAME=WORD,WORD,…: how much probability a group gains.", rich_help_panel=TRACKING),
    ] = None,
    guard: Annotated[
        list[str] | None,
        typer.Option(
            "--guard",
            help="'CONDITION [for N] [after M looks] -> ACTION', e.g. 'displaced>0.5 for 2 after 3 looks -> stop', "
            "'displaced>forecast+0.1 -> warn'; actions warn, stop, rollback, sft=0.1, drop=5%.",
            rich_help_panel=TRACKING,
        ),
    ] = None,
    filter: o.Filter = None,
    sweep: Annotated[
        Path | None,
        typer.Option(
            "--sweep", help="YAML file of arms, each with the options in which it differs; one table at the end."
        ),
    ] = None,
    save_every: Annotated[
        int, typer.Option("--save-every", help="Steps between checkpoints.", rich_help_panel=o.TRAINING)
    ] = 100,
    keep_checkpoints: Annotated[
        int, typer.Option("--keep-checkpoints", help="The last so many stay.", rich_help_panel=o.TRAINING)
    ] = 2,
    log_every: Annotated[
        int,
        typer.Option(
            "--log-every",
            help="Steps between entries of the log, each the mean since the one before.",
            rich_help_panel=TRACKING,
        ),
    ] = 1,
    report_to: Annotated[
        str, typer.Option("--report-to", help="none, tensorboard, wandb or trackio.", rich_help_panel=TRACKING)
    ] = "none",
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
    packed: o.Packed = True,
    engine: o.Engine = "local",
    overwrite: o.Overwrite = False,
    seed: o.Seed = 0,
    quiet: o.Quiet = False,
    json: o.Json = False,
) -> None:
    """Preference training that shows where the probability goes."""
    o.check_engine(engine)
    from undertow.models.device import keep_large_blocks
    from undertow.runs.recipes import read_arms
    from undertow.runs.targets import Target, check_targets, data_input, file_input
    from undertow.training.settings import from_options, read_config
    from undertow.training.sweep import about_arm

    given, typed = o.given(context, but=_OURS)
    recipe = read_config(config) if config else None
    arms = read_arms(sweep) if sweep else {"": None}
    plans = {name: from_options(given, typed, recipe, arm) for name, arm in arms.items()}
    for arm_name, (model_name, settings) in plans.items():
        with about_arm(arm_name):
            o.check_inputs(data, model=model_name, ref=settings.ref)
    # What takes seconds to import comes once all that can be refused without it was looked at.
    from rich.console import Console

    from undertow.cli.printing.common import print_json, print_report
    from undertow.cli.printing.training import print_sweep, print_train
    from undertow.reporting import write_report
    from undertow.training.run import is_main_process, train_to_folder
    from undertow.training.sweep import sweep as train_arms
    from undertow.training.sweep import sweep_targets

    inputs = [*data_input(data, split, name), *file_input("--config", config), *file_input("--sweep", sweep)]
    check_targets(sweep_targets(out) if sweep else [Target("--out", out, "run")], inputs)
    keep_large_blocks()
    with TerminalWatcher(quiet=quiet) as watcher:

        def one(model: str, settings: TrainSettings, folder: Path) -> dict[str, Any]:
            found = train_to_folder(
                data,
                model,
                folder,
                settings,
                overwrite=overwrite,
                references=out,
                foretelling=_foretelling(settings),
                watch=watcher,
            )
            if sweep and is_main_process():
                write_report(folder)
            return found

        summary = train_arms(data, plans, out, one) if sweep else one(*plans[""], out)
        if not is_main_process():
            return
        watcher.phase("writing the report")
        report = write_report(out)
    if not quiet:
        (print_sweep if sweep else print_train)(out, summary)
        print_report(Console(highlight=False), report)
    if json:
        print_json(summary)


def _foretelling(settings: TrainSettings) -> Foretelling | None:
    if not settings.scores:
        return None
    from undertow.forecasting.course import foretelling

    return foretelling


_OURS = frozenset({"data", "out", "config", "sweep", "engine", "overwrite", "quiet", "json"})
