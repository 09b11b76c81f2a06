"""What ``undertow compare`` prints: what moved between two models, on standard output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from undertow.cli.printing.common import print_report
from undertow.comparing.continuations import worst
from undertow.comparing.folder import read_comparison
from undertow.wording import comparison as words
from undertow.wording.numbers import counted, interval, number, percent, signed
from undertow.wording.visible import one_line, visible

SHOWN_PAIRS = 5
WIDTH = 300
TEXTS_SHOWN = ("prompt", "chosen", "rejected", "before", "after")


def print_compare(out: Path, summary: Mapping[str, Any], report: Path) -> None:
    """What moved: changed answers first, then means with intervals, masses, tokens, the worst pairs, predictions."""
    console = Console(highlight=False)
    data, before, after = summary["data"], summary["before"], summary["after"]
    head = f"{data['pairs']:,} pairs ({data['format']}): {visible(before['name'])} → {visible(after['name'])}"
    console.print(head, style="bold", markup=False, soft_wrap=True)
    how = f"on {after['device']} in {after['dtype']}; one row a pair in {visible(str(out))}/pairs.parquet"
    console.print(how, markup=False, soft_wrap=True)
    _say(console, f"\n{words.headline(summary)}")
    if not words.nothing_moved(summary):
        _moves(console, out, summary)
    if data["skipped"]:
        _say(console, f"{data['skipped']} rows were set aside: {visible(str(out))}/skipped.jsonl")
    print_report(console, report)


def _moves(console: Console, out: Path, summary: Mapping[str, Any]) -> None:
    answers = words.answers_first(summary["continuations"])
    changed = [one for one in answers if words.answer_changed(one)]
    if says := words.changed_answers(answers):
        _say(console, says)
        _continuations(console, changed)
    _means(console, summary["means"])
    _say(console, f"\nDisplacement: {words.verdict(summary)}")
    _masses(console, summary.get("masses"))
    _gained(console, summary["gained"], summary["data"]["pairs"] - summary["nonfinite"]["count"])
    _worst(console, out)
    if summary["prediction"]:
        _prediction(console, summary["prediction"])
    if sentences := words.calibration_says(summary):
        console.print("\nForecast and fact", style="italic", markup=False)
        for sentence in sentences:
            _say(console, sentence)
    _continuations(console, answers[len(changed) :])


def _means(console: Console, means: Mapping[str, Mapping[str, float | None]]) -> None:
    table = _table("\nMeans over the pairs", ("", "mean", "95% interval"))
    for name, meaning in words.MEANS.items():
        if name in words.SHARES:
            shown, low_high = percent(means[name]["value"]), interval(means[name], "percent")
        elif name.startswith("kl_"):
            shown, low_high = number(means[name]["value"]), interval(means[name])
        else:
            shown, low_high = signed(means[name]["value"]), interval(means[name], "signed")
        table.add_row(meaning, shown, low_high)
    console.print(table)


def _masses(console: Console, masses: Mapping[str, Any] | None) -> None:
    if not masses or not masses["prompts"]:
        return
    title = f"\nProbability on the {masses['responses']:,} responses listed, mean over {masses['prompts']:,} prompts"
    table = _table(title, ("", "before", "after", "change", "95% interval"))
    for name in words.shown_masses(masses):
        table.add_row(words.MASSES[name], *words.mass_cells(masses, name).values())
    console.print(table)
    _say(console, words.masses_says(masses))


def _gained(console: Console, gained: Sequence[Mapping[str, Any]], pairs: int) -> None:
    if not gained:
        return
    columns = ("token", "mean increase of probability", f"in the top 3 of {counted(pairs, 'pair')}")
    table = _table("\nTokens that gained most where the responses part", columns)
    for token in gained:
        cells = (number(token["mean_increase"]), f"{token['pairs_in_top']:,}")
        table.add_row(_text(repr(token["token"]), 24), *cells)
    console.print(table)


def _worst(console: Console, out: Path) -> None:
    """The pairs whose chosen response fell most, with the tokens that gained where the two part."""
    pairs, _ = read_comparison(out)
    shown = worst(pairs, SHOWN_PAIRS)
    if not shown:
        return
    names = ("dlogp_chosen", "dlogp_rejected")
    table = _table("\nPairs with the lowest change of ln π(chosen)", ("row", *names), wrap=False)
    table.add_column("gained", no_wrap=True)
    for pair in pairs.take(shown).to_pylist():
        moves = zip(pair["gained_tokens"] or (), pair["gained"] or (), strict=True)
        gained = ", ".join(f"{token!r} {change:+.2g}" for token, change in moves)
        table.add_row(str(pair["row"]), *(signed(pair[name]) for name in names), _text(gained, 40))
    console.print(table)


def _prediction(console: Console, prediction: Mapping[str, Any]) -> None:
    title = "\nThe audit's predictions against what happened (AUC of displaced)"
    table = _table(title, ("score", "Spearman", "95%", "AUC", "95%"), wrap=False)
    for name, found in prediction["predictors"].items():
        cells = (cell for one in (found["spearman"], found["auc"]) for cell in (number(one["value"]), interval(one)))
        table.add_row(f"{name} *" if words.is_baseline(found) else name, *cells)
    console.print(table)
    if any(map(words.is_baseline, prediction["predictors"].values())):
        _say(console, f"* {words.BASELINE}: known without an audit.")
    if prediction["without_scores"]:
        _say(console, f"{counted(prediction['without_scores'], 'pair has', 'pairs have')} no scores there.")


def _continuations(console: Console, continuations: Sequence[Mapping[str, Any]]) -> None:
    for found in continuations:
        change = signed(found["dlogp_chosen"])
        console.print(f"\nRow {found['row']}, ln π(chosen) {change}", style="bold", markup=False)
        for name in TEXTS_SHOWN:
            console.print(f"  {name:<9} {one_line(found[name], WIDTH)}", markup=False)


def _table(title: str, columns: Sequence[str], *, wrap: bool = True) -> Table:
    """A table whose first column is text and whose others are numbers."""
    table = Table(title=title, title_justify="left", show_edge=False)
    for place, name in enumerate(columns):
        right = place > 0 or name == "row"
        table.add_column(name, justify="right" if right else "left", no_wrap=not wrap)
    return table


def _say(console: Console, sentence: str) -> None:
    console.print(sentence, markup=False, soft_wrap=True)


def _text(text: str, width: int) -> Text:
    return Text(one_line(text, width))
