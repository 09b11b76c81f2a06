"""Options that several commands share: one name, one help text, one default."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from undertow.errors import OptionError

if TYPE_CHECKING:
    from undertow.runs.settings import DataSettings

DATA, MODEL, LOSS, TRAINING, FORECAST, SHARED, SPEED = (
    *("Data", "Model", "Loss", "Training", "Forecast", "Shared", "Speed and size"),
)

Data = Annotated[
    str,
    typer.Argument(
        metavar="DATA",
        help="File (.jsonl .json .csv .parquet .arrow, also .gz .zst), folder, Hub id, or - (JSONL on standard input).",
        show_default=False,
    ),
]
Model = Annotated[
    str,
    typer.Option(
        "--model",
        help="Hub id, folder, PEFT adapter folder, .gguf file, or demo.",
        rich_help_panel=MODEL,
        show_default=False,
    ),
]
Out = Annotated[Path, typer.Option("--out", help="Folder to write.", show_default=False)]
Loss = Annotated[
    str,
    typer.Option("--loss", help="dpo, ipo, simpo, cpo, kto-pair, … (docs/losses.md lists all).", rich_help_panel=LOSS),
]
Beta = Annotated[
    float | None, typer.Option("--beta", help="β; the loss's published value when not given.", rich_help_panel=LOSS)
]
LossArgs = Annotated[
    list[str] | None,
    typer.Option("--loss-args", help="Other parameters, NAME=VALUE[,NAME=VALUE…].", rich_help_panel=LOSS),
]
Calibrated = Annotated[
    bool,
    typer.Option(
        "--calibrated",
        help="Reward calibration: the loss's two weights rescaled so that each pair is disentangled.",
        rich_help_panel=LOSS,
    ),
]
TokenWeights = Annotated[
    str | None,
    typer.Option(
        "--token-weights",
        help="What response tokens count in the loss: shared (those that both responses begin or end with: not), "
        "entangled (the less, the more a token's gradient agrees with one of the other response), or a FILE.",
        rich_help_panel=LOSS,
        metavar="shared|entangled|FILE",
    ),
]
Ref = Annotated[
    str | None,
    typer.Option("--ref", help="Reference model; the audited model when not given.", rich_help_panel=LOSS),
]
Format = Annotated[
    str | None,
    typer.Option("--format", help="Layout of a row; recognised by itself when not given.", rich_help_panel=DATA),
]
Columns = Annotated[
    str | None,
    typer.Option(
        "--columns", help="Your own column names: prompt=…,chosen=…,rejected=…[,system=…,…].", rich_help_panel=DATA
    ),
]
EmptyPrompt = Annotated[
    bool,
    typer.Option(
        "--empty-prompt", help="The rows are pairs of texts without a prompt: it is empty.", rich_help_panel=DATA
    ),
]
Split = Annotated[str | None, typer.Option("--split", help="Split of a data set with several.", rich_help_panel=DATA)]
Name = Annotated[str | None, typer.Option("--name", help="Configuration of a Hub data set.", rich_help_panel=DATA)]
Limit = Annotated[int | None, typer.Option("--limit", help="Only the first N rows.", rich_help_panel=DATA)]
OnBadRow = Annotated[
    str,
    typer.Option(
        "--on-bad-row",
        help="stop: list them and end, exit code 2. skip: go on, list them in skipped.jsonl.",
        rich_help_panel=DATA,
    ),
]
MaxLength = Annotated[
    int, typer.Option("--max-length", help="Tokens, prompt and response together.", rich_help_panel=DATA)
]
Eot = Annotated[
    bool,
    typer.Option(
        "--eot/--no-eot",
        help="Count the end-of-turn token as part of a response, as in training.",
        rich_help_panel=DATA,
    ),
]
Template = Annotated[
    str,
    typer.Option("--template", help="auto, chat (the tokenizer's template) or plain.", rich_help_panel=DATA),
]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or mps.", rich_help_panel=MODEL)]
Dtype = Annotated[
    str,
    typer.Option(
        "--dtype",
        help="auto, float32 or bfloat16. auto: float32 for verdicts (audit, compare), bfloat16 products where the "
        "processor has them for ranks and for training.",
        rich_help_panel=MODEL,
    ),
]
TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run code that comes with the model.", rich_help_panel=MODEL)
]
Packed = Annotated[
    bool,
    typer.Option("--packed/--one-at-a-time", help="Packed rows, or every sequence alone.", rich_help_panel=SPEED),
]
BatchTokens = Annotated[int, typer.Option("--batch-tokens", help="Tokens of one forward pass.", rich_help_panel=SPEED)]
Engine = Annotated[str, typer.Option("--engine", help="local.", rich_help_panel=SPEED)]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Start over where OUT holds another run.")]
Seed = Annotated[int, typer.Option("--seed", help="Seed of everything random; recorded.", rich_help_panel=SHARED)]
Quiet = Annotated[
    bool, typer.Option("--quiet", help="Errors only: no progress, notes or tables.", rich_help_panel=SHARED)
]
Json = Annotated[
    bool, typer.Option("--json", help="A summary as JSON, as the last line of output.", rich_help_panel=SHARED)
]

Level = Annotated[
    str,
    typer.Option(
        "--level",
        help="text (no model is run), hidden (CHES, fastest), unembedding (exact inner products there) or gradient "
        "(over all parameters, by a backward pass); a level includes those before it.",
    ),
]
Geometry = Annotated[
    str,
    typer.Option(
        "--geometry",
        help="Of the inner products at level gradient: sgd (plain), or rmsprop (scaled as the optimiser does at the "
        "start of the run that is forecast).",
    ),
]
Pull = Annotated[
    bool,
    typer.Option(
        "--pull",
        help="Also how the whole data set's gradient moves each pair; a second pass.",
        rich_help_panel=LOSS,
    ),
]
PartPairs = Annotated[
    int,
    typer.Option(
        "--part-pairs", help="Pairs a file of scores; a stopped run repeats at most one.", rich_help_panel=SPEED
    ),
]
By = Annotated[
    list[str] | None,
    typer.Option(
        "--by",
        help="Column of the data by whose values the report groups the pairs; may be given several times.",
        rich_help_panel=DATA,
    ),
]
ModelOrRecipe = Annotated[
    str, typer.Option("--model", help="Hub id, folder, .gguf file, or demo.", rich_help_panel=MODEL)
]
Config = Annotated[
    Path | None,
    typer.Option("--config", help="YAML file of training's options, or the folder of a run; the command line wins."),
]
Epochs = Annotated[
    float | None,
    typer.Option(
        "--epochs", help="How often every pair is trained on; parts of an epoch too.", rich_help_panel=TRAINING
    ),
]
MaxSteps = Annotated[
    int | None, typer.Option("--max-steps", help="0: as many as the epochs take.", rich_help_panel=TRAINING)
]
BatchSize = Annotated[
    int | None, typer.Option("--batch-size", help="Pairs a process and step.", rich_help_panel=TRAINING)
]
Accumulate = Annotated[
    int | None, typer.Option("--accumulate", help="Batches for one step of the optimiser.", rich_help_panel=TRAINING)
]
LearningRate = Annotated[float | None, typer.Option("--lr", help="Learning rate.", rich_help_panel=TRAINING)]
Optimiser = Annotated[
    str | None, typer.Option("--optimiser", "--optimizer", help="rmsprop, adamw or sgd.", rich_help_panel=TRAINING)
]
Schedule = Annotated[
    str | None,
    typer.Option(
        "--schedule",
        help="linear, cosine, cosine_with_restarts, polynomial, constant, constant_with_warmup or inverse_sqrt, "
        "as in transformers.",
        rich_help_panel=TRAINING,
    ),
]
WarmupSteps = Annotated[
    int | None,
    typer.Option("--warmup-steps", help="Steps in which the learning rate rises from 0.", rich_help_panel=TRAINING),
]
WeightDecay = Annotated[
    float | None,
    typer.Option(
        "--weight-decay",
        help="Share of a weight that a step takes away, times the learning rate; a term of rmsprop's gradient.",
        rich_help_panel=TRAINING,
    ),
]
MaxGradNorm = Annotated[
    float | None,
    typer.Option("--max-grad-norm", help="A longer gradient is cut to this length.", rich_help_panel=TRAINING),
]
LoraR = Annotated[
    int, typer.Option("--lora-r", help="Rank of a LoRA adapter; 0 trains all weights.", rich_help_panel=TRAINING)
]
LoraAlpha = Annotated[int, typer.Option("--lora-alpha", help="0: twice the rank.", rich_help_panel=TRAINING)]
Filter = Annotated[
    list[str] | None,
    typer.Option(
        "--filter",
        help="'SCORE SELECTOR AMOUNT', e.g. 'dlogp_chosen drop-lowest 10%': audit first, leave these pairs out.",
        rich_help_panel=TRAINING,
    ),
]
Order = Annotated[
    str | None,
    typer.Option(
        "--order",
        help="train: the batches that undertow train draws; trl: those of TRL's trainers; unknown: the mean over "
        "--orders random orders.",
        rich_help_panel=FORECAST,
    ),
]
Orders = Annotated[
    int | None, typer.Option("--orders", help="Random orders of --order unknown.", rich_help_panel=FORECAST)
]
WorldSize = Annotated[
    int | None,
    typer.Option("--world-size", help="Processes that will train, each on --batch-size.", rich_help_panel=FORECAST),
]
Protect = Annotated[
    str | None,
    typer.Option(
        "--protect",
        help="Whose mean counts for a pair's push: displaced, all or held-out.",
        rich_help_panel=FORECAST,
    ),
]


def given(context: typer.Context, *, but: frozenset[str]) -> tuple[dict[str, Any], set[str]]:
    """The command's options by name, and which of them were typed; ``but`` are not asked for."""
    values = {name: value for name, value in context.params.items() if name not in but}
    return values, {name for name in values if not _is_default(context, name)}


