"""``undertow compare``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from undertow.cli import options as o
from undertow.cli.app import app
from undertow.cli.printing.progress import TerminalWatcher
from undertow.cli.printing.terminal import one_line, plain

EPILOG = """[bold]Examples[/bold]

undertow compare prefs.jsonl --before ./sft --after ./dpo --out moved

undertow compare prefs.jsonl --before ./sft --after ./dpo-adapter --scores scores --out moved --json

undertow compare prefs.parquet --before ./sft --after ./checkpoint-500 --limit 500 --generate 10 --out moved-500
"""

SHOWN_PAIRS = 5
WIDTH = 300
MEANS = {
    "dlogp_chosen": "change of ln π(chosen)",
    "dlogp_rejected": "change of ln π(rejected)",
    "dmargin": "change of the margin",
    "displaced": "chosen responses that fell",
    "before_correct": "chosen above rejected, before",
    "after_correct": "chosen above rejected, after",
    "kl_chosen": "KL(after ‖ before) a token, chosen",
    "kl_rejected": "KL(after ‖ before) a token, rejected",
}
SHARES = ("displaced", "before_correct", "after_correct")
MASSES = {
    "good": "on the good responses",
    "bad": "on the bad responses",
    "share": "the good ones' share of the two",
    "ln_good": "ln π(the good ones)",
    "ln_bad": "ln π(the bad ones)",
}
VERDICTS = {
    "displaced": "displaced: the loss fell, and so did the chosen responses on average",
    "not displaced": "not displaced: the loss fell, the chosen responses on average did not",
    "not applicable": "not applicable: the mean DPO loss did not fall",
}


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
    from undertow.cli.printing.render import print_json, print_report
    from undertow.comparing.compare import compare_to_folder
    from undertow.comparing.settings import CompareSettings
    from undertow.data.tokens.encoder import TokenSettings
    from undertow.models.device import keep_large_blocks
    from undertow.reporting import write_report

    settings = CompareSettings(
        scores=tuple(map(str, scores or ())),
        beta=beta,
        generate=generate,
        resamples=resamples,
        seed=seed,
        data=o.data_settings(format, columns, split, name, limit, on_bad_row),
        tokens=TokenSettings(max_length=max_length, eot=eot, template=template),  # type: ignore[arg-type]
        device=device,
        dtype=dtype,
        batch_tokens=batch_tokens,
        packed=packed,
        trust_remote_code=trust_remote_code,
    )
    keep_large_blocks()
    with TerminalWatcher(quiet=quiet) as watch:
        summary = compare_to_folder(data, before, after, out, settings, overwrite=overwrite, watch=watch)
        watch.phase("writing the report")
        report = write_report(out)
    print_compare(out, summary)
    print_report(Console(highlight=False), report)
    if json:
        print_json(summary)


def print_compare(out: Path, summary: Mapping[str, Any]) -> None:
    """What moved: means with intervals, the verdict, the tokens that gained, the worst pairs, and what both say."""
    console = Console(highlight=False)
    data, before, after = summary["data"], summary["before"], summary["after"]
    head = f"{data['pairs']:,} pairs ({data['format']}): {plain(before['name'])} → {plain(after['name'])}"
    console.print(head, style="bold", markup=False, soft_wrap=True)
    how = f"on {after['device']} in {after['dtype']}; one row a pair in {plain(str(out))}/pairs.parquet"
    console.print(how, markup=False, soft_wrap=True)
    _means(console, summary["means"])
    found = summary["displacement"]
    console.print(f"\nDisplacement: {VERDICTS[found['verdict']]}.", markup=False, soft_wrap=True)
    if found["loss_before"] is not None:
        console.print(
            f"Mean loss {found['loss']}: {found['loss_before']:.4f} → {found['loss_after']:.4f}.", markup=False
        )
    _masses(console, summary.get("masses"))
    _gained(console, summary["gained"], data["pairs"] - summary["nonfinite"]["count"])
    _worst(console, out)
    if summary["prediction"]:
        _prediction(console, summary["prediction"])
    _continuations(console, summary["continuations"])
    if data["skipped"]:
        console.print(f"{data['skipped']} rows were set aside: {plain(str(out))}/skipped.jsonl", markup=False)


def _means(console: Console, means: Mapping[str, Mapping[str, float | None]]) -> None:
    table = Table(title="\nMeans over the pairs", title_justify="left", show_edge=False)
    for name in ("", "mean", "95% interval"):
        table.add_column(name, justify="right" if name else "left")
    for name, meaning in MEANS.items():
        table.add_row(meaning, *_cells(means[name], spec=".1%" if name in SHARES else ".4g"))
    console.print(table)


def _masses(console: Console, masses: Mapping[str, Any] | None) -> None:
    if not masses or not masses["prompts"]:
        return
    title = f"\nProbability on the {masses['responses']:,} responses listed, mean over {masses['prompts']:,} prompts"
    table = Table(title=title, title_justify="left", show_edge=False)
    for name in ("", "before", "after", "change", "95% interval"):
        table.add_column(name, justify="right" if name else "left")
    for name, meaning in MASSES.items():
        found, spec = masses[name], ".1%" if name == "share" else ".3g"
        ends = (_cells(found[when], spec=spec)[0] for when in ("before", "after"))
        table.add_row(meaning, *ends, *_cells(found["change"], spec=spec))
    console.print(table)
    fell = {name: _cells(masses[name], spec=".1%")[0] for name in ("good_fell", "share_fell")}
    console.print(
        f"The probability of the good ones fell for {fell['good_fell']} of the prompts, their share for "
        f"{fell['share_fell']}. Responses that nobody listed are in none of these numbers.",
        markup=False,
        soft_wrap=True,
    )
    if masses["nested"]:
        console.print(f"{masses['nested']:,} prompts left out: one response is the beginning of another.")


def _gained(console: Console, gained: list[Mapping[str, Any]], pairs: int) -> None:
    if not gained:
        return
    table = Table(title="\nTokens that gained most where the responses part", title_justify="left", show_edge=False)
    for name in ("token", "mean increase of probability", f"in the top 3 of {pairs:,} pairs"):
        table.add_column(name, justify="left" if name == "token" else "right")
    for token in gained:
        table.add_row(_text(repr(token["token"]), 24), f"{token['mean_increase']:.3g}", f"{token['pairs_in_top']:,}")
    console.print(table)


def _worst(console: Console, out: Path) -> None:
    """The pairs whose chosen response fell most, with the tokens that gained where the two part."""
    from undertow.comparing.continuations import worst
    from undertow.comparing.folder import read_comparison

    pairs, _ = read_comparison(out)
    shown = worst(pairs, SHOWN_PAIRS)
    if not shown:
        return
    table = Table(title="\nPairs with the lowest change of ln π(chosen)", title_justify="left", show_edge=False)
    names = ("row", "dlogp_chosen", "dlogp_rejected")
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("gained", no_wrap=True)
    for pair in pairs.take(shown).to_pylist():
        moves = zip(pair["gained_tokens"] or (), pair["gained"] or (), strict=True)
        gained = ", ".join(f"{token!r} {change:+.2f}" for token, change in moves)
        table.add_row(*(_number(pair[name]) for name in names), _text(gained, 40))
    console.print(table)


def _prediction(console: Console, prediction: Mapping[str, Any]) -> None:
    table = Table(
        title="\nThe audit's predictions against what happened (AUC of displaced)",
        title_justify="left",
        show_edge=False,
    )
    for name in ("score", "Spearman", "95%", "AUC", "95%"):
        table.add_column(name, justify="left" if name == "score" else "right", no_wrap=True)
    for name, found in prediction["predictors"].items():
        table.add_row(name, *_cells(found["spearman"], spec=".3f"), *_cells(found["auc"], spec=".3f"))
    console.print(table)
    if prediction["without_scores"]:
        console.print(f"{prediction['without_scores']:,} pairs have no scores there.")


def _continuations(console: Console, continuations: list[Mapping[str, Any]]) -> None:
    for found in continuations:
        console.print(f"\nRow {found['row']}, ln π(chosen) {found['dlogp_chosen']:+.4g}", style="bold", markup=False)
        for name in ("prompt", "chosen", "rejected", "before", "after"):
            console.print(f"  {name:<9} {one_line(found[name], WIDTH)}", markup=False)


def _cells(found: Mapping[str, float | None], *, spec: str) -> tuple[str, str]:
    """A mean and its interval as text."""

    def shown(value: float | None) -> str:
        return "–" if value is None else format(value, spec)

    interval = "–" if found["low"] is None else f"{shown(found['low'])} … {shown(found['high'])}"
    return shown(found["value"]), interval


def _number(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _text(text: str, width: int) -> Any:
    from rich.text import Text

    return Text(one_line(text, width))
