"""``undertow simulate``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from undertow.cli import options as o
from undertow.cli.app import app
from undertow.cli.printing.progress import TerminalWatcher

Elsewhere = Annotated[str | None, typer.Option(hidden=True)]
"""An option of ``undertow forecast`` that needs other features: refused with the command to give."""
EPILOG = """[bold]Examples[/bold]

undertow simulate forecast --beta 0.3 --lr 2e-6

undertow simulate forecast --loss simpo --epochs 2

undertow simulate forecast --filter "push drop-lowest 10%"

undertow simulate forecast --order unknown --orders 50 --json

undertow simulate forecast --sweep common

undertow simulate forecast --sweep arms.yaml --order unknown --look 2
"""


@app.command(epilog=EPILOG)
def simulate(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="What a forecast wrote.", show_default=False)],
    filter: Annotated[
        list[str] | None,
        typer.Option(
            "--filter",
            help="'SCORE SELECTOR AMOUNT', e.g. 'push drop-lowest 10%', by any number of the scores and the forecast: "
            "leave these pairs out too.",
            rich_help_panel=o.TRAINING,
        ),
    ] = None,
    sweep: Annotated[
        Path | None,
        typer.Option(
            "--sweep",
            help="YAML file of arms as of `undertow train --sweep`, or `common`: the usual questions. One table and "
            "page; lr and epochs may be multiples of the forecast's, as x0.5.",
            rich_help_panel=o.TRAINING,
        ),
    ] = None,
    look: Annotated[
        int,
        typer.Option(
            "--look",
            min=0,
            help="With --sweep: look at so many of the best arms, each where its own run ends. That takes the model "
            "and the data: about a training run an arm.",
            rich_help_panel=o.TRAINING,
        ),
    ] = 0,
    loss: Annotated[
        str | None,
        typer.Option("--loss", help="As of `undertow train`, with its own usual parameters.", rich_help_panel=o.LOSS),
    ] = None,
    beta: o.Beta = None,
    loss_args: o.LossArgs = None,
    calibrated: o.Calibrated = False,
    epochs: o.Epochs = None,
    max_steps: o.MaxSteps = None,
    batch_size: o.BatchSize = None,
    accumulate: o.Accumulate = None,
    lr: o.LearningRate = None,
    optimiser: o.Optimiser = None,
    schedule: o.Schedule = None,
    warmup_steps: o.WarmupSteps = None,
    weight_decay: o.WeightDecay = None,
    max_grad_norm: o.MaxGradNorm = None,
    order: o.Order = None,
    orders: o.Orders = None,
    world_size: o.WorldSize = None,
    protect: o.Protect = None,
    seed: Annotated[
        int | None, typer.Option("--seed", help="Of the order of the pairs.", rich_help_panel=o.SHARED)
    ] = None,
    model: Elsewhere = None,
    ref: Elsewhere = None,
    max_length: Elsewhere = None,
    template: Elsewhere = None,
    lora_r: Elsewhere = None,
    lora_alpha: Elsewhere = None,
    dtype: Elsewhere = None,
    sample: Elsewhere = None,
    sketch: Elsewhere = None,
    held_out: Elsewhere = None,
    texts: Elsewhere = None,
    quiet: o.Quiet = False,
    json: o.Json = False,
) -> None:
    """Foretell another training run on a forecast's stored features, in seconds and without a model.

    What is not given is as the forecast was: its loss, learning rate, order.
    """
    given, typed = o.given(context, but=_OURS)
    from undertow.cli.printing.common import print_json
    from undertow.cli.printing.forecast import print_simulation
    from undertow.errors import OptionError
    from undertow.forecasting.stored import simulate as simulated

    options = {name: value for name, value in given.items() if name in typed}
    if "loss_args" in options:
        from undertow.runs.settings import LossSettings

        options["loss_args"] = LossSettings.parse_args(options["loss_args"])
    if sweep is not None:
        _sweep(folder, sweep, options, filter, look=look, quiet=quiet, json=json)
        return
    if look:
        raise OptionError("--look: it looks at the best arms of a --sweep; give that too.")
    summary = simulated(folder, filter=filter or (), **options)
    if not quiet:
        print_simulation(summary)
    if json:
        print_json(summary)


def _sweep(
    folder: Path,
    file: Path,
    options: Mapping[str, Any],
    filter: Sequence[str] | None,
    *,
    look: int,
    quiet: bool,
    json: bool,
) -> None:
    from undertow.cli.printing.common import print_json
    from undertow.cli.printing.forecast import print_arms
    from undertow.errors import OptionError
    from undertow.forecasting.sweep import simulate_sweep
    from undertow.reporting.remedies.page import write_simulated

    if filter:
        raise OptionError("--filter: with --sweep, each arm says in the file what it leaves out (filter: …).")
    with TerminalWatcher(quiet=quiet) as watch:
        summary = simulate_sweep(folder, file, look=look, watch=watch, **options)
        page = write_simulated(folder)
    if not quiet:
        print_arms(folder, summary, page)
    if json:
        print_json(summary)


_OURS = frozenset({"folder", "filter", "sweep", "look", "quiet", "json"})
