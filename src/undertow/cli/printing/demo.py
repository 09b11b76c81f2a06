"""The demo's audit on the terminal: its pairs with their text, and what kinds of pair rank where."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from rich.console import Console
from rich.table import Table

from undertow.cli.printing.audit import (
    print_cases,
    print_extremes,
    print_histogram,
    print_next,
    print_numbers,
    print_verdict,
)
from undertow.cli.printing.common import print_report
from undertow.data.reading import read_pairs
from undertow.data.sources.opening import open_source
from undertow.filtering.what_if import best_predictor
from undertow.scoring.columns import PREDICTORS
from undertow.scoring.folder import ScoreStore
from undertow.wording.numbers import typed

__all__ = ["print_demo"]

KIND_COLUMNS = ("pull", "dlogp_chosen", "ln_ches", "edit_distance")
"""Scores whose medians are shown for each kind of pair."""


def print_demo(out: Path, summary: Mapping[str, Any], report: Path) -> None:
    """The same for the demo's pairs, with their text and what kinds of pair rank where."""
    console, scores = Console(highlight=False), ScoreStore(out).read_parts()
    data = str(summary["arguments"]["data"])
    by = best_predictor(scores.column_names)
    print_verdict(console, summary, by)
    print_numbers(console, out, summary)
    print_cases(console, summary)
    print_extremes(console, scores, by, {pair.row: pair for pair in read_pairs(data)})
    _categories(console, scores, data)
    print_histogram(console, scores[by].to_numpy(), by)
    print_report(console, report)
    print_next(console, summary["arguments"], out, by)


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
        table.add_row(kind, str(int(np.sum(of_row == kind))), *map(typed, values))
    console.print(table)
