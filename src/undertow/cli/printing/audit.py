"""What an audit found, on the terminal: the verdict, quantiles, a histogram, the most and least displacing pairs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from rich.console import Console
from rich.table import Table
from rich.text import Text

from undertow.cli.printing.common import print_report, that_fit
from undertow.data.pairs import Pair
from undertow.filtering.what_if import MEASURES, best_predictor
from undertow.scoring.columns import PREDICTORS, shown_in
from undertow.scoring.folder import ScoreStore
from undertow.wording import repeats
from undertow.wording.commands import filter_command, forecast_command
from undertow.wording.names import CASE_LABELS
from undertow.wording.numbers import typed
from undertow.wording.verdicts import audit_verdict
from undertow.wording.visible import one_line, visible

__all__ = [
    "print_audit",
    "print_cases",
    "print_extremes",
    "print_histogram",
    "print_next",
    "print_numbers",
    "print_verdict",
]

BARS = 24
SHOWN_PAIRS = 5
TEXT_WIDTH = 36
"""Characters for a pair's numbers where its text stands beside them, so that both fit on 80 columns."""
QUANTILES = {"0": "min", "0.05": "5%", "0.5": "50%", "0.95": "95%", "1": "max"}


def print_audit(out: Path, summary: Mapping[str, Any], report: Path) -> None:
    """What an audit found: the verdict, counts, quantiles, a histogram, extremes, the page and the next command."""
    console, scores = Console(highlight=False), ScoreStore(out).read_parts()
    by = best_predictor(scores.column_names)
    print_verdict(console, summary, by)
    print_numbers(console, out, summary)
    _quantiles(console, summary["quantiles"])
    print_cases(console, summary)
    print_histogram(console, scores[by].to_numpy(), by)
    print_extremes(console, scores, by)
    if summary["data"]["skipped"]:
        console.print(
            f"{summary['data']['skipped']} rows were set aside: {visible(str(out))}/skipped.jsonl", markup=False
        )
    print_report(console, report)
    print_next(console, summary["arguments"], out, by)


def print_verdict(console: Console, summary: Mapping[str, Any], by: str) -> None:
    """The headline of the page, and the sentences after it."""
    found = audit_verdict(
        summary["data"]["pairs"], by=by, loss=summary["arguments"]["loss"], falling=summary.get("displaced") or {}
    )
    console.print(found.headline, style="bold", markup=False)
    console.print(" ".join(found.sentences) + "\n", markup=False)


def print_next(console: Console, arguments: Mapping[str, Any], out: Path, by: str) -> None:
    """The command to type next."""
    console.print("\nNext: leave out the pairs that displace most")
    console.print(f"  {visible(filter_command(arguments, out, by, '10'))}", markup=False, soft_wrap=True)
    console.print("Or first: what a whole run will do to each, in nats, and how many will fall")
    console.print(f"  {visible(forecast_command(arguments))}", markup=False, soft_wrap=True)


def print_histogram(console: Console, values: np.ndarray, name: str) -> None:
    """Counts of a score in equal bins between its 1% and 99% quantiles; what lies outside goes into the outer bins."""
    finite = values[np.isfinite(values)]
    if finite.size < 2 or np.ptp(finite) == 0:
        return
    low, high = np.quantile(finite, [0.01, 0.99]) if finite.size > 100 else (finite.min(), finite.max())
    counts, edges = np.histogram(np.clip(finite, low, high), bins=12, range=(low, high))
    console.print(f"\n[bold]{name}[/bold], pairs a bin")
    for count, left, right in zip(counts, edges[:-1], edges[1:], strict=True):
        bar = "█" * round(BARS * count / counts.max()) if count else ""
        console.print(f"  {left:>10.4g} … {right:<10.4g} {bar} {count}")


