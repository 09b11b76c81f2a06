"""Scores to a few numbers: quantiles and counts, computed in one place for ``audit.json`` and the terminal."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from undertow.filtering import what_if as whatif

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
SHOWN_ROWS = 10


def summarise(table: pa.Table) -> dict[str, Any]:
    """The part of ``audit.json`` that is computed from the scores."""
    numeric = [f.name for f in table.schema if pa.types.is_floating(f.type) or f.name.endswith("_tokens")]
    bad_rows = nonfinite_rows(table)
    exact = (
        {
            "cases": {
                name: case_counts(table[name])
                for name in ("case", "free_case", "full_case")
                if name in table.column_names
            },
            "displaced": whatif.displaced(table),
            "what_if": whatif.curves(table),
        }
        if "case" in table.column_names
        else {}
    )
    return {
        **exact,
        "quantiles": {name: quantiles(table[name]) for name in numeric},
        "truncated": pc.sum(table["truncated"]).as_py() or 0,
        "duplicates": linked_rows(table, "duplicate_of"),
        "contradictions": linked_rows(table, "contradicts"),
        "nonfinite": {"count": len(bad_rows), "rows": bad_rows[:SHOWN_ROWS].tolist()},
    }


def quantiles(values: pa.ChunkedArray) -> dict[str, float] | None:
    """Quantiles of the finite values, linear between neighbours; None where there are none."""
    numbers = values.to_numpy().astype(np.float64)
    finite = numbers[np.isfinite(numbers)]
    if not finite.size:
        return None
    return {f"{q:g}": float(value) for q, value in zip(QUANTILES, np.quantile(finite, QUANTILES), strict=True)}


def case_counts(cases: pa.ChunkedArray) -> dict[str, int]:
    """How many pairs are of each case, by its code; only cases that occur."""
    counts = {str(entry["values"]): int(entry["counts"]) for entry in pc.value_counts(cases).to_pylist()}
    return dict(sorted(counts.items(), key=lambda item: int(item[0])))


def linked_rows(table: pa.Table, name: str) -> dict[str, Any]:
    """How many rows point to another row in a column, and the first of them with that row: ``[row, other]``."""
    linked = table.select(["row", name]).filter(pc.is_valid(table[name]))
    first = linked.slice(0, SHOWN_ROWS)
    pairs = zip(first["row"].to_pylist(), first[name].to_pylist(), strict=True)
    return {"count": len(linked), "rows": [list(pair) for pair in pairs]}


def nonfinite_rows(table: pa.Table) -> np.ndarray:
    """Input rows with a score that is NaN or infinite: a model that overflowed there."""
    bad = np.zeros(len(table), dtype=bool)
    for field in table.schema:
        if pa.types.is_floating(field.type):
            bad |= ~np.isfinite(table[field.name].to_numpy())
    rows: np.ndarray = table["row"].to_numpy()[bad]
    return rows
