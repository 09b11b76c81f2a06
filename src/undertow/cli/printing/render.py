"""Scores on the terminal: a summary, a histogram, the most and least displacing pairs; on standard output."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from rich.console import Console
from rich.table import Table
from rich.text import Text

from undertow.cli.printing.terminal import one_line, plain
from undertow.data.pairs import Pair
from undertow.data.reading import read_pairs
from undertow.data.sources.opening import open_source
from undertow.files import without_nonfinite
from undertow.filtering.filter import FilterSummary
from undertow.filtering.what_if import PREDICTORS, best_predictor
from undertow.scoring.folder import ScoreStore
from undertow.wording.commands import filter_command

BARS = 24
SHOWN_PAIRS = 5
KIND_COLUMNS = ("dlogp_chosen", "ln_ches", "edit_distance")
LENGTHS = ("chosen_tokens", "rejected_tokens")
QUANTILES = {"0": "min", "0.05": "5%", "0.5": "50%", "0.95": "95%", "1": "max"}
QUANTILES_OF = (
    "prompt_tokens",
    *LENGTHS,
    "edit_distance",
    "ches",
    "ln_ches",
    "logp_chosen",
    "logp_rejected",
    "gg_cross",
    "alpha_positive",
    "dlogp_chosen",
    "dlogp_rejected",
    "pull_own",
    "pull_others",
)
CASES = {
    "1": "chosen up, rejected down",
    "2": "both down",
    "3": "both up",
    "4": "chosen down, rejected up",
    "0": "no gradient",
    "-1": "unknown: a number is not finite",
}


def print_audit(out: Path, summary: Mapping[str, Any], report: Path) -> None:
    """What an audit found: counts, quantiles, a histogram of the score to filter by, the page and the next command."""
    console, scores = Console(highlight=False), ScoreStore(out).read_parts()
    _head(console, out, summary)
    _quantiles(console, summary["quantiles"])
    _displacement(console, summary)
    by = best_predictor(scores.column_names)
    print_histogram(console, scores[by].to_numpy(), by)
    print_extremes(console, scores, by)
    if summary["data"]["skipped"]:
        console.print(
            f"{summary['data']['skipped']} rows were set aside: {plain(str(out))}/skipped.jsonl", markup=False
        )
    print_report(console, report)
    print_next(console, summary["arguments"], out, by)


def print_report(console: Console, report: Path) -> None:
    """Where the page stands."""
    console.print(f"\nReport: {plain(str(report))}", markup=False, soft_wrap=True)


def print_demo(out: Path, summary: Mapping[str, Any], report: Path) -> None:
    """The same for the demo's pairs, with their text and what kinds of pair rank where."""
    console, scores = Console(highlight=False), ScoreStore(out).read_parts()
    data = str(summary["arguments"]["data"])
    _head(console, out, summary)
    _displacement(console, summary)
    by = best_predictor(scores.column_names)
    print_extremes(console, scores, by, {pair.row: pair for pair in read_pairs(data)})
    _categories(console, scores, data)
    print_histogram(console, scores[by].to_numpy(), by)
    print_report(console, report)
    print_next(console, summary["arguments"], out, by)


def print_filter(out: Path, summary: FilterSummary) -> None:
    """What a filter kept and dropped."""
    console = Console(highlight=False, soft_wrap=True)
    for selector, count in summary.selectors.items():
        console.print(f"{selector} by {summary.by}: {count:,} pairs", markup=False)
    table = Table(show_edge=False)
    for name in ("", "rows", "tokens"):
        table.add_column(name, justify="right" if name else "left")
    table.add_row("kept", f"{summary.kept:,}", f"{summary.kept_tokens:,}")
    table.add_row("dropped", f"{summary.dropped:,}", f"{summary.dropped_tokens:,}")
    console.print(table)
    if summary.unscored:
        console.print(f"{summary.unscored:,} of the dropped rows have no score", markup=False)
    console.print(f"written: {plain(str(out))}", markup=False)


def print_train(out: Path, summary: Mapping[str, Any]) -> None:
    """What a training run came to: steps, loss, and where the probability of the probe set went."""
    console = Console(highlight=False, soft_wrap=True)
    console.print(
        f"{summary['steps']:,} steps on {summary['data']['trained']:,} pairs in {summary['seconds']:,.0f} s, mean loss "
        f"{summary['loss']:.4f}, peak memory {summary['peak_memory_mb'] or 0:,} MB; model in {plain(str(out))}/model",
        markup=False,
    )
    tracked = summary["tracked"]
    if not tracked:
        return
    table = Table(title=f"\nThe probe set at step {tracked['step']}", title_justify="left", show_edge=False)
    table.add_column("tracked")
    table.add_column("value", justify="right")
    for name, value in tracked.items():
        if isinstance(value, float):
            table.add_row(plain(name), _number(value))
    console.print(table)
    gained = [
        f"{one_line(repr(text), 20)} {gain:+.3f}"
        for text, gain in zip(tracked["gaining_tokens"], tracked["gaining"], strict=True)
        if gain > 0
    ]
    console.print(f"Gained most where the two responses part: {', '.join(gained) or 'no token'}", markup=False)