def print_extremes(console: Console, scores: pa.Table, by: str, pairs: Mapping[int, Pair] | None = None) -> None:
    """The pairs with the highest and the lowest score, with their text where it is at hand."""
    values = scores[by].to_numpy()
    order = np.argsort(values, kind="stable")
    order = order[np.isfinite(values[order])]
    count = min(SHOWN_PAIRS, len(order) // 2)
    if not count:
        return
    order = order if PREDICTORS[by] == "lowest" else order[::-1]
    # Where no chosen response falls, no pair is called displacing.
    none_falls = by in MEASURES.values() and not (values < 0).any()
    titles = (
        ("closest to displacing", "furthest from displacing")
        if none_falls
        else ("expected most displacing", "expected least displacing")
    )
    for title, chosen in zip(titles, (order[:count], order[::-1][:count]), strict=True):
        table = Table(title=f"{count} pairs {title}, by {by}", title_justify="left", show_edge=False)
        part = scores.take(pa.array(chosen))
        names = [name for name in dict.fromkeys(("row", by, *shown_in("worst"))) if name in part.column_names]
        cells = {name: [typed(value) for value in part[name].to_pylist()] for name in names}
        columns = that_fit(cells, TEXT_WIDTH if pairs else console.width)
        for name in columns:
            table.add_column(name, justify="right", no_wrap=True)
        if pairs:
            table.add_column("+ chosen / - rejected", no_wrap=True)
        for row, *values in zip(part["row"].to_pylist(), *columns.values(), strict=True):
            table.add_row(*values, *([_pair_text(pairs[row])] if pairs else []))
        console.print()
        console.print(table)


_CASES_OF = {"case": "unembedding", "free_case": "with free hidden embeddings", "full_case": "all parameters"}


def print_cases(console: Console, summary: Mapping[str, Any]) -> None:
    """What one step does to the two log-probabilities, to first order: how many pairs are of each case."""
    if "cases" not in summary:
        return
    table = Table(title="\nOne step on the pair alone, to first order", title_justify="left", show_edge=False)
    table.add_column("case")
    for name in summary["cases"]:
        table.add_column(_CASES_OF[name], justify="right")
    for code, meaning in CASE_LABELS.items():
        counts = [found.get(str(code), 0) for found in summary["cases"].values()]
        if any(counts):
            table.add_row(f"{code} {meaning}", *(f"{count:,}" for count in counts))
    console.print(table)


def print_numbers(console: Console, out: Path, summary: Mapping[str, Any]) -> None:
    """How many pairs were scored, with what, how fast, and where the scores are."""
    data, model, speed = summary["data"], summary["model"], summary["scoring"]
    text = f"{data['pairs']:,} pairs ({data['format']}) scored with {model['name']}"
    if "dtype" in model:
        text += f" on {model['device']} in {model['dtype']}, {model['attention']} attention"
    console.print(visible(text), markup=False, soft_wrap=True)
    console.print(
        f"{data['tokens']:,} tokens, {speed['seconds']:.1f} s of scoring ({speed['tokens_per_second']:,.0f} tokens/s); "
        f"{summary['truncated']} pairs truncated; "
        f"scores in {visible(str(out))}/scores",
        markup=False,
        soft_wrap=True,
    )
    # A folder of an earlier version, only read again, has neither.
    for name, said in (("duplicates", repeats.duplicates), ("contradictions", repeats.contradictions)):
        if name in summary and summary[name]["count"]:
            console.print(said(summary[name]), markup=False, soft_wrap=True)


def _pair_text(pair: Pair) -> Text:
    return Text(f"+ {one_line(pair.chosen, 40)}\n- {one_line(pair.rejected, 40)}")


def _quantiles(console: Console, quantiles: Mapping[str, Mapping[str, float] | None]) -> None:
    """The columns people look at; ``audit.json`` holds those of all."""
    table = Table(title="\nQuantiles", title_justify="left", show_edge=False)
    table.add_column("column", no_wrap=True)
    for title in QUANTILES.values():
        table.add_column(title, justify="right", no_wrap=True)
    for name in shown_in("quantiles"):
        values = quantiles.get(name)
        if values:
            table.add_row(name, *(typed(values[q]) for q in QUANTILES))
    console.print(table)