def _is_default(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is None or source.name == "DEFAULT"


def data_settings(
    format: str | None,
    columns: str | None,
    split: str | None,
    name: str | None,
    limit: int | None,
    on_bad_row: str,
    empty_prompt: bool = False,
) -> DataSettings:
    """The options of the data argument as settings."""
    from undertow.data.reading import parse_columns
    from undertow.runs.settings import DataSettings

    return DataSettings(
        format=format,
        columns=parse_columns(columns) if columns else None,
        split=split,
        name=name,
        limit=limit,
        on_bad_row=on_bad_row,  # type: ignore[arg-type]  # checked on creation
        empty_prompt=empty_prompt,
    )


def check_inputs(data: str, **models: str | None) -> None:
    """Refuse data and models that are not there, before anything that takes seconds to import is.

    What Hub ids mean, and whether the files can be read, the command finds out.

    Args:
        data: the data argument.
        models: models by the option that names each, without its dashes.
    """
    from undertow.data.sources.opening import check_there
    from undertow.models.sources import find_model

    check_there(data)
    for option, model in models.items():
        if model:
            find_model(model, option=f"--{option}")


def check_engine(engine: str) -> None:
    """Refuse an engine that does not exist, or not yet."""
    if engine == "ray":
        raise OptionError(
            "--engine ray: not built yet in this version; use --engine local, or --shard I/N on many machines."
        )
    if engine != "local":
        raise OptionError(f"--engine {engine}: expected local or ray.")