def print_sweep(out: Path, summary: Mapping[str, Any]) -> None:
    """The arms of a sweep side by side, on the probe set at the end."""
    console = Console(highlight=False)
    table = Table(title="Arms, on the probe set at the end", title_justify="left", show_edge=False)
    table.add_column("arm", no_wrap=True)
    for name in ("pairs", "displaced", "chosen", "rejected", "accuracy"):
        table.add_column(name, justify="right")
    table.add_column("gained")
    for arm in summary["arms"]:
        values = (arm[name] for name in ("displaced", "chosen_change", "rejected_change", "accuracy"))
        gained = ", ".join(one_line(repr(text), 12) for text in arm["gained"])
        table.add_row(plain(arm["arm"]), str(arm["pairs"]), *map(_number, values), gained)
    console.print(table)
    console.print(f"written: {plain(str(out))}/sweep.json", markup=False, soft_wrap=True)


def print_json(summary: Mapping[str, Any]) -> None:
    """The machine-readable summary: one line, the last of standard output."""
    print(json.dumps(without_nonfinite(summary), ensure_ascii=True, allow_nan=False), flush=True)


def print_next(console: Console, arguments: Mapping[str, Any], out: Path, by: str) -> None:
    """The command to type next."""
    console.print("\nNext: leave out the pairs that displace most")
    console.print(f"  {plain(filter_command(arguments, out, by, '10'))}", markup=False, soft_wrap=True)


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
    for title, chosen in (("most displacing", order[:count]), ("least displacing", order[::-1][:count])):
        table = Table(title=f"{count} pairs expected {title}, by {by}", title_justify="left", show_edge=False)
        # On a terminal of 80 columns there is room for the text or for the lengths.
        second = "case" if "case" in scores.schema.names else "edit_distance"
        wanted = ("row", by, "ln_ches") if pairs else ("row", by, second, "ln_ches", *LENGTHS)
        names = [name for name in dict.fromkeys(wanted) if name in scores.schema.names]
        for name in names:
            table.add_column(name, justify="right", no_wrap=True)
        if pairs:
            table.add_column("+ chosen / - rejected", no_wrap=True)
        for index in chosen:
            cells = [_number(scores[name][int(index)].as_py()) for name in names]
            row = scores["row"][int(index)].as_py()
            text = [_pair_text(pairs[row])] if pairs else []
            table.add_row(*cells, *text)
        console.print()
        console.print(table)


def _pair_text(pair: Pair) -> Text:
    return Text(f"+ {one_line(pair.chosen, 40)}\n- {one_line(pair.rejected, 40)}")


def _head(console: Console, out: Path, summary: Mapping[str, Any]) -> None:
    data, model, speed = summary["data"], summary["model"], summary["scoring"]
    text = f"{data['pairs']:,} pairs ({data['format']}) scored with {model['name']}"
    if "dtype" in model:
        text += f" on {model['device']} in {model['dtype']}, {model['attention']} attention"
    console.print(plain(text), style="bold", markup=False)
    console.print(
        f"{data['tokens']:,} tokens, {speed['seconds']:.1f} s of scoring ({speed['tokens_per_second']:,.0f} tokens/s); "
        f"{summary['truncated']} pairs truncated; "
        f"scores in {plain(str(out))}/scores",
        markup=False,
        soft_wrap=True,
    )


def _quantiles(console: Console, quantiles: Mapping[str, Mapping[str, float] | None]) -> None:
    """The columns people look at; ``audit.json`` holds those of all."""
    table = Table(title="\nQuantiles", title_justify="left", show_edge=False)
    table.add_column("column", no_wrap=True)
    for title in QUANTILES.values():
        table.add_column(title, justify="right", no_wrap=True)
    for name in QUANTILES_OF:
        values = quantiles.get(name)
        if values:
            table.add_row(name, *(_number(values[q]) for q in QUANTILES))
    console.print(table)


def _displacement(console: Console, summary: Mapping[str, Any]) -> None:
    """What one step does to the two log-probabilities, to first order: pairs of each case, and how many chosen fall."""
    if "cases" not in summary:
        return
    table = Table(title="\nOne step on the pair alone, to first order", title_justify="left", show_edge=False)
    for name, align in (("case", "left"), ("unembedding", "right"), ("with free hidden embeddings", "right")):
        table.add_column(name, justify=align)  # type: ignore[arg-type]
    own, free = summary["cases"]["case"], summary["cases"]["free_case"]
    for code, meaning in CASES.items():
        if code in own or code in free:
            table.add_row(f"{code} {meaning}", f"{own.get(code, 0):,}", f"{free.get(code, 0):,}")
    console.print(table)
    pairs, displaced = summary["data"]["pairs"], summary["displaced"]
    if "pull" in displaced:
        share = displaced["pull"] / pairs
        console.print(f"Under the whole data set's gradient {displaced['pull']:,} chosen responses fall ({share:.0%}).")


def _categories(console: Console, scores: pa.Table, data: str) -> None:
    """The median scores of each kind of demo pair, the most displacing kind first."""
    kinds = {raw.row: str(raw.value["category"]) for raw in open_source(data).rows() if raw.value}
    of_row = np.array([kinds[row] for row in scores["row"].to_pylist()])
    columns = [name for name in PREDICTORS if name in scores.column_names and name in KIND_COLUMNS]
    medians = {
        kind: [float(np.median(scores[name].to_numpy()[of_row == kind])) for name in columns] for kind in set(of_row)
    }
    sign = 1 if PREDICTORS[columns[0]] == "lowest" else -1
    table = Table(title="\nMedian scores by kind of pair", title_justify="left", show_edge=False)
    table.add_column("kind")
    for name in ("pairs", *columns):
        table.add_column(name, justify="right")
    for kind, values in sorted(medians.items(), key=lambda item: sign * item[1][0]):
        table.add_row(kind, str(int(np.sum(of_row == kind))), *map(_number, values))
    console.print(table)


def _number(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1e5 else f"{value:.3e}"
    return str(value)
